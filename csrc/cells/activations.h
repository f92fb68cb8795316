// The activations of the cells for plain scalars; SIMD types bring their own overloads, found by argument-dependent
// lookup.
#pragma once

#include <cmath>

#include "core/platform.h"

namespace fused_rnn {

FUSED_RNN_HD inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
FUSED_RNN_HD inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

FUSED_RNN_HD inline float tanh(float x) { return std::tanh(x); }
FUSED_RNN_HD inline double tanh(double x) { return std::tanh(x); }

// x < 0 ? 0 : x, so that a NaN stays a NaN.
FUSED_RNN_HD inline float relu(float x) { return x < 0.0f ? 0.0f : x; }
FUSED_RNN_HD inline double relu(double x) { return x < 0.0 ? 0.0 : x; }

// d where y > 0 (or is NaN), else 0: the derivative of relu, told from its result y.
FUSED_RNN_HD inline float where_positive(float y, float d) { return y <= 0.0f ? 0.0f : d; }
FUSED_RNN_HD inline double where_positive(double y, double d) { return y <= 0.0 ? 0.0 : d; }

// x, at most `limit` away from 0; a NaN stays a NaN.
FUSED_RNN_HD inline float clip(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }
FUSED_RNN_HD inline double clip(double x, double limit) { return x > limit ? limit : x < -limit ? -limit : x; }

// d where clip leaves x as it is, else 0: the derivative of clip.
FUSED_RNN_HD inline float where_within(float x, float limit, float d) { return x > limit || x < -limit ? 0.0f : d; }
FUSED_RNN_HD inline double where_within(double x, double limit, double d) { return x > limit || x < -limit ? 0.0 : d; }

}  // namespace fused_rnn
