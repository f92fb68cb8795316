// What a cell written in Python may compute besides the activations: for plain scalars; SIMD types bring their own.
#pragma once

#include <cmath>
#include <limits>

#include "cells/activations.h"
#include "core/platform.h"

namespace fused_rnn {

// A number as a scalar, or in all lanes of a vector.
template <class V>
FUSED_RNN_HD inline V constant(double value) {
  if constexpr (requires { typename V::Scalar; }) {
    return V(static_cast<typename V::Scalar>(value));
  } else {
    return static_cast<V>(value);
  }
}

// Also beyond the range where the activations need it: up to infinity, and down to 0.
FUSED_RNN_HD inline float exponential(float x) { return std::exp(x); }
FUSED_RNN_HD inline double exponential(double x) { return std::exp(x); }

FUSED_RNN_HD inline float log(float x) { return std::log(x); }
FUSED_RNN_HD inline double log(double x) { return std::log(x); }

FUSED_RNN_HD inline float sqrt(float x) { return std::sqrt(x); }
FUSED_RNN_HD inline double sqrt(double x) { return std::sqrt(x); }

FUSED_RNN_HD inline float abs(float x) { return std::fabs(x); }
FUSED_RNN_HD inline double abs(double x) { return std::fabs(x); }

// A comparison with a NaN does not hold.
FUSED_RNN_HD inline float where_less(float a, float b, float x, float y) { return a < b ? x : y; }
FUSED_RNN_HD inline double where_less(double a, double b, double x, double y) { return a < b ? x : y; }

FUSED_RNN_HD inline float where_less_equal(float a, float b, float x, float y) { return a <= b ? x : y; }
FUSED_RNN_HD inline double where_less_equal(double a, double b, double x, double y) { return a <= b ? x : y; }

// A NaN on either side is the result.
template <class V>
FUSED_RNN_HD inline V maximum(const V& a, const V& b) {
  return where_less_equal(b, b, where_less(a, b, b, a), b);
}
template <class V>
FUSED_RNN_HD inline V minimum(const V& a, const V& b) {
  return where_less_equal(b, b, where_less(b, a, b, a), b);
}

// log(1 + e^x) = max(x, 0) + log(1 + u) with u = e^-|x|, where log(1 + u) = log(t) + (u - (t - 1)) / t corrects the
// rounding of t = 1 + u.
template <class V>
FUSED_RNN_HD inline V softplus(const V& x) {
  const V u = exponential(-abs(x));
  const V t = V(1) + u;
  return relu(x) + log(t) + (u - (t - V(1))) / t;
}

}  // namespace fused_rnn
