// What forward's norms took of each row at each step, made of what forward saved in one kernel before the backward
// pass, since none of it depends on the recurrence.
#pragma once

#include "cuda/norm.cuh"
#include "cuda/norm_shape.h"

namespace fused_rnn::cuda {

// Where the moments of a row are at a time, in rows of them.
FUSED_RNN_DEVICE int64_t norm_moments_at(int64_t time, int batch, int directions, const Element& e) {
  return (time * directions + e.direction) * batch + e.row;
}

// A warp for each row at each step.
template <class Pass>
struct NormMomentsKernel {
  using Cell = typename Pass::Cell;
  using T = typename Pass::T;
  static constexpr int kThreads = 256, kNorms = norms(spec_of<Cell>(0));

  typename Pass::Views views;
  NormMoments<float>* moments;  // [T, D, B, norms]
  int time_steps, batch, hidden_size, directions, heads;

  FUSED_RNN_DEVICE void operator()() const {
    const int row = block_x() * (kThreads / kWarpLanes) + warp_index();
    if (row >= batch) return;
#pragma unroll 1
    for (int time = block_z(); time < time_steps; time += kTimes) {
      const Element first{row, block_y(), lane_index()};
      NormMoments<float>* const to = moments + norm_moments_at(time, batch, directions, first) * kNorms;
#pragma unroll 1
      for (int norm = 0; norm < kNorms; ++norm) {
        const NormMoments<float> found = of_norm(time, first, norm);
        if (lane_index() == 0) to[norm] = found;
      }
    }
  }
  static constexpr int kTimes = 256;  // steps that run side by side

 private:
  template <class Visitor>
  FUSED_RNN_DEVICE void for_each_value(int time, Element e, int norm, const Visitor& visit) const {
#pragma unroll 1
    for (; e.unit < hidden_size; e.unit += kWarpLanes) {
      if (norm == Cell::kNormGroups) {
        visit(c(time, e));
        continue;
      }
      const T* const from = element_at<T, int>(views.saved, time, e) + first_saved_sum<Cell>(views) * hidden_size;
      for (int g = 0; g < Cell::kGates; ++g) {
        if (norm_group_of<Cell>(g) == norm) visit(to_real(from[g * hidden_size]));
      }
    }
  }
  // As the cell made it.
  FUSED_RNN_DEVICE float c(int time, const Element& e) const {
    if constexpr (kHasNormalizedC<Cell>) {
      const Direction direction = direction_of(e.direction, heads);
      const int position = time_at(time, direction, time_steps);
      return to_real(Pass::load(views, e, moment_at(position, direction, time_steps), hidden_size).after[1]);
    } else {
      return 0.0f;
    }
  }
  FUSED_RNN_DEVICE NormMoments<float> of_norm(int time, const Element& first, int norm) const {
    const int gates = norm == Cell::kNormGroups ? 1 : gates_of_group<Cell>(norm);
    const float each = 1.0f / static_cast<float>(gates * hidden_size);
    float sum = 0.0f, squares = 0.0f;
    for_each_value(time, first, norm, [&](float value) { sum += value; });
    const float mean = over_lanes(sum) * each;
    for_each_value(time, first, norm, [&](float value) { squares += (value - mean) * (value - mean); });
    return NormMoments<float>::of(mean, over_lanes(squares) * each);
  }
  FUSED_RNN_DEVICE static float over_lanes(float value) {
#pragma unroll
    for (int mask = 1; mask < kWarpLanes; mask *= 2) value += bits_to_float(shuffle_xor(float_to_bits(value), mask));
    return value;
  }
};

}  // namespace fused_rnn::cuda
