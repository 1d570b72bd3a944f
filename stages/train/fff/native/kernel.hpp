// The kernels of one instruction set. Each isa_*.cpp defines LANES and includes this once.
//
// A token's logits and outputs are summed in one fixed order, whatever it shares its tile with:
// results do not depend on the batch or on the number of threads, to the bit.
#include "descend.hpp"
#include "emit.hpp"
#include "prepare.hpp"

namespace cmm {
namespace {

template <class W>
void token(const Forest& f, const std::byte* x, float* out) {
  const std::size_t record = f.record(), read = f.out_at(), written = record - read;
  Soon none;
  for (int tree = 0; tree < f.trees; ++tree) {
    const std::byte* at = f.tree(tree);
    const std::byte* rows[1][kMaxLevels];
    alignas(64) float z[kMaxLevels + kLanes] = {};
    float weight[1][kMaxLevels];
    for (int l = 0; l < f.levels; ++l) {
      float one[1][1];
      const std::size_t size = l + 1 < f.levels ? f.below(l + 1) : 0;
      logits_of<W, 1, 1>(f, {x}, {at}, none, one);
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
    write_out<W, 1>(f, tree == 0, rows, weight, f.levels, none, false, {out});
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
