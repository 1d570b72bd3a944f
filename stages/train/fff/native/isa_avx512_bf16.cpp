#define LANES 16
#define KERNELS avx512_bf16
#include "kernel.hpp"
