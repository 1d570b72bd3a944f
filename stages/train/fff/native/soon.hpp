// Soon: rows that are asked for from memory while others are worked with.
#pragma once

#include "vectors.hpp"

namespace cmm {
namespace {

// Asked for bit by bit: at once, they would wait for each other, and so would the work.
struct Soon {
  const std::byte* rows[4 * kMaxLevels];
  int num = 0;

  INLINE void add(const std::byte* row) { rows[num++] = row; }
  INLINE void add_all(const Soon& others) {
    for (int k = 0; k < others.num; ++k) add(others.rows[k]);
  }
  INLINE void fetch(std::size_t begin, std::size_t end) const {
    for (int k = 0; k < num; ++k)
      for (std::size_t at = begin; at < end; at += 64) __builtin_prefetch(rows[k] + at, 0, 2);
  }
};

}  // namespace
}  // namespace cmm
