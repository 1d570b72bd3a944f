// The weight gradient of a 3x3 convolution with padding 1, of maps in bf16.
//
// Sums are taken in fp32 over parts of the batch that do not depend on the number of threads, and
// put together in one order.
#pragma once

#include "products.hpp"

namespace maps {

struct Convolved {  // maps (N, height, width, inputs), gradients (N, height / stride, ..., outputs)
  std::size_t num, height, width, inputs, outputs, stride;

  std::size_t rows() const { return (height - 1) / stride + 1; }
  std::size_t columns() const { return (width - 1) / stride + 1; }
};

// dw (outputs, 3, 3, inputs). Inputs divide by kInputs, outputs by kPaired.
void weight_gradient(const Products& products, const Bf16* x, const Bf16* dy, Convolved shape,
                     int threads, Bf16* dw);

}  // namespace maps
