// Layer norms over the units of one row: the sums over all of them, and the gradient.
//
// A norm maps the values v of n units (of one or several gates) to gain v_hat + bias with
//   v_hat = (v - mean) scale,   scale = 1 / sqrt(mean of (v - mean)^2 + epsilon).
// With g = d_result gain its gradient is d_v = scale (g - mean(g) - v_hat mean(g v_hat)).
#pragma once

#include <cmath>

#include "cells/cell.h"
#include "core/problem.h"
#include "cpu/pass/row_units.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// The norm that joins a gate with others; 0 for the cells that have none, whose schedules call it in vain.
template <class Cell>
constexpr int norm_group([[maybe_unused]] int gate) {
  if constexpr (Cell::kNormGroups > 0) return Cell::norm_group(gate);
  return 0;
}

template <class Real>
FUSED_RNN_INLINE Real sum_of_lanes(Vec<Real> x) {
  Real buffer[Vec<Real>::kLanes], sum = 0;
  x.store(buffer);
  for (const Real value : buffer) sum += value;
  return sum;
}

template <class Real>
struct Moments {
  Real mean = 0, scale = 0;

  FUSED_RNN_INLINE Vec<Real> normalized(Vec<Real> value) const { return (value - Vec<Real>(mean)) * Vec<Real>(scale); }
};

// The moments of the values of `units` units in each run of `stride` elements for which `joins(run)` holds.
template <class Real, class Joins>
Moments<Real> moments_of_runs(const Real* values, int64_t units, int runs, int64_t stride, const Joins& joins) {
  using V = Vec<Real>;
  const auto mean_of = [&](const auto& function) {
    V sum(0);
    int64_t terms = 0;
    for (int run = 0; run < runs; ++run) {
      if (!joins(run)) continue;
      for_each_vector_of_row<Real>(units, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
        sum = sum + first_lanes(function(V::load(values + run * stride + unit)), count);
      });
      terms += units;
    }
    return sum_of_lanes(sum) / static_cast<Real>(terms);
  };
  Moments<Real> moments;
  moments.mean = mean_of([](V value) { return value; });
  const V mean(moments.mean);
  const Real variance = mean_of([&](V value) { return (value - mean) * (value - mean); });
  moments.scale = 1 / std::sqrt(variance + static_cast<Real>(kNormEpsilon));
  return moments;
}

template <class Real>
Moments<Real> moments_of(const Real* values, int64_t units) {
  return moments_of_runs(values, units, 1, 0, [](int /*run*/) { return true; });
}

// The moments of each norm of the gates, [G, stride].
template <class Cell, class Real>
Pack<Moments<Real>, Cell::kNormGroups> moments_of_gates(const Real* gates, int64_t units, int64_t stride) {
  Pack<Moments<Real>, Cell::kNormGroups> moments{};
  for (int group = 0; group < Cell::kNormGroups; ++group) {
    moments[group] =
        moments_of_runs(gates, units, Cell::kGates, stride, [&](int gate) { return norm_group<Cell>(gate) == group; });
  }
  return moments;
}

// The two means in the gradient of a norm, and that gradient.
template <class Real>
struct NormGradient {
  Vec<Real> sum{0}, product{0};
  int64_t terms = 0;

  template <class Count>
  FUSED_RNN_INLINE void add(Vec<Real> g, Vec<Real> value_hat, Count count) {
    sum = sum + first_lanes(g, count);
    product = product + first_lanes(g * value_hat, count);
    terms += count;
  }
  void finish() {
    sum = Vec<Real>(sum_of_lanes(sum) / static_cast<Real>(terms));
    product = Vec<Real>(sum_of_lanes(product) / static_cast<Real>(terms));
  }
  // After finish().
  FUSED_RNN_INLINE Vec<Real> operator()(const Moments<Real>& moments, Vec<Real> g, Vec<Real> value_hat) const {
    return Vec<Real>(moments.scale) * (g - sum - value_hat * product);
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
