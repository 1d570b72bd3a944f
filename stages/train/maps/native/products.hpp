// Products of bf16 in twos, for the weight gradients of 3x3 kernels, as an instruction set has them.
#pragma once

#include <cstddef>

#include "kernels.hpp"

namespace maps {

constexpr int kTaps = 3;     // neighbours in a row, of those that a pixel of the output sees
constexpr int kOutputs = 4;  // channels of a tile
constexpr int kInputs = 32;
constexpr int kPaired = 16;  // channels of gradients that are put in pairs together

// The same part of two maps; no second: zeros in its place.
struct Pair {
  const Bf16 *first, *second;
};

// Rows of gradients in pairs of maps, and what these see of the maps; steps count values.
struct Area {
  std::size_t pairs, rows, width;  // width: of the maps
  std::size_t x_pair, x_row, dy_pair, dy_row;
};

// Where weight gradients go as bf16, with the steps from value to value; null: nowhere yet.
struct Rounded {
  Bf16* to;
  std::size_t output, tap;
};

struct Products {
  // (pixels, channels) of two maps to (pixels, kInputs, 2), from a channel on.
  void (*pair_inputs)(Pair pair, std::size_t pixels, std::size_t channels, Bf16* to);
  // (pixels, channels) of two maps to (channels / kOutputs, pixels, kOutputs, 2); group: the step
  // from one kOutputs channels to the next.
  void (*pair_gradients)(Pair pair, std::size_t pixels, std::size_t channels, Bf16* to,
                         std::size_t group);
  // Adds to totals (kOutputs, kTaps, kInputs), or begins them anew; rounded: what they come to
  // goes there instead. x: where the first row's first pixel has its middle neighbour.
  void (*multiply)(const Bf16* x, const Bf16* dy, Area area, std::size_t stride, float* totals,
                   bool anew, Rounded rounded);
  // The sum of totals that lie `part` apart.
  void (*add_up)(const float* totals, std::size_t parts, std::size_t part, Rounded rounded);
};

}  // namespace maps
