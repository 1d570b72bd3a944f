#define LANES 16
#define KERNELS avx512
#include "kernel.hpp"
