// Soon: rows that are asked for from memory while others are worked with.
#pragma once

#include "vectors.hpp"

namespace cmm {
namespace {

// Bit by bit, and one row after the other: of many lines that are asked for at once, processors
// drop some (Zen 4) or let the work wait for them; and rows at random places are too short for the
// processor's own prefetcher to run ahead in them.
struct Soon {
  const std::byte* rows[4 * kMaxLevels];
  int num = 0;
  int row = 0;                  // that is asked for now
  std::size_t at = 0, due = 0;  // bytes

  INLINE void add(const std::byte* row) { rows[num++] = row; }
  INLINE void add_all(const Soon& others) {
    for (int k = 0; k < others.num; ++k) add(others.rows[k]);
  }
  // Ask for what is due of all rows while `bytes` of one of as many are read.
  INLINE void fetch(std::size_t bytes, std::size_t row_bytes) {
    for (due += num * bytes; due >= 64 && row < num; due -= 64) {
      __builtin_prefetch(rows[row] + at, 0, 2);
      at += 64;
      if (at < row_bytes) continue;
      at = 0;
      ++row;
    }
  }
};

}  // namespace
}  // namespace cmm
