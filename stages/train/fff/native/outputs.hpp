// Outputs: sums over levels of the rows that the neurons on a few paths write with.
#pragma once

#include "soon.hpp"

namespace cmm {
namespace {

// Sums over levels, of T tokens and B units. The first `shared` levels have the same rows.
template <class W, int T, int B>
INLINE void accumulate(const std::byte* const (&rows)[T][kMaxLevels],
                       const float (&weight)[T][kMaxLevels], int unit, int shared, int levels,
                       Vec (&acc)[T][B][2]) {
  for (int l = 0; l < shared; ++l)
    for (int b = 0; b < B; ++b)
      for (int h = 0; h < 2; ++h) {
        const Vec w = W::at(rows[0][l], unit + b, h);
        for (int t = 0; t < T; ++t) acc[t][b][h] += w * weight[t][l];
      }
  for (int l = shared; l < levels; ++l)
    for (int t = 0; t < T; ++t)
      for (int b = 0; b < B; ++b)
        for (int h = 0; h < 2; ++h) acc[t][b][h] += W::at(rows[t][l], unit + b, h) * weight[t][l];
}

template <class W, int T, int B>
INLINE void write_units(const std::byte* const (&rows)[T][kMaxLevels],
                        const float (&weight)[T][kMaxLevels], int unit, int shared, int levels,
                        const float* const (&before)[T], bool past, float* const (&out)[T]) {
  Vec acc[T][B][2];
  for (int t = 0; t < T; ++t)
    for (int b = 0; b < B; ++b)
      for (int h = 0; h < 2; ++h)
        acc[t][b][h] = before[t] ? load(before[t] + column(unit + b, h)) : Vec{};
  accumulate<W, T, B>(rows, weight, unit, shared, levels, acc);
  for (int t = 0; t < T; ++t)
    for (int b = 0; b < B; ++b)
      for (int h = 0; h < 2; ++h) {
        float* const to = out[t] + column(unit + b, h);
        if (past)
          store_past(to, acc[t][b][h]);
        else
          store(to, acc[t][b][h]);
      }
}

template <class W, int T>
INLINE void write_out(const Forest& f, bool first, const std::byte* const (&rows)[T][kMaxLevels],
                      const float (&weight)[T][kMaxLevels], int shared, Soon& soon, bool past,
                      float* const (&out)[T]) {
  const int units = f.out / kBlock * kUnits, full = f.out / kBlock * kBlock;
  const float* before[T];
  for (int t = 0; t < T; ++t) before[t] = first ? f.b_out : out[t];
  int u = 0;
  for (; u + kOutUnits <= units; u += kOutUnits) {
    soon.fetch(kOutUnits * W::kUnitBytes, units * W::kUnitBytes);
    write_units<W, T, kOutUnits>(rows, weight, u, shared, f.levels, before, past, out);
  }
  for (; u < units; ++u) write_units<W, T, 1>(rows, weight, u, shared, f.levels, before, past, out);
  if (full == f.out) return;
  float ends[T][kBlock];  // the last columns, fewer than a block
  const float* ends_before[T];
  float* ends_out[T];
  const std::size_t left = (f.out - full) * sizeof(float);
  for (int t = 0; t < T; ++t) {
    std::memset(ends[t], 0, sizeof ends[t]);
    if (before[t]) std::memcpy(ends[t], before[t] + full, left);
    ends_before[t] = ends[t] - full;
    ends_out[t] = ends[t] - full;
  }
  for (int k = 0; k < kUnits; ++k)
    write_units<W, T, 1>(rows, weight, u + k, shared, f.levels, ends_before, false, ends_out);
  for (int t = 0; t < T; ++t) std::memcpy(out[t] + full, ends[t], left);
}

}  // namespace
}  // namespace cmm
