#define LANES 4
#define ISA plain
#define NAME "plain"
#include "isa.hpp"
