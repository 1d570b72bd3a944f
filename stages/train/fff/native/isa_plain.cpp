#define LANES 4
#define KERNELS plain
#include "kernel.hpp"
