// The functions of cells/cell_math.h for a Vec.
//
//   x = m 2^n with m in [sqrt(1/2), sqrt(2)),   s = (m - 1) / (m + 1),   log x = n ln 2 + 2 (s + s^3 / 3 + s^5 / 5 +
//   ...)
#pragma once

#include <limits>

#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> where_less(Vec<Real, Parts> a, Vec<Real, Parts> b, Vec<Real, Parts> x,
                                             Vec<Real, Parts> y) {
  return a.map([](auto l, auto r, auto one, auto other) { return l < r ? one : other; }, a, b, x, y);
}
template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> where_less_equal(Vec<Real, Parts> a, Vec<Real, Parts> b, Vec<Real, Parts> x,
                                                   Vec<Real, Parts> y) {
  return a.map([](auto l, auto r, auto one, auto other) { return l <= r ? one : other; }, a, b, x, y);
}

// e^x = (e^(x/2))^2, where exp is exact in all of the range that matters.
template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> exponential(Vec<Real, Parts> x) {
  const Vec<Real, Parts> root = exp(x * Vec<Real, Parts>(Real(0.5)));
  return root * root;
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> abs(Vec<Real, Parts> x) {
  using V = Vec<Real, Parts>;
  using Lanes = typename V::Lanes;
  using Ints = typename V::Ints;
  return V::map(
      [](Lanes a) { return reinterpret_cast<Lanes>(reinterpret_cast<Ints>(a) & ~MathConstants<Real>::kSign); }, x);
}

template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> sqrt(Vec<Real, Parts> x) {
  Vec<Real, Parts> result;
  for (int i = 0; i < Parts; ++i) {
#pragma GCC unroll 16
    for (int lane = 0; lane < Vec<Real>::kLanes; ++lane) result.parts[i][lane] = std::sqrt(x.parts[i][lane]);
  }
  return result;
}

// Of positive numbers, with at most 2 units in the last place; -infinity of 0, NaN below, infinity of itself.
template <class Real, int Parts>
FUSED_RNN_INLINE Vec<Real, Parts> log(Vec<Real, Parts> x) {
  using K = MathConstants<Real>;
  using V = Vec<Real, Parts>;
  using Lanes = typename V::Lanes;
  using Ints = typename V::Ints;
  constexpr Real kSmallest = std::numeric_limits<Real>::min(), kInfinity = std::numeric_limits<Real>::infinity();
  constexpr Real kScale = Real(int64_t(1) << (K::kMantissaBits + 1));
  constexpr int kTerms = sizeof(Real) == sizeof(float) ? 5 : 11;  // of z^k / (2 k + 1), where z <= 0.0295
  const V zero(0), one(1);
  const V normal = where_less(x, V(kSmallest), x * V(kScale), x);
  const V shift = where_less(x, V(kSmallest), V(Real(K::kMantissaBits + 1)), zero);
  // The exponent that leaves m in [sqrt(1/2), sqrt(2)): that of x over sqrt(1/2).
  constexpr auto kHalfRoot = sizeof(Real) == sizeof(float) ? int64_t(0x3f3504f3) : int64_t(0x3fe6a09e667f3bcd);
  using Int = std::remove_cvref_t<decltype(Ints{}[0])>;
  const V n = V::map(
      [](Lanes bits) {
        const Ints exponent = (reinterpret_cast<Ints>(bits) - static_cast<Int>(kHalfRoot)) >> K::kMantissaBits;
        return __builtin_convertvector(exponent, Lanes);
      },
      normal);
  const V m = V::map(
      [](Lanes bits) {
        const Ints offset = (reinterpret_cast<Ints>(bits) - static_cast<Int>(kHalfRoot)) >> K::kMantissaBits;
        return reinterpret_cast<Lanes>(reinterpret_cast<Ints>(bits) - (offset << K::kMantissaBits));
      },
      normal);
  const V s = (m - one) / (m + one);
  const V z = s * s;
  V sum = V(Real(1) / Real(2 * kTerms + 1));
#pragma GCC unroll 16
  for (int k = kTerms - 1; k >= 1; --k) sum = multiply_add(sum, z, V(Real(1) / Real(2 * k + 1)));
  const V two_s = s + s;
  const V exponent = n - shift;
  V result = multiply_add(exponent, V(K::kLn2High),
                          multiply_add(two_s * z, sum, multiply_add(exponent, V(K::kLn2Low), two_s)));
  result = where_less(V(std::numeric_limits<Real>::max()), x, x, result);  // infinity
  result = where_less(x, zero, V(std::numeric_limits<Real>::quiet_NaN()), result);
  result = where_less_equal(abs(x), zero, V(-kInfinity), result);
  return where_less_equal(x, x, result, x);  // a NaN stays
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
