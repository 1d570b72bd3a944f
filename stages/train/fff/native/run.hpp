// Run: which instruction sets this processor has, and all tokens through a forest with one of them.
#pragma once

#include <string>
#include <vector>

#include "forest.hpp"

namespace cmm {

struct Isa {
  const char* name;
  const Kernels* kernels;
};

// What this processor can run, best first; `plain` is always there.
const std::vector<Isa>& isas();

// out (n, forest.out) of x (n, forest.in), rows of floats `*_stride` floats apart.
void run(const Kernels& kernels, const Forest& forest, const float* x, std::size_t x_stride,
         float* out, std::size_t out_stride, int n, int threads);

}  // namespace cmm
