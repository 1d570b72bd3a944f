// Vectors of LANES floats, and rows of weights of each kind as such vectors.
//
// As all of a kernel it has internal linkage, and no library templates are instantiated: a function
// compiled for AVX-512 must not stand in for one of the rest of the program.
#pragma once

#include <cstring>

#include "forest.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace cmm {
namespace {

constexpr int kLanes = LANES;
constexpr int kUnits = 16 / kLanes;              // a unit: two vectors, 16 columns apart
constexpr int kTile = kLanes == 8 ? 2 : 4;       // tokens by three rows that registers hold
constexpr int kOutUnits = kLanes == 16 ? 2 : 1;  // units of output of four tokens
constexpr int kFew = 3;                          // tokens from which both children's rows are read
constexpr int kAhead = 4;                        // groups
constexpr int kTokensAhead = 8;                  // tokens that are new to a chunk
constexpr std::size_t kFetched = 512;            // bytes

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef float LooseVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef std::uint32_t LooseBits __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef signed char Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

#define INLINE inline __attribute__((always_inline))

INLINE Vec load(const float* at) { return *reinterpret_cast<const LooseVec*>(at); }
INLINE void store(float* at, Vec v) { *reinterpret_cast<LooseVec*>(at) = v; }
// Past the caches, a whole line at once, where there is such an instruction. `at` divides by 64.
INLINE void store_past(float* at, Vec v) {
#if LANES == 16
  _mm512_stream_ps(at, (__m512)v);
#else
  store(at, v);
#endif
}
INLINE void end_past() {  // others see what was written from here on
#if LANES == 16
  _mm_sfence();
#endif
}
INLINE Vec all(float value) { return Vec{} + value; }
INLINE Head head(const std::byte* record) {
  Head values;
  std::memcpy(&values, record, sizeof values);
  return values;
}

// A value that stays in its register. Compilers make operands in memory of what is used several
// times, and read it as often: a tile then takes as many loads as products.
template <bool WANTED>
INLINE Vec kept_if(Vec v) {
#if LANES == 16
  if (WANTED) __asm__("" : "+v"(v));
#elif defined(__x86_64__)
  if (WANTED) __asm__("" : "+x"(v));
#elif defined(__aarch64__)
  if (WANTED) __asm__("" : "+w"(v));
#endif
  return v;
}

// In one order for each number of lanes: halves onto halves.
INLINE float sum(Vec v) {
#if LANES == 16
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                                    _mm512_extractf32x8_ps((__m512)v, 1));
  typedef float Quarter __attribute__((vector_size(16)));
  const Quarter q =
      (Quarter)_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif LANES == 8
  typedef float Quarter __attribute__((vector_size(16)));
  Quarter quarters[2];
  std::memcpy(quarters, &v, sizeof v);
  const Quarter q = quarters[0] + quarters[1];
#else
  const Vec q = v;
#endif
  return (q[0] + q[2]) + (q[1] + q[3]);
}

// Four sums, each in the order of one.
INLINE void sum_four(Vec a, Vec b, Vec c, Vec d, float* sums) {
#if LANES == 16
  auto halves = [](Vec v, Vec w) __attribute__((always_inline)) {
    return _mm512_add_ps(_mm512_shuffle_f32x4((__m512)v, (__m512)w, 0x44),
                         _mm512_shuffle_f32x4((__m512)v, (__m512)w, 0xee));
  };
  const __m512 ab = halves(a, b), cd = halves(c, d);
  const __m512 q =
      _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  const __m512 two = _mm512_add_ps(q, _mm512_permute_ps(q, 0x4e));
  const __m512 one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
  _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one)));
#else
  const Vec all[] = {a, b, c, d};
  for (int k = 0; k < 4; ++k) sums[k] = sum(all[k]);
#endif
}

INLINE int column(int unit, int half) {
  return unit / kUnits * kBlock + unit % kUnits * kLanes + half * 16;
}

// Ask for the first lines of a row: the processor's own prefetcher goes on from there, and has more
// room for what is under way than instructions have.
INLINE void fetch(const std::byte* row, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes && at < kFetched; at += 64) __builtin_prefetch(row + at, 0, 2);
}

struct Fp32 {
  static constexpr std::size_t kUnitBytes = kBlock / kUnits * 4;
  static INLINE Vec at(const std::byte* row, int unit, int half) {
    return load(reinterpret_cast<const float*>(row) + column(unit, half));
  }
};

struct Bf16 {
  static constexpr std::size_t kUnitBytes = kBlock / kUnits * 2;
  static INLINE Vec at(const std::byte* row, int unit, int half) {
    const Bits pairs = *reinterpret_cast<const LooseBits*>(row + std::size_t(unit) * kLanes * 4);
    const Bits one = half ? (pairs & 0xffff0000u) : (pairs << 16);
    Vec v;
    std::memcpy(&v, &one, sizeof v);
    return v;
  }
};

struct Int8 {
  static constexpr std::size_t kUnitBytes = kBlock / kUnits * 1;
  static INLINE Vec at(const std::byte* row, int unit, int half) {
    const std::byte* from = row + column(unit, half);
#if LANES == 16  // the compiler widens bytes one by one
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
#elif LANES == 8
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#elif defined(__aarch64__)
    std::uint32_t bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    const int16x8_t wide = vmovl_s8(vcreate_s8(bytes));
    return (Vec)vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
#else
    const Bytes bytes = *reinterpret_cast<const Bytes*>(from);
    return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Vec);
#endif
  }
};

}  // namespace
}  // namespace cmm
