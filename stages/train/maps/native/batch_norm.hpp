// Batch norm in training, forward and backward, with or without a ReLU behind it.
//
// Sums are taken over pieces of rows and put together in one order, in double: results
// depend neither on the number of threads nor on the instruction set.
#pragma once

#include "kernels.hpp"

namespace maps {

// Where N maps of P pixels and C channels lie one behind the other, N P = pixels.
struct Extent {
  std::size_t pixels, channels;
};

// Pixels that make a row whose columns divide by kColumns; 0: these do not divide into such rows.
std::size_t pixels_in_a_row(Extent extent);

struct Layer {  // (C,) each; null: ones and zeros, and nothing to keep
  const float *weight, *bias;
  bool relu;
};

struct Running {  // (C,) each; null: not kept
  float *mean, *variance;
  float momentum;
};

struct Measured {  // (C,) each
  float *mean, *inverse;  // of the standard deviation
};

template <class T>
void forward(const Isa& isa, const T* x, Extent extent, Layer layer, float eps, Running running,
             int threads, T* y, Measured measured);

template <class T>
void backward(const Isa& isa, const T* x, const T* dy, Extent extent, Layer layer,
              Measured measured, int threads, T* dx, float* d_weight, float* d_bias);

}  // namespace maps
