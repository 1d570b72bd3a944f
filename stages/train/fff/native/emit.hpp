// Emit: the outputs of tokens that have been through all levels of a tree.
#pragma once

#include <cstring>

#include "activations.hpp"
#include "outputs.hpp"

namespace cmm {
namespace {

// The records along a token's path, whose last decision is not one between records.
INLINE void records_on(const Forest& f, const std::byte* records, std::uint32_t path,
                       const std::byte* (&at)[kMaxLevels]) {
  const std::size_t record = f.record();
  std::size_t node = 0;
  for (int l = 0; l < f.levels; ++l) {
    at[l] = records + node * record;
    if (l + 1 < f.levels) node += 1 + ((path >> (f.levels - 1 - l)) & 1) * std::size_t(f.below(l + 1));
  }
}

template <class W, int T>
INLINE void emit_tile(const Forest& f, bool first, const std::byte* records, Chunk& c, int i,
                      Soon& soon) {
  const std::byte* rows[T][kMaxLevels];
  float weight[T][kMaxLevels];
  float* out[T];
  for (int t = 0; t < T; ++t) {
    const int token = c.order[i + t];
    records_on(f, records, c.path[token], rows[t]);
    for (int l = 0; l < f.levels; ++l) {
      weight[t][l] = c.hidden[std::size_t(i + t) * f.levels + l];
      if (__is_same(W, Int8)) weight[t][l] *= head(rows[t][l]).out_scale;
      rows[t][l] += f.out_at();
    }
    out[t] = c.out + token * c.out_stride;
  }
  int shared = T == 1 ? f.levels : 0;
  if (T > 1)
    while (shared < f.levels && rows[0][shared] == rows[T - 1][shared]) ++shared;  // sorted by leaf
  write_out<W, T>(f, first, rows, weight, shared, soon, c.past, out);
}

template <class W>
void emit(const Forest& f, int tree, Chunk& c) {
  const std::byte* const records = f.tree(tree);
  for (int i = 0; i < c.num; ++i)
    std::memcpy(c.hidden + std::size_t(i) * f.levels, c.logits + std::size_t(c.order[i]) * f.levels,
                f.levels * sizeof(float));
  const std::size_t values = std::size_t(c.num) * f.levels;
  for (std::size_t k = 0; k < values; k += kLanes)
    store(c.hidden + k, activated(f.activation, load(c.hidden + k)));

  auto add_new = [&](int i, Soon& soon) {  // rows that the token before does not have
    if (i <= 0 || i >= c.num) return;
    const std::byte* at[kMaxLevels];
    const std::uint32_t path = c.path[c.order[i]], last = c.path[c.order[i - 1]];
    records_on(f, records, path, at);
    for (int l = f.levels - 1; l > 0 && (path ^ last) >> (f.levels - l); --l)
      soon.add(at[l] + f.out_at());
  };
  Soon none;
  int i = 0;
  for (; i + 4 <= c.num; i += 4) {
    Soon soon;
    for (int t = 4; t < 8; ++t) add_new(i + t, soon);
    emit_tile<W, 4>(f, tree == 0, records, c, i, soon);
  }
  for (; i < c.num; ++i) emit_tile<W, 1>(f, tree == 0, records, c, i, none);
  if (c.past) end_past();
}

}  // namespace
}  // namespace cmm
