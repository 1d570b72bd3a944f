// Forest: packed trees of neurons, and what a kernel does with them.
//
// A record holds one neuron: a head of 64 bytes, the weights that it reads with, and those that it
// writes with, each row padded to 64 bytes. The records of a tree lie in preorder: below a node at
// place p of a level with S nodes in each child's subtree, the left child is at p + 1 and the right
// one at p + 1 + S. In rows of bf16, columns j and 16 + j of each block of 32 share four bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cmm {

enum class Weights : int { fp32 = 0, bf16 = 1, int8 = 2 };
enum class Activation : int { gelu = 0, gelu_tanh = 1, relu = 2, silu = 3 };

constexpr int kMaxLevels = 24;
constexpr int kBlock = 32;  // columns; widths are padded to a multiple

struct Head {
  float bias, in_scale, out_scale;
};
constexpr std::size_t kHead = 64;

struct Forest {
  const std::byte* records;
  const float* b_out;  // null: none
  int in, out;         // columns
  int levels, trees;
  Weights weights;
  Activation activation;

  int in_padded() const { return (in + kBlock - 1) / kBlock * kBlock; }
  int out_padded() const { return (out + kBlock - 1) / kBlock * kBlock; }
  std::size_t row_bytes(int columns) const {
    const std::size_t element = weights == Weights::fp32 ? 4 : weights == Weights::bf16 ? 2 : 1;
    return (columns * element + 63) / 64 * 64;
  }
  std::size_t out_at() const { return kHead + row_bytes(in_padded()); }
  std::size_t record() const { return out_at() + row_bytes(out_padded()); }
  std::uint32_t below(int level) const {  // nodes in the subtree of a node of this level
    return (1u << (levels - level)) - 1;
  }
  std::size_t nodes() const { return below(0); }
  const std::byte* tree(int number) const { return records + number * nodes() * record(); }
};

// Tokens on their way through one tree. All arrays are indexed by the token's number, except
// `order`, which lists the tokens of the chunk and ends sorted by leaf.
struct Group {
  std::uint32_t node;
  int begin, end;  // in `order`
};
struct Chunk {
  const std::byte* x;    // prepared rows
  std::size_t x_stride;  // bytes
  float* out;
  std::size_t out_stride;  // floats
  bool past;               // the caches: outputs are many, and each is written once
  float* logits;           // (tokens, levels)
  std::uint32_t* path;     // a bit for each level, 1: right; the last decision is the lowest
  int* order;
  int num;           // tokens in `order`
  int* spare;        // (4, num)
  Group* groups[2];  // num each
  float* hidden;     // (num, levels), and room for one vector more
};

// What each instruction set offers.
struct Kernels {
  // Whether rows of x can be read as they lie; otherwise `prepare` writes them anew.
  bool (*reads_as_is)(const Forest&);
  std::size_t (*prepared_stride)(const Forest&);
  void (*prepare)(const Forest&, const float* x, std::size_t stride, int num, std::byte* prepared);
  // One token through all trees. Scratch: none.
  void (*token)(const Forest&, const std::byte* x, float* out);
  // Tokens that stand at `node` of `level`, down to `stop`.
  void (*descend)(const Forest&, int tree, Chunk&, std::uint32_t node, int level, int stop);
  // The outputs of tokens that have been through all levels of a tree.
  void (*emit)(const Forest&, int tree, Chunk&);
};

}  // namespace cmm
