#define LANES 16
#define ISA avx512
#define NAME "avx512"
#include "isa.hpp"
