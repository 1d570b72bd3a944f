// Logits: dot products of a few tokens with the rows that a few neurons read with.
#pragma once

#include "vectors.hpp"

namespace cmm {
namespace {

// Dot products of T tokens with R rows.
template <class W, int T, int R>
INLINE void dots(const std::byte* const (&x)[T], const std::byte* const (&rows)[R], int units,
                 float (&z)[T][R]) {
  Vec acc[T][R][2] = {};
  for (int u = 0; u < units; ++u)
    for (int h = 0; h < 2; ++h) {
      Vec w[R];
      for (int r = 0; r < R; ++r) w[r] = W::at(rows[r], u, h);
      for (int t = 0; t < T; ++t) {
        const Vec v = load(reinterpret_cast<const float*>(x[t]) + column(u, h));
        for (int r = 0; r < R; ++r) acc[t][r][h] += w[r] * v;
      }
    }
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) z[t][r] = sum(acc[t][r][0] + acc[t][r][1]);
}

#if defined(__AVX512BF16__)
// Pairs of bf16 in one instruction; x is prepared as pairs too.
struct Bf16Dot : Bf16 {};

template <int T, int R>
INLINE void pair_dots(const std::byte* const (&x)[T], const std::byte* const (&rows)[R], int units,
                      float (&z)[T][R]) {
  __m512 acc[T][R][2];
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) acc[t][r][0] = acc[t][r][1] = _mm512_setzero_ps();
  auto step = [&](int u, int a) __attribute__((always_inline)) {
    __m512bh w[R];
    for (int r = 0; r < R; ++r) w[r] = (__m512bh)_mm512_loadu_si512(rows[r] + u * 64);
    for (int t = 0; t < T; ++t) {
      const __m512bh v = (__m512bh)_mm512_loadu_si512(x[t] + u * 64);
      for (int r = 0; r < R; ++r) acc[t][r][a] = _mm512_dpbf16_ps(acc[t][r][a], v, w[r]);
    }
  };
  int u = 0;
  for (; u + 2 <= units; u += 2) {
    step(u, 0);
    step(u + 1, 1);
  }
  if (u < units) step(u, 0);
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) z[t][r] = sum((Vec)_mm512_add_ps(acc[t][r][0], acc[t][r][1]));
}
#define BF16 Bf16Dot
#else
#define BF16 Bf16
#endif

template <class W, int T, int R>
INLINE void logits_of(const Forest& f, const std::byte* const (&x)[T],
                      const std::byte* const (&records)[R], float (&z)[T][R]) {
  const int units = f.in_padded() / kBlock * kUnits;
  const std::byte* rows[R];
  for (int r = 0; r < R; ++r) rows[r] = records[r] + kHead;
#if defined(__AVX512BF16__)
  if constexpr (__is_same(W, Bf16Dot))
    pair_dots(x, rows, units, z);
  else
#endif
    dots<W>(x, rows, units, z);
  for (int r = 0; r < R; ++r) {
    const Head h = head(records[r]);
    for (int t = 0; t < T; ++t)
      z[t][r] = __is_same(W, Int8) ? z[t][r] * h.in_scale + h.bias : z[t][r] + h.bias;
  }
}

}  // namespace
}  // namespace cmm
