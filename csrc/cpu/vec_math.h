// exp, sigmoid, tanh and relu of a Vec, in float and double, from one argument reduction.
//
//   x = n ln 2 + r with |r| <= ln 2 / 2,   q(r) = e^r - 1 as a Taylor polynomial,   scale = 2^n
//   e^x = scale + scale q       e^x - 1 = scale q + (scale - 1)
//
// The second form keeps tanh exact near 0, where e^x - 1 would cancel. Largest errors seen over the ranges of
// tests/native/test_vec_math.cpp are asserted there.
#pragma once

#include "cpu/vec.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Real>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float kLog2E = 1.44269504088896341f;
  static constexpr float kLn2High = 0.693359375f;  // 9 bits: n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr float kLimit = 87.3f;        // keeps 2^n normal
  static constexpr int kMantissaBits = 23, kBias = 127;
  static constexpr int32_t kSign = INT32_MIN;
  // 1/7! ... 1/2!
  static constexpr float kTaylor[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2};
};

template <>
struct MathConstants<double> {
  static constexpr double kLog2E = 1.44269504088896340736;
  static constexpr double kLn2High = 0.693145751953125;  // 20 bits
  static constexpr double kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLimit = 708.0;
  static constexpr int kMantissaBits = 52, kBias = 1023;
  static constexpr int64_t kSign = INT64_MIN;
  // 1/13! ... 1/2!
  static constexpr double kTaylor[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                                       1.0 / 362880,     1.0 / 40320,     1.0 / 5040,     1.0 / 720,
                                       1.0 / 120,        1.0 / 24,        1.0 / 6,        1.0 / 2};
};

template <class Real>
struct ExpParts {
  Vec<Real> scale, q;
};

// x must be within +-kLimit or NaN.
template <class Real>
FUSED_RNN_INLINE ExpParts<Real> exp_parts(Vec<Real> x) {
  using K = MathConstants<Real>;
  using V = Vec<Real>;
  using Ints = typename V::Ints;
  const V rounded = x * V(K::kLog2E) + V(K::kRound);
  const V n = rounded - V(K::kRound);
  const V r = (x - n * V(K::kLn2High)) - n * V(K::kLn2Low);
  V p(K::kTaylor[0]);
#pragma GCC unroll 16
  for (int i = 1; i < static_cast<int>(sizeof(K::kTaylor) / sizeof(Real)); ++i) p = p * r + V(K::kTaylor[i]);
  // The low bits of `rounded` hold n; the bits of kRound above them vanish in the shift.
  const Ints exponent = (reinterpret_cast<Ints>(rounded.lanes) + K::kBias) << K::kMantissaBits;
  return {V(reinterpret_cast<typename V::Lanes>(exponent)), (p * r) * r + r};
}

// Clamps to [-limit, limit]; a NaN stays.
template <class Real>
FUSED_RNN_INLINE Vec<Real> clamp(Vec<Real> x, Real limit) {
  using V = Vec<Real>;
  const V high(limit), low(-limit);
  x = V(x.lanes > high.lanes ? high.lanes : x.lanes);
  return V(x.lanes < low.lanes ? low.lanes : x.lanes);
}

template <class Real>
FUSED_RNN_INLINE Vec<Real> exp(Vec<Real> x) {
  const ExpParts<Real> e = exp_parts(clamp(x, MathConstants<Real>::kLimit));
  return e.scale * e.q + e.scale;
}

template <class Real>
FUSED_RNN_INLINE Vec<Real> sigmoid(Vec<Real> x) {
  const Vec<Real> one(1);
  return one / (one + exp(-x));
}

// tanh |x| = -m / (2 + m) with m = e^(-2 |x|) - 1.
template <class Real>
FUSED_RNN_INLINE Vec<Real> tanh(Vec<Real> x) {
  using K = MathConstants<Real>;
  using V = Vec<Real>;
  using Ints = typename V::Ints;
  const Ints sign = reinterpret_cast<Ints>(x.lanes) & K::kSign;
  const Ints negative = reinterpret_cast<Ints>(x.lanes) | K::kSign;  // -|x|
  const V y = V(reinterpret_cast<typename V::Lanes>(negative));
  const ExpParts<Real> e = exp_parts(clamp(y + y, K::kLimit));
  const V m = e.scale * e.q + (e.scale - V(1));
  const V magnitude = -m / (V(2) + m);
  const Ints result = reinterpret_cast<Ints>(magnitude.lanes) | sign;
  return V(reinterpret_cast<typename V::Lanes>(result));
}

template <class Real>
FUSED_RNN_INLINE Vec<Real> relu(Vec<Real> x) {
  const Vec<Real> zero(0);
  return Vec<Real>(x.lanes < zero.lanes ? zero.lanes : x.lanes);
}

template <class Real>
FUSED_RNN_INLINE Vec<Real> where_positive(Vec<Real> y, Vec<Real> d) {
  const Vec<Real> zero(0);
  return Vec<Real>(y.lanes <= zero.lanes ? zero.lanes : d.lanes);
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
