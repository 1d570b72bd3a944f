// The kernels for feature maps in channels_last, as each instruction set has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace maps {

struct Bf16 {
  std::uint16_t bits;
};

constexpr int kColumns = 64;  // that columns of rows divide by
constexpr int kChannels = 16;  // that channels of pooled maps divide by
constexpr std::size_t kAlone = 1 << 17;  // values below which one thread is done before two are

// Rows of `columns` values: the channels of one pixel, or of several that lie side by side.
struct Rows {
  std::size_t begin, end, columns;
  std::size_t at_once;  // rows whose blocks of columns are taken in turns; no result depends on it
};

struct Affine {  // (columns,) each: y = x scale + shift
  const float *scale, *shift;
};

struct Pull {  // (columns,) each: dx = dy scale - x slope - offset
  const float *slope, *offset;
};

struct Sums {  // (columns,) each
  float *first, *second;
};

// Maps (N, height, width, channels), pooled in windows of high x wide that do not overlap.
struct Windows {
  std::size_t height, width, channels, high, wide;

  std::size_t rows() const { return height / high; }  // of the pooled map
  std::size_t columns() const { return width / wide; }
};

template <class T>
struct Kernels {
  // The mean, and the squared distances from it.
  void (*measure)(const T* x, Rows rows, Sums to);
  // x scale + shift, or 0 where that is less and a ReLU follows.
  void (*apply)(const T* x, Rows rows, Affine affine, bool relu, T* y);
  // The sums of dy and of dy (x - mean), where the ReLU let it through.
  void (*gather)(const T* x, const T* dy, Rows rows, Affine affine, const float* mean, bool relu,
                 Sums to);
  void (*pull)(const T* x, const T* dy, Rows rows, Affine affine, Pull pull, bool relu, T* dx);
  // Of pooled rows begin to end, counted over all maps: the largest values, and where they were.
  void (*pool)(const T* x, Windows windows, std::size_t begin, std::size_t end, T* y,
               std::uint8_t* places);
  void (*unpool)(const T* dy, const std::uint8_t* places, Windows windows, std::size_t begin,
                 std::size_t end, T* dx);
};

struct Products;  // products.hpp

struct Isa {
  const char* name;
  const Kernels<float>* fp32;
  const Kernels<Bf16>* bf16;
  const Products* products;  // of bf16; null: none
};

template <class T>
const Kernels<T>& of(const Isa& isa);
template <>
inline const Kernels<float>& of(const Isa& isa) { return *isa.fp32; }
template <>
inline const Kernels<Bf16>& of(const Isa& isa) { return *isa.bf16; }

template <class T>
const Products* products_of(const Isa&) { return nullptr; }
template <>
inline const Products* products_of<Bf16>(const Isa& isa) { return isa.products; }

}  // namespace maps
