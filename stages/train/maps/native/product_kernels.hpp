// Products of maps with their gradients, summed over pixels: the weight gradient of a 3x3 kernel.
// bf16 dot products take values in twos, and here these are the same pixel of two maps: a neighbour
// is then a step in memory for any stride, and no width has to divide.
#pragma once

#include "lanes.hpp"
#include "products.hpp"

namespace maps {
namespace {

constexpr int kHalves = kInputs / kLanes;
static_assert(kPaired == kLanes && kPaired == 4 * kOutputs, "a vector holds four groups");

#define FOR_UNROLLED(i, begin, end) _Pragma("GCC unroll 4") for (int i = begin; i < end; ++i)

struct Tile {
  Vec sums[kOutputs][kTaps][kHalves];
};

// One pixel's gradients with its neighbours in a row, from `first` to before `last`.
template <int first, int last>
INLINE void multiply_pixel(Tile& tile, const Bf16* neighbours, const Bf16* gradients) {
  __m512i gradient[kOutputs];
  FOR_UNROLLED(o, 0, kOutputs) {
    std::int32_t two;
    __builtin_memcpy(&two, gradients + 2 * o, sizeof two);
    gradient[o] = _mm512_set1_epi32(two);
    __asm__("" : "+v"(gradient[o]));  // kept in a register, not read again for each product
  }
  FOR_UNROLLED(tap, first, last) FOR_UNROLLED(half, 0, kHalves) {
    const Bf16* const at = neighbours + 2 * (tap * kInputs + half * kLanes);
    const __m512i inputs = _mm512_loadu_si512(at);
    FOR_UNROLLED(o, 0, kOutputs) {
      Vec& sum = tile.sums[o][tap][half];
      sum = (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)inputs, (__m512bh)gradient[o]);
    }
  }
}

// A row of gradients. Neighbours beyond a map's edge are left out: they are zeros.
template <std::size_t stride>
INLINE void multiply_row(Tile& tile, const Bf16* x, const Bf16* dy, std::size_t width) {
  constexpr std::size_t step = 2 * kInputs;  // from neighbour to neighbour
  const std::size_t columns = (width - 1) / stride + 1;
  const bool cut_off = (columns - 1) * stride + 1 == width;
  const Bf16* at = x - step;
  if (columns == 1 && cut_off) return multiply_pixel<1, 2>(tile, at, dy);
  multiply_pixel<1, 3>(tile, at, dy);
  std::size_t column = 1;
  for (; column < columns - cut_off; ++column)
    multiply_pixel<0, 3>(tile, at + column * stride * step, dy + column * 2 * kOutputs);
  if (cut_off) multiply_pixel<0, 2>(tile, at + column * stride * step, dy + column * 2 * kOutputs);
}

template <std::size_t stride>
INLINE Tile multiply_area(const Bf16* x, const Bf16* dy, Area area) {
  Tile tile{};
  for (std::size_t pair = 0; pair < area.pairs; ++pair)
    for (std::size_t row = 0; row < area.rows; ++row)
      multiply_row<stride>(tile, x + pair * area.x_pair + row * area.x_row,
                           dy + pair * area.dy_pair + row * area.dy_row, area.width);
  return tile;
}

void multiply(const Bf16* x, const Bf16* dy, Area area, std::size_t stride, float* totals,
              bool anew, Rounded rounded) {
  const Tile tile = stride == 1 ? multiply_area<1>(x, dy, area) : multiply_area<2>(x, dy, area);
  FOR_UNROLLED(o, 0, kOutputs) FOR_UNROLLED(tap, 0, kTaps) {
    FOR_UNROLLED(half, 0, kHalves) {
      float* const to = totals + (o * kTaps + tap) * kInputs + half * kLanes;
      Vec sum = tile.sums[o][tap][half];
      if (!anew) sum += load(to);
      if (rounded.to)
        store(rounded.to + o * rounded.output + tap * rounded.tap + half * kLanes, sum);
      else
        store(to, sum);
    }
  }
}

void add_up(const float* totals, std::size_t parts, std::size_t part, Rounded rounded) {
  for (int o = 0; o < kOutputs; ++o)
    for (int tap = 0; tap < kTaps; ++tap)
      for (int half = 0; half < kHalves; ++half) {
        const float* const from = totals + (o * kTaps + tap) * kInputs + half * kLanes;
        Vec sum = load(from);
        for (std::size_t each = 1; each < parts; ++each) sum += load(from + each * part);
        store(rounded.to + o * rounded.output + tap * rounded.tap + half * kLanes, sum);
      }
}

// 16 channels of both: first, second, first, ... No second: zeros.
INLINE __m512i in_twos(const Bf16* first, const Bf16* second) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)first));
  if (!second) return low;
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)second));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

void pair_inputs(Pair pair, std::size_t pixels, std::size_t channels, Bf16* to) {
  for (std::size_t pixel = 0; pixel < pixels; ++pixel, to += 2 * kInputs)
    FOR_UNROLLED(half, 0, kHalves) {
      const std::size_t at = pixel * channels + half * kLanes;
      const Bf16* const second = pair.second ? pair.second + at : nullptr;
      _mm512_storeu_si512(to + 2 * half * kLanes, in_twos(pair.first + at, second));
    }
}

void pair_gradients(Pair pair, std::size_t pixels, std::size_t channels, Bf16* to,
                    std::size_t group) {
  for (std::size_t channel = 0; channel < channels; channel += kPaired, to += 4 * group)
    for (std::size_t pixel = 0; pixel < pixels; ++pixel) {
      const std::size_t at = pixel * channels + channel;
      const __m512i twos = in_twos(pair.first + at, pair.second ? pair.second + at : nullptr);
      Bf16* const place = to + pixel * 2 * kOutputs;
      _mm_storeu_si128((__m128i*)place, _mm512_castsi512_si128(twos));
      _mm_storeu_si128((__m128i*)(place + group), _mm512_extracti32x4_epi32(twos, 1));
      _mm_storeu_si128((__m128i*)(place + 2 * group), _mm512_extracti32x4_epi32(twos, 2));
      _mm_storeu_si128((__m128i*)(place + 3 * group), _mm512_extracti32x4_epi32(twos, 3));
    }
}

constexpr Products kOurs = {pair_inputs, pair_gradients, multiply, add_up};
constexpr const Products* kProducts = &kOurs;

}  // namespace
}  // namespace maps
