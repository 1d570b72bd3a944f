#define LANES 8
#define ISA avx2
#define NAME "avx2"
#include "isa.hpp"
