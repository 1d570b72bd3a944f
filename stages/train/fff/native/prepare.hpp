// Prepare: rows of x as the dot products read them, padded, and for weights in bf16 rounded to it.
#pragma once

#include "vectors.hpp"

namespace cmm {
namespace {

INLINE Bits rounded(Bits bits) {  // floats to bf16, to nearest even, in the upper half
  const Bits nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Bits quiet = bits | 0x400000u;
  return ((bits & 0x7fffffffu) > 0x7f800000u ? quiet : nearest) & 0xffff0000u;
}

bool reads_as_is(const Forest& f) {
  return f.weights != Weights::bf16 && f.in == f.in_padded();
}

std::size_t prepared_stride(const Forest& f) {
#if defined(__AVX512BF16__)
  if (f.weights == Weights::bf16) return f.in_padded() * 2;
#endif
  return f.in_padded() * 4;
}

void prepare(const Forest& f, const float* x, std::size_t stride, int num, std::byte* prepared) {
  const int padded = f.in_padded();
  for (int i = 0; i < num; ++i, prepared += prepared_stride(f)) {
    const float* row = x + i * stride;
    if (f.weights != Weights::bf16) {
      std::memcpy(prepared, row, f.in * 4);
      std::memset(prepared + f.in * 4, 0, (padded - f.in) * 4);
      continue;
    }
    std::uint32_t* to = reinterpret_cast<std::uint32_t*>(prepared);
    for (int block = 0; block < padded; block += kBlock) {
      float end[kBlock] = {};
      const float* from = row + block;
      if (block + kBlock > f.in) {
        std::memcpy(end, from, (f.in - block) * 4);
        from = end;
      }
      for (int j = 0; j < 16; j += kLanes) {
        Bits low, high;
        std::memcpy(&low, from + j, sizeof low);
        std::memcpy(&high, from + 16 + j, sizeof high);
        low = rounded(low);
        high = rounded(high);
#if defined(__AVX512BF16__)  // pairs of columns, as rows of weights have them
        low = low >> 16 | high;
        std::memcpy(to + j, &low, sizeof low);
      }
      to += kBlock / 2;
#else
        std::memcpy(to + j, &low, sizeof low);
        std::memcpy(to + 16 + j, &high, sizeof high);
      }
      to += kBlock;
#endif
    }
  }
}

}  // namespace
}  // namespace cmm
