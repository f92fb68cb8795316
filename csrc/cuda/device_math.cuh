// The type that 16-bit and TF32 problems compute in: a float whose activations use the fast exponential and reciprocal.
//
// sigmoid and tanh are within about 3e-7 absolutely, tanh near zero relatively too: orders below the rounding of
// factors and of what is stored. Exact float32 and float64 problems compute in float and double with the accurate
// activations of cells/activations.h.
#pragma once

#include "cells/cell_math.h"
#include "cuda/device.h"

namespace fused_rnn::cuda {

struct FastFloat {
  float value;

  FastFloat() = default;
  FUSED_RNN_HD inline explicit FastFloat(float x) : value(x) {}

  FUSED_RNN_HD inline friend FastFloat operator+(FastFloat a, FastFloat b) { return FastFloat(a.value + b.value); }
  FUSED_RNN_HD inline friend FastFloat operator-(FastFloat a, FastFloat b) { return FastFloat(a.value - b.value); }
  FUSED_RNN_HD inline friend FastFloat operator*(FastFloat a, FastFloat b) { return FastFloat(a.value * b.value); }
  FUSED_RNN_HD inline friend FastFloat operator/(FastFloat a, FastFloat b) { return FastFloat(a.value / b.value); }
  FUSED_RNN_HD inline friend FastFloat operator-(FastFloat a) { return FastFloat(-a.value); }
};

FUSED_RNN_HD inline float raw(FastFloat x) { return x.value; }
FUSED_RNN_HD inline float raw(float x) { return x; }
FUSED_RNN_HD inline double raw(double x) { return x; }

constexpr float kLog2E = 1.44269504088896341f;

// exp2 overflows to infinity, whose reciprocal is 0: both tails are right, and a NaN stays.
FUSED_RNN_HD inline FastFloat sigmoid(FastFloat x) {
  return FastFloat(fast_reciprocal(1.0f + fast_exp2(-kLog2E * x.value)));
}
FUSED_RNN_HD inline FastFloat tanh(FastFloat x) {
  const float large = 1.0f - 2.0f * fast_reciprocal(1.0f + fast_exp2(2.0f * kLog2E * x.value));
  // Near zero the difference has lost its digits; the next term of the series is 2 x^5 / 15.
  const float small = x.value - x.value * x.value * x.value * (1.0f / 3.0f);
  return FastFloat(x.value < 0.02f && x.value > -0.02f ? small : large);
}
FUSED_RNN_HD inline FastFloat relu(FastFloat x) { return FastFloat(x.value < 0.0f ? 0.0f : x.value); }
FUSED_RNN_HD inline FastFloat where_positive(FastFloat y, FastFloat d) {
  return FastFloat(y.value <= 0.0f ? 0.0f : d.value);
}

// What a cell written in Python may compute besides: see cells/cell_math.h.
FUSED_RNN_HD inline FastFloat exponential(FastFloat x) { return FastFloat(fast_exp2(kLog2E * x.value)); }
FUSED_RNN_HD inline FastFloat log(FastFloat x) { return FastFloat(fused_rnn::log(x.value)); }
FUSED_RNN_HD inline FastFloat sqrt(FastFloat x) { return FastFloat(fused_rnn::sqrt(x.value)); }
FUSED_RNN_HD inline FastFloat abs(FastFloat x) { return FastFloat(fused_rnn::abs(x.value)); }
FUSED_RNN_HD inline FastFloat where_less(FastFloat a, FastFloat b, FastFloat x, FastFloat y) {
  return a.value < b.value ? x : y;
}
FUSED_RNN_HD inline FastFloat where_less_equal(FastFloat a, FastFloat b, FastFloat x, FastFloat y) {
  return a.value <= b.value ? x : y;
}

FUSED_RNN_HD inline FastFloat clip(FastFloat x, FastFloat limit) {
  return FastFloat(fused_rnn::clip(x.value, limit.value));
}
FUSED_RNN_HD inline FastFloat where_within(FastFloat x, FastFloat limit, FastFloat d) {
  return FastFloat(fused_rnn::where_within(x.value, limit.value, d.value));
}

}  // namespace fused_rnn::cuda
