// The types that 16-bit and TF32 problems compute in: floats with faster activations. Exact float32 and float64
// problems compute in float and double with the accurate activations of cells/activations.h.
//
// FastFloat uses the fast exponential and reciprocal. sigmoid and tanh are within about 3e-7 absolutely, tanh near zero
// relatively too: orders below the rounding of factors and of what is stored.
// CoarseFloat uses the GPU's own tanh, whose relative error is at most 2^-11, and sigmoid(x) = tanh(x / 2) / 2 + 1 / 2,
// absolutely within 2^-12. That is a quarter of what rounding to bfloat16 may add, and half of the instructions.
#pragma once

#include "cells/cell_math.h"
#include "cuda/device.h"

namespace fused_rnn::cuda {

constexpr float kLog2E = 1.44269504088896341f;

// The functions are friends: cells find them by the type.
template <bool kCoarse>
struct RoughFloat {
  float value;

  RoughFloat() = default;
  FUSED_RNN_HD inline explicit RoughFloat(float x) : value(x) {}

  FUSED_RNN_HD inline friend float raw(RoughFloat x) { return x.value; }
  FUSED_RNN_HD inline friend RoughFloat operator+(RoughFloat a, RoughFloat b) { return RoughFloat(a.value + b.value); }
  FUSED_RNN_HD inline friend RoughFloat operator-(RoughFloat a, RoughFloat b) { return RoughFloat(a.value - b.value); }
  FUSED_RNN_HD inline friend RoughFloat operator*(RoughFloat a, RoughFloat b) { return RoughFloat(a.value * b.value); }
  FUSED_RNN_HD inline friend RoughFloat operator/(RoughFloat a, RoughFloat b) { return RoughFloat(a.value / b.value); }
  FUSED_RNN_HD inline friend RoughFloat operator-(RoughFloat a) { return RoughFloat(-a.value); }

  // exp2 overflows to infinity, whose reciprocal is 0: both tails are right, and a NaN stays.
  FUSED_RNN_HD inline friend RoughFloat sigmoid(RoughFloat x) {
    if constexpr (kCoarse) return RoughFloat(0.5f * coarse_tanh(0.5f * x.value) + 0.5f);
    return RoughFloat(fast_reciprocal(1.0f + fast_exp2(-kLog2E * x.value)));
  }
  FUSED_RNN_HD inline friend RoughFloat tanh(RoughFloat x) {
    if constexpr (kCoarse) return RoughFloat(coarse_tanh(x.value));
    const float large = 1.0f - 2.0f * fast_reciprocal(1.0f + fast_exp2(2.0f * kLog2E * x.value));
    // Near zero the difference has lost its digits; the next term of the series is 2 x^5 / 15.
    const float small = x.value - x.value * x.value * x.value * (1.0f / 3.0f);
    return RoughFloat(x.value < 0.02f && x.value > -0.02f ? small : large);
  }
  FUSED_RNN_HD inline friend RoughFloat relu(RoughFloat x) { return RoughFloat(x.value < 0.0f ? 0.0f : x.value); }
  FUSED_RNN_HD inline friend RoughFloat where_positive(RoughFloat y, RoughFloat d) {
    return RoughFloat(y.value <= 0.0f ? 0.0f : d.value);
  }

  // What a cell written in Python may compute besides: see cells/cell_math.h.
  FUSED_RNN_HD inline friend RoughFloat exponential(RoughFloat x) { return RoughFloat(fast_exp2(kLog2E * x.value)); }
  FUSED_RNN_HD inline friend RoughFloat log(RoughFloat x) { return RoughFloat(fused_rnn::log(x.value)); }
  FUSED_RNN_HD inline friend RoughFloat sqrt(RoughFloat x) { return RoughFloat(fused_rnn::sqrt(x.value)); }
  FUSED_RNN_HD inline friend RoughFloat abs(RoughFloat x) { return RoughFloat(fused_rnn::abs(x.value)); }
  FUSED_RNN_HD inline friend RoughFloat where_less(RoughFloat a, RoughFloat b, RoughFloat x, RoughFloat y) {
    return a.value < b.value ? x : y;
  }
  FUSED_RNN_HD inline friend RoughFloat where_less_equal(RoughFloat a, RoughFloat b, RoughFloat x, RoughFloat y) {
    return a.value <= b.value ? x : y;
  }
  FUSED_RNN_HD inline friend RoughFloat clip(RoughFloat x, RoughFloat limit) {
    return RoughFloat(fused_rnn::clip(x.value, limit.value));
  }
  FUSED_RNN_HD inline friend RoughFloat where_within(RoughFloat x, RoughFloat limit, RoughFloat d) {
    return RoughFloat(fused_rnn::where_within(x.value, limit.value, d.value));
  }
};
using FastFloat = RoughFloat<false>;
using CoarseFloat = RoughFloat<true>;

FUSED_RNN_HD inline float raw(float x) { return x; }
FUSED_RNN_HD inline double raw(double x) { return x; }

}  // namespace fused_rnn::cuda
