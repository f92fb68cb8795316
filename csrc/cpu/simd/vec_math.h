// exp, sigmoid, tanh and relu of a Vec, in float and double, from one argument reduction.
//
//   x = n ln 2 + r with |r| <= ln 2 / 2,   q(r) = e^r - 1 as a polynomial,   scale = 2^n
//   e^x = scale + scale q       e^x - 1 = scale q + (scale - 1)
//
// The second form keeps tanh exact near 0, where e^x - 1 would cancel. Largest errors seen over the ranges of
// tests/native/test_vec_math.cpp are asserted there.
#pragma once

#include "cpu/simd/vec.h"

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
  // (e^r - 1 - r) / r^2 with the least relative error of e^r, 3e-9; each rounded before those after it were fitted.
  static constexpr float kTerms[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558b0p-5f, 0x1.12399cp-7f, 0x1.6a4eccp-10f};
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
  // 1/2! ... 1/13!: the Taylor series of the same.
  static constexpr double kTerms[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                      1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                      1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

// terms[0] + terms[1] x + ...: neighbours are combined first, which halves the chain of Horner's rule, then these pairs
// by that rule, which needs no more powers than the square.
template <int Size, class V>
FUSED_RNN_INLINE V polynomial(const V (&terms)[Size], V x, V square) {
  const auto pair = [&](int i) FUSED_RNN_INLINE_LAMBDA {
    return i + 1 < Size ? multiply_add(terms[i + 1], x, terms[i]) : terms[i];
  };
  constexpr int kLast = (Size - 1) / 2 * 2;
  V sum = pair(kLast);
  for (int i = kLast - 2; i >= 0; i -= 2) sum = multiply_add(sum, square, pair(i));
  return sum;
}

template <class V>
struct ExpParts {
  V scale, q;
};

// Of e^-x, which is what both activations need; x must be within +-kLimit or NaN.
template <class Real, int Parts>
FUSED_RNN_INLINE ExpParts<Vec<Real, Parts>> exp_parts_of_minus(Vec<Real, Parts> x) {
  using K = MathConstants<Real>;
  using V = Vec<Real, Parts>;
  using Lanes = typename V::Lanes;
  using Ints = typename V::Ints;
  const V rounded = multiply_add(x, V(-K::kLog2E), V(K::kRound));
  const V n = rounded - V(K::kRound);
  const V r = multiply_add(n, V(-K::kLn2Low), multiply_add(n, V(-K::kLn2High), -x));
  // The low bits of `rounded` hold n; the bits of kRound above them vanish in the shift.
  const V scale = V::map(
      [](Lanes bits) { return reinterpret_cast<Lanes>((reinterpret_cast<Ints>(bits) + K::kBias) << K::kMantissaBits); },
      rounded);
  constexpr int kTerms = sizeof(K::kTerms) / sizeof(Real);
  V terms[kTerms];
  for (int i = 0; i < kTerms; ++i) terms[i] = V(K::kTerms[i]);
  const V square = r * r;
  return {scale, multiply_add(polynomial(terms, r, square), square, r)};
}

// Raises to at least, or lowers to at most, the limit; a NaN stays. In AVX-512 by instructions that give their second
// operand where one is a NaN, since gcc 12 makes a comparison and a selection of the conditional there.
template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> at_least(Vec<Real, Parts> x, Real limit) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == sizeof(float)) {
    return x.map([](auto a, auto b) { return FloatLanes(_mm512_maskz_max_ps(0xFFFF, b, a)); }, x,
                 Vec<Real, Parts>(limit));
  }
#endif
  return x.map([](auto a, auto b) { return a < b ? b : a; }, x, Vec<Real, Parts>(limit));
}
template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> at_most(Vec<Real, Parts> x, Real limit) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == sizeof(float)) {
    return x.map([](auto a, auto b) { return FloatLanes(_mm512_maskz_min_ps(0xFFFF, b, a)); }, x,
                 Vec<Real, Parts>(limit));
  }
#endif
  return x.map([](auto a, auto b) { return a > b ? b : a; }, x, Vec<Real, Parts>(limit));
}

// The same of any x.
template <class Real, int Parts>
FUSED_RNN_INLINE ExpParts<Vec<Real, Parts>> bounded_exp_parts_of_minus(Vec<Real, Parts> x) {
  constexpr Real kLimit = MathConstants<Real>::kLimit;
  return exp_parts_of_minus(at_least(at_most(x, kLimit), -kLimit));
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> exp(Vec<Real, Parts> x) {
  const auto e = bounded_exp_parts_of_minus(-x);
  return multiply_add(e.scale, e.q, e.scale);
}

// a / b for |b| in [2^-125, 2^126], or a NaN. Where a division of a whole vector is slow, an estimate of 1 / b with 14
// bits is corrected by the remainder, which leaves at most 0.57 units in the last place.
template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> quotient(Vec<Real, Parts> a, Vec<Real, Parts> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == sizeof(float)) {
    using V = Vec<Real, Parts>;
    // With a mask of all lanes, since gcc 12 warns of the undefined value in the plain form.
    const V inverse = V::map([](auto part) { return FloatLanes(_mm512_maskz_rcp14_ps(0xFFFF, part)); }, b);
    const V estimate = a * inverse;
    return multiply_add(multiply_add(-b, estimate, a), inverse, estimate);
  }
#endif
  return a / b;
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> sigmoid(Vec<Real, Parts> x) {
  const Vec<Real, Parts> one(1);
  const auto e = bounded_exp_parts_of_minus(x);
  return quotient(one, multiply_add(e.scale, e.q, one + e.scale));
}

// tanh |x| = -m / (2 + m) with m = e^(-2 |x|) - 1.
template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> tanh(Vec<Real, Parts> x) {
  using K = MathConstants<Real>;
  using V = Vec<Real, Parts>;
  using Lanes = typename V::Lanes;
  using Ints = typename V::Ints;
  const V size = V::map([](Lanes a) { return reinterpret_cast<Lanes>(reinterpret_cast<Ints>(a) & ~K::kSign); }, x);
  const auto e = exp_parts_of_minus(at_most(size + size, K::kLimit));
  const V m = multiply_add(e.scale, e.q, e.scale - V(1));
  const V magnitude = quotient(V(0) - m, V(2) + m);  // 0 - m, since -m would make a -0 of tanh(0)
  return V::map(
      [](Lanes a, Lanes sign) {
        return reinterpret_cast<Lanes>(reinterpret_cast<Ints>(a) | (reinterpret_cast<Ints>(sign) & K::kSign));
      },
      magnitude, x);
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> relu(Vec<Real, Parts> x) {
  return at_least(x, Real(0));
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> where_positive(Vec<Real, Parts> y, Vec<Real, Parts> d) {
  return y.map([](auto a, auto b, auto zero) { return a <= zero ? zero : b; }, y, d, Vec<Real, Parts>(0));
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> clip(Vec<Real, Parts> x, Vec<Real, Parts> limit) {
  return x.map([](auto a, auto most) { return a > most ? most : a < -most ? -most : a; }, x, limit);
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> where_within(Vec<Real, Parts> x, Vec<Real, Parts> limit, Vec<Real, Parts> d) {
  return x.map([](auto a, auto most, auto b, auto zero) { return a > most || a < -most ? zero : b; }, x, limit, d,
               Vec<Real, Parts>(0));
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
