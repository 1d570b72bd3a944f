// Logits: dot products of a few tokens with the rows that a few neurons read with.
#pragma once

#include "soon.hpp"

namespace cmm {
namespace {

// Sums of the lanes of accumulators, two of which hold one product each.
template <int T, int R>
INLINE void sum_tile(const Vec (&acc)[T][R][2], float (&z)[T][R]) {
  Vec both[T * R];
  float sums[T * R];
  for (int k = 0; k < T * R; ++k) both[k] = acc[k / R][k % R][0] + acc[k / R][k % R][1];
  int k = 0;
  for (; k + 4 <= T * R; k += 4)
    sum_four(both[k], both[k + 1], both[k + 2], both[k + 3], sums + k);
  for (; k < T * R; ++k) sums[k] = sum(both[k]);
  for (k = 0; k < T * R; ++k) z[k / R][k % R] = sums[k];
}

template <int T, int R>
INLINE void clear(Vec (&acc)[T][R][2]) {
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) acc[t][r][0] = acc[t][r][1] = Vec{};
}

// Dot products of T tokens with R rows.
template <class W, int T, int R>
INLINE void dots(const std::byte* const (&x)[T], const std::byte* const (&rows)[R], int units,
                 Soon& soon, float (&z)[T][R]) {
  Vec acc[T][R][2];
  clear(acc);
  int u = 0;
  do {  // there is one unit at least: accumulators need no place in memory
    soon.fetch(W::kUnitBytes, units * W::kUnitBytes);
    for (int h = 0; h < 2; ++h) {
      Vec w[R];
      for (int r = 0; r < R; ++r) w[r] = kept_if<(T > 1)>(W::at(rows[r], u, h));
      for (int t = 0; t < T; ++t) {
        const float* const from = reinterpret_cast<const float*>(x[t]) + column(u, h);
        const Vec v = kept_if<(R > 1)>(load(from));
        for (int r = 0; r < R; ++r) acc[t][r][h] += w[r] * v;
      }
    }
  } while (++u < units);
  sum_tile(acc, z);
}

#if defined(__AVX512BF16__)
// Pairs of bf16 in one instruction; x is prepared as pairs too.
struct Bf16Dot : Bf16 {};

template <int T, int R>
INLINE void pair_dots(const std::byte* const (&x)[T], const std::byte* const (&rows)[R], int units,
                      Soon& soon, float (&z)[T][R]) {
  Vec acc[T][R][2];
  clear(acc);
  auto step = [&](int u, int a) __attribute__((always_inline)) {
    auto pairs = [u](const std::byte* row) __attribute__((always_inline)) {
      return load(reinterpret_cast<const float*>(row + u * 64));
    };
    Vec w[R];
    for (int r = 0; r < R; ++r) w[r] = kept_if<(T > 1)>(pairs(rows[r]));
    for (int t = 0; t < T; ++t) {
      const Vec v = kept_if<(R > 1)>(pairs(x[t]));
      for (int r = 0; r < R; ++r)
        acc[t][r][a] = (Vec)_mm512_dpbf16_ps((__m512)acc[t][r][a], (__m512bh)v, (__m512bh)w[r]);
    }
  };
  int u = 0;
  for (; u + 2 <= units; u += 2) {
    soon.fetch(2 * Bf16::kUnitBytes, units * Bf16::kUnitBytes);
    step(u, 0);
    step(u + 1, 1);
  }
  if (u < units) step(u, 0);
  sum_tile(acc, z);
}
#define BF16 Bf16Dot
#else
#define BF16 Bf16
#endif

template <class W, int T, int R>
INLINE void logits_of(const Forest& f, const std::byte* const (&x)[T],
                      const std::byte* const (&records)[R], Soon& soon, float (&z)[T][R]) {
  const int units = f.in_padded() / kBlock * kUnits;
  const std::byte* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = records[r] + kHead;
#if defined(__AVX512BF16__)
  if constexpr (__is_same(W, Bf16Dot))
    pair_dots(x, rows, units, soon, z);
  else
#endif
    dots<W>(x, rows, units, soon, z);
  for (int r = 0; r < R; ++r) {
    const Head h = head(records[r]);
    for (int t = 0; t < T; ++t)
      z[t][r] = __is_same(W, Int8) ? z[t][r] * h.in_scale + h.bias : z[t][r] + h.bias;
  }
}

}  // namespace
}  // namespace cmm
