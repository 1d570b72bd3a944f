// Activations of vectors.
#pragma once

#include "vectors.hpp"

namespace cmm {
namespace {

INLINE Vec exp_of(Vec x) {  // relative error 1e-7, after Cephes
  x = x > 88.0f ? all(88.0f) : x;
  x = x < -87.0f ? all(-87.0f) : x;
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const Vec n = shifted - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Bits power;
  std::memcpy(&power, &shifted, sizeof power);
  power = (power + 127u) << 23;
  Vec scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

INLINE Vec erf_of(Vec x) {  // absolute error 1.5e-7, Abramowitz & Stegun 7.1.26
  const Vec a = x < 0.0f ? -x : x;
  const Vec t = 1.0f / (1.0f + 0.3275911f * a);
  Vec p = 1.061405429f * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec y = 1.0f - p * t * exp_of(-a * a);
  return x < 0.0f ? -y : y;
}

INLINE Vec activated(Activation kind, Vec z) {
  switch (kind) {
    case Activation::gelu:
      return 0.5f * z * (1.0f + erf_of(z * 0.70710678f));
    case Activation::gelu_tanh: {
      const Vec u = 0.79788456f * (z + 0.044715f * z * z * z);
      return z * (1.0f - 1.0f / (exp_of(2.0f * u) + 1.0f));
    }
    case Activation::relu:
      return z < 0.0f ? Vec{} : z;
    case Activation::silu:
      return z / (1.0f + exp_of(-z));
  }
  return z;
}

}  // namespace
}  // namespace cmm
