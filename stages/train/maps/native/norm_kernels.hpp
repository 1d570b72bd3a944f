// Batch norm's four passes over memory. Products are not fused into sums (CMakeLists.txt), so that
// every instruction set gives the same bits, and the backward pass the ReLU's own decisions.
#pragma once

#include "lanes.hpp"

namespace maps {
namespace {

constexpr int kVecs = 4;
constexpr int kBlock = kVecs * kLanes;  // columns whose sums registers hold
static_assert(kColumns % kBlock == 0, "columns divide into blocks");

#define FOR_VECS _Pragma("GCC unroll 4") for (int v = 0; v < kVecs; ++v)
// Some rows at a time, block by block.
#define FOR_TILES(rows)                                                                  \
  for (std::size_t first = rows.begin; first < rows.end; first += rows.at_once)          \
    for (std::size_t c = 0, last = least(first + rows.at_once, rows.end); c < rows.columns; \
         c += kBlock)
#define FOR_ROWS for (std::size_t r = first; r < last; ++r)

INLINE std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }

struct Block {
  Vec vecs[kVecs];

  INLINE Vec& operator[](int v) { return vecs[v]; }
};

template <class T>
INLINE Block block(const T* at) {
  Block b;
  FOR_VECS b[v] = load(at + v * kLanes);
  return b;
}

INLINE void put(float* at, Block b) { FOR_VECS store(at + v * kLanes, b[v]); }

// Sums of two kinds for a block, which go on from those of the rows before.
struct Totals {
  Block first, second;

  INLINE Totals(Sums from, std::size_t c, bool anew) : first{}, second{} {
    if (anew) return;
    first = block(from.first + c);
    second = block(from.second + c);
  }
  INLINE void put_to(Sums to, std::size_t c) {
    put(to.first + c, first);
    put(to.second + c, second);
  }
};

// Distances are taken from the first row and not from 0, so that squares do not cancel.
template <class T>
void measure(const T* x, Rows rows, Sums to) {
  const T* const origin = x + rows.begin * rows.columns;
  FOR_TILES(rows) {
    Block from = block(origin + c);
    Totals totals(to, c, first == rows.begin);
    FOR_ROWS FOR_VECS {
      const Vec off = load(x + r * rows.columns + c + v * kLanes) - from[v];
      totals.first[v] += off;
      totals.second[v] += off * off;
    }
    totals.put_to(to, c);
  }
  const float share = 1.0f / static_cast<float>(rows.end - rows.begin);
  for (std::size_t c = 0; c < rows.columns; c += kBlock) {
    Block from = block(origin + c);
    Totals totals(to, c, false);
    FOR_VECS {
      const Vec mean = totals.first[v] * share, left = totals.second[v] - totals.first[v] * mean;
      totals.first[v] = from[v] + mean;
      totals.second[v] = left < 0.0f ? Vec{} : left;
    }
    totals.put_to(to, c);
  }
}

template <class T, bool RELU>
INLINE void apply_as(const T* x, Rows rows, Affine a, T* y) {
  FOR_TILES(rows) {
    Block scale = block(a.scale + c), shift = block(a.shift + c);
    FOR_ROWS FOR_VECS {
      const std::size_t at = r * rows.columns + c + v * kLanes;
      const Vec out = load(x + at) * scale[v] + shift[v];
      store(y + at, RELU ? (out < 0.0f ? Vec{} : out) : out);  // NaN passes, as torch's ReLU has it
    }
  }
}

// What comes back through the ReLU: nothing where it gave nothing.
template <bool RELU>
INLINE Vec passed(Vec dy, Vec x, Vec scale, Vec shift) {
  return RELU ? (x * scale + shift <= 0.0f ? Vec{} : dy) : dy;
}

template <class T, bool RELU>
INLINE void gather_as(const T* x, const T* dy, Rows rows, Affine a, const float* means, Sums to) {
  FOR_TILES(rows) {
    Block scale = block(a.scale + c), shift = block(a.shift + c), mean = block(means + c);
    Totals totals(to, c, first == rows.begin);
    FOR_ROWS FOR_VECS {
      const std::size_t at = r * rows.columns + c + v * kLanes;
      const Vec xs = load(x + at);
      const Vec g = passed<RELU>(load(dy + at), xs, scale[v], shift[v]);
      totals.first[v] += g;
      totals.second[v] += g * (xs - mean[v]);
    }
    totals.put_to(to, c);
  }
}

template <class T, bool RELU>
INLINE void pull_as(const T* x, const T* dy, Rows rows, Affine a, Pull p, T* dx) {
  FOR_TILES(rows) {
    Block scale = block(a.scale + c), shift = block(a.shift + c);
    Block slope = block(p.slope + c), offset = block(p.offset + c);
    FOR_ROWS FOR_VECS {
      const std::size_t at = r * rows.columns + c + v * kLanes;
      const Vec xs = load(x + at);
      const Vec g = passed<RELU>(load(dy + at), xs, scale[v], shift[v]);
      store(dx + at, g * scale[v] - xs * slope[v] - offset[v]);
    }
  }
}

template <class T>
void apply(const T* x, Rows rows, Affine a, bool relu, T* y) {
  relu ? apply_as<T, true>(x, rows, a, y) : apply_as<T, false>(x, rows, a, y);
}

template <class T>
void gather(const T* x, const T* dy, Rows rows, Affine a, const float* mean, bool relu, Sums to) {
  relu ? gather_as<T, true>(x, dy, rows, a, mean, to)
       : gather_as<T, false>(x, dy, rows, a, mean, to);
}

template <class T>
void pull(const T* x, const T* dy, Rows rows, Affine a, Pull p, bool relu, T* dx) {
  relu ? pull_as<T, true>(x, dy, rows, a, p, dx) : pull_as<T, false>(x, dy, rows, a, p, dx);
}

}  // namespace
}  // namespace maps
