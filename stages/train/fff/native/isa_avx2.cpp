#define LANES 8
#define KERNELS avx2
#include "kernel.hpp"
