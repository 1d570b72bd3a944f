// The kernels of one instruction set. Each isa_*.cpp defines LANES and includes this once.
//
// A token's logits and outputs are summed in one fixed order, whatever it shares its tile with:
// results do not depend on the batch or on the number of threads, to the bit.
#include "activations.hpp"
#include "dots.hpp"
#include "outputs.hpp"
#include "prepare.hpp"

namespace cmm {
namespace {

// --- the way down -----------------------------------------------------------------------------

template <class W, int T>
INLINE void step_one(const Forest& f, Chunk& c, const int* tokens, const std::byte* record,
                     int level) {
  const std::byte* x[T];
  float z[T][1];
  for (int t = 0; t < T; ++t) x[t] = c.x + tokens[t] * c.x_stride;
  logits_of<W, T, 1>(f, x, {record}, z);
  for (int t = 0; t < T; ++t) {
    c.logits[std::size_t(tokens[t]) * f.levels + level] = z[t][0];
    c.path[tokens[t]] = c.path[tokens[t]] * 2 + (z[t][0] > 0.0f);
  }
}

// Two levels at once: a tile reads both children's rows and keeps what each token needs.
template <class W, int T>
INLINE void step_two(const Forest& f, Chunk& c, const int* tokens, const std::byte* const (&at)[3],
                     int level) {
  const std::byte* x[T];
  float z[T][3];
  for (int t = 0; t < T; ++t) x[t] = c.x + tokens[t] * c.x_stride;
  logits_of<W, T, 3>(f, x, at, z);
  for (int t = 0; t < T; ++t) {
    float* logits = c.logits + std::size_t(tokens[t]) * f.levels + level;
    const bool right = z[t][0] > 0.0f;
    logits[0] = z[t][0];
    logits[1] = right ? z[t][2] : z[t][1];
    c.path[tokens[t]] = c.path[tokens[t]] * 4 + right * 2 + (logits[1] > 0.0f);
  }
}

// Sort a group by its last decisions, and append what is left of it to `next`.
INLINE int split(const Forest& f, Chunk& c, const Group& group, int level, int steps, Group* next) {
  int* tokens = c.order + group.begin;
  const int num = group.end - group.begin, ways = 1 << steps;
  int count[4] = {};
  for (int i = 0; i < num; ++i) {
    const int way = c.path[tokens[i]] & (ways - 1);
    c.spare[way * c.num + count[way]++] = tokens[i];
  }
  int made = 0, begin = group.begin;
  for (int way = 0; way < ways; ++way) {
    if (!count[way]) continue;
    std::memcpy(c.order + begin, c.spare + way * c.num, count[way] * sizeof(int));
    const std::uint32_t size = level + 1 < f.levels ? f.below(level + 1) : 0;
    std::uint32_t node = group.node;
    if (steps == 1) {
      node += 1 + (way ? size : 0);
    } else {
      node += 1 + (way & 2 ? size : 0);
      node += 1 + (way & 1 && level + 2 < f.levels ? f.below(level + 2) : 0);
    }
    next[made++] = {node, begin, begin + count[way]};
    begin += count[way];
  }
  return made;
}

template <class W>
void descend(const Forest& f, int tree, Chunk& c, std::uint32_t node, int level, int stop) {
  const std::byte* const records = f.tree(tree);
  const std::size_t record = f.record(), read = f.out_at();
  Group *now = c.groups[0], *next = c.groups[1];
  int groups = c.num ? 1 : 0;
  now[0] = {node, 0, c.num};
  while (level < stop && groups) {
    const int steps = stop - level >= 2 ? 2 : 1;
    const std::uint32_t size = level + 1 < f.levels ? f.below(level + 1) : 0;
    auto is_tiled = [&](const Group& g) { return steps == 2 && g.end - g.begin >= kFew; };
    for (int k = 0; k < groups; ++k) {
      if (k + kAhead < groups) {
        const Group& soon = now[k + kAhead];
        fetch(records + soon.node * record, read);
        if (is_tiled(soon)) {
          fetch(records + (soon.node + 1) * record, read);
          fetch(records + (soon.node + 1 + size) * record, read);
        }
      }
      const Group& g = now[k];
      const std::byte* at = records + g.node * record;
      int i = g.begin;
      if (is_tiled(g)) {
        const std::byte* const three[3] = {at, at + record, at + (1 + size) * record};
        for (; i + kTile <= g.end; i += kTile)
          step_two<W, kTile>(f, c, c.order + i, three, level);
        if constexpr (kTile == 4)
          if (i + 2 <= g.end) {
            step_two<W, 2>(f, c, c.order + i, three, level);
            i += 2;
          }
        if (i < g.end) step_two<W, 1>(f, c, c.order + i, three, level);
      } else {
        for (; i + 4 <= g.end; i += 4) step_one<W, 4>(f, c, c.order + i, at, level);
        for (; i < g.end; ++i) step_one<W, 1>(f, c, c.order + i, at, level);
      }
    }
    if (steps == 2) {  // those who went one step only go another
      auto child = [&](const Group& g, int i) {
        const bool right = c.path[c.order[i]] & 1;
        return records + (g.node + 1 + (right ? size : 0)) * record;
      };
      for (int k = 0; k < groups; ++k) {
        if (k + kAhead < groups && !is_tiled(now[k + kAhead]))
          for (int i = now[k + kAhead].begin; i < now[k + kAhead].end; ++i)
            fetch(child(now[k + kAhead], i), read);
        if (is_tiled(now[k])) continue;
        for (int i = now[k].begin; i < now[k].end; ++i)
          step_one<W, 1>(f, c, c.order + i, child(now[k], i), level + 1);
      }
    }
    int made = 0;
    for (int k = 0; k < groups; ++k) made += split(f, c, now[k], level, steps, next + made);
    Group* const swap = now;
    now = next;
    next = swap;
    groups = made;
    level += steps;
  }
}

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
INLINE void emit_tile(const Forest& f, bool first, const std::byte* records, Chunk& c, int i) {
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
  write_out<W, T>(f, first, rows, weight, shared, out);
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
  const std::size_t written = f.record() - f.out_at();
  auto fetch_new = [&](int i) {  // rows that the token before does not have
    if (i <= 0 || i >= c.num) return;
    const std::byte* at[kMaxLevels];
    const std::uint32_t path = c.path[c.order[i]], last = c.path[c.order[i - 1]];
    records_on(f, records, path, at);
    for (int l = f.levels - 1; l > 0 && (path ^ last) >> (f.levels - l); --l)
      fetch(at[l] + f.out_at(), written);
  };
  int i = 0;
  for (; i + 4 <= c.num; i += 4) {
    for (int t = 4; t < 8; ++t) fetch_new(i + t);
    emit_tile<W, 4>(f, tree == 0, records, c, i);
  }
  for (; i < c.num; ++i) emit_tile<W, 1>(f, tree == 0, records, c, i);
}

template <class W>
void token(const Forest& f, const std::byte* x, float* out) {
  const std::size_t record = f.record(), read = f.out_at(), written = record - read;
  for (int tree = 0; tree < f.trees; ++tree) {
    const std::byte* at = f.tree(tree);
    const std::byte* rows[1][kMaxLevels];
    alignas(64) float z[kMaxLevels + kLanes] = {};
    float weight[1][kMaxLevels];
    for (int l = 0; l < f.levels; ++l) {
      float one[1][1];
      const std::size_t size = l + 1 < f.levels ? f.below(l + 1) : 0;
      logits_of<W, 1, 1>(f, {x}, {at}, one);
      fetch(at + read, written);  // needed later than the next row to read, so asked for behind it
      z[l] = one[0][0];
      rows[0][l] = at;
      at += record * (1 + (z[l] > 0.0f ? size : 0));
    }
    for (int k = 0; k < f.levels; k += kLanes)
      store(z + k, activated(f.activation, load(z + k)));
    for (int l = 0; l < f.levels; ++l) {
      weight[0][l] = z[l];
      if (__is_same(W, Int8)) weight[0][l] *= head(rows[0][l]).out_scale;
      rows[0][l] += read;
    }
    write_out<W, 1>(f, tree == 0, rows, weight, f.levels, {out});
  }
}

// --- choosing the kind of weights ---------------------------------------------------------------

void any_token(const Forest& f, const std::byte* x, float* out) {
  switch (f.weights) {
    case Weights::fp32: return token<Fp32>(f, x, out);
    case Weights::bf16: return token<BF16>(f, x, out);
    case Weights::int8: return token<Int8>(f, x, out);
  }
}

void any_descend(const Forest& f, int tree, Chunk& c, std::uint32_t node, int level, int stop) {
  switch (f.weights) {
    case Weights::fp32: return descend<Fp32>(f, tree, c, node, level, stop);
    case Weights::bf16: return descend<BF16>(f, tree, c, node, level, stop);
    case Weights::int8: return descend<Int8>(f, tree, c, node, level, stop);
  }
}

void any_emit(const Forest& f, int tree, Chunk& c) {
  switch (f.weights) {
    case Weights::fp32: return emit<Fp32>(f, tree, c);
    case Weights::bf16: return emit<Bf16>(f, tree, c);
    case Weights::int8: return emit<Int8>(f, tree, c);
  }
}

}  // namespace

extern const Kernels KERNELS;
const Kernels KERNELS = {reads_as_is, prepared_stride, prepare, any_token, any_descend, any_emit};

}  // namespace cmm
