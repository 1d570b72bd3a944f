#define LANES 16
#define ISA avx512_bf16
#define NAME "avx512_bf16"
#include "isa.hpp"
