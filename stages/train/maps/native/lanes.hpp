// Vectors of LANES floats, read from and written to rows of fp32 or bf16.
//
// As all of a kernel it has internal linkage, and no library templates are instantiated: a function
// compiled for AVX-512 must not stand in for one of the rest of the program.
#pragma once

#include "kernels.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace maps {
namespace {

constexpr int kLanes = LANES;

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef std::uint8_t Bytes __attribute__((vector_size(kLanes)));
typedef float LooseVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef std::uint16_t LooseHalves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
typedef std::uint8_t LooseBytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

#define INLINE inline __attribute__((always_inline))

INLINE Vec load(const float* at) { return *reinterpret_cast<const LooseVec*>(at); }
INLINE void store(float* at, Vec v) { *reinterpret_cast<LooseVec*>(at) = v; }

// Written out where compilers would widen and narrow values one by one.
INLINE Vec load(const Bf16* at) {
#if LANES == 16
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)at));
  return (Vec)_mm512_slli_epi32(wide, 16);
#elif LANES == 8
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)at));
  return (Vec)_mm256_slli_epi32(wide, 16);
#else
  const Halves halves = *reinterpret_cast<const LooseHalves*>(at);
  return (Vec)(__builtin_convertvector(halves, Bits) << 16);
#endif
}

// To the nearest, ties to even, as torch rounds. What is not a number stays so: processors make it,
// and bf16 has it, without the last bits that would carry over.
INLINE void store(Bf16* at, Vec v) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256((__m256i*)at, (__m256i)_mm512_cvtneps_pbh((__m512)v));
  return;
#endif
  const Bits bits = (Bits)v;
  const Bits found = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#if LANES == 16
  _mm256_storeu_si256((__m256i*)at, _mm512_cvtepi32_epi16((__m512i)found));
#elif LANES == 8
  const __m256i packed = _mm256_packus_epi32((__m256i)found, (__m256i)found);
  _mm_storeu_si128((__m128i*)at, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  *reinterpret_cast<LooseHalves*>(at) = __builtin_convertvector(found, Halves);
#endif
}

INLINE Ints load(const std::uint8_t* at) {
#if LANES == 16
  return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)at));
#elif LANES == 8
  return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)at));
#else
  const Bytes bytes = *reinterpret_cast<const LooseBytes*>(at);
  return __builtin_convertvector(bytes, Ints);
#endif
}

INLINE void store(std::uint8_t* at, Ints v) {
#if LANES == 16
  _mm_storeu_si128((__m128i*)at, _mm512_cvtepi32_epi8((__m512i)v));
#else
  *reinterpret_cast<LooseBytes*>(at) = __builtin_convertvector(v, Bytes);
#endif
}

}  // namespace
}  // namespace maps
