// Layer norms beside the sums over the units of a row: what both kinds of kernels do with one unit (norm_step.cuh,
// norm_kernel.cuh).
//
// A norm maps the values v of n units (of one or several gates) to gain v_hat + bias with
//   v_hat = (v - mean) scale,   scale = 1 / sqrt(mean of (v - mean)^2 + epsilon).
// With g = d_result gain its gradient is d_v = scale (g - mean(g) - v_hat mean(g v_hat)).
//
// Norms are counted: one for each gate, then that of c. `parameter(k)` is row k of the norms' parameters for the unit.
#pragma once

#include "cuda/pass.cuh"

namespace fused_rnn::cuda {

// Rows of the norms' parameters: gain and bias of each gate, and of c.
template <class Cell>
inline constexpr int kNormRows = 2 * Cell::kGates + (kHasNormalizedC<Cell> ? 2 : 0);
template <class Cell>
inline constexpr int kNormOfC = Cell::kGates;

// The norm that joins a gate with others, four bits each: the cell's function is one of the host.
template <class Cell>
inline constexpr uint32_t kNormGroups = [] {
  uint32_t groups = 0;
  for (int g = 0; g < Cell::kGates; ++g) groups |= static_cast<uint32_t>(Cell::norm_group(g)) << (4 * g);
  return groups;
}();
template <class Cell>
FUSED_RNN_DEVICE int norm_group_of(int gate) {
  return static_cast<int>(kNormGroups<Cell> >> (4 * gate) & 0xFu);
}
template <class Cell>
FUSED_RNN_DEVICE int gates_of_group(int group) {
  int gates = 0;
  for (int g = 0; g < Cell::kGates; ++g) gates += norm_group_of<Cell>(g) == group ? 1 : 0;
  return gates;
}

template <class Real>
struct NormMoments {
  Real mean, scale;

  FUSED_RNN_DEVICE static NormMoments of(Real mean, Real variance) {
    const Real above_zero = variance + static_cast<Real>(kNormEpsilon);
    if constexpr (std::is_same_v<Real, float>) return {mean, fast_reciprocal_sqrt(above_zero)};
    return {mean, Real(1) / static_cast<Real>(fused_rnn::sqrt(above_zero))};
  }
  FUSED_RNN_DEVICE Real hat(Real value) const { return (value - mean) * scale; }
};

// The means in the gradient of a norm, or the sums that they are made of.
template <class Real>
struct NormMeans {
  Real of_g, of_product;

  FUSED_RNN_DEVICE void add(Real g, Real hat) {
    of_g += g;
    of_product += g * hat;
  }
  FUSED_RNN_DEVICE Real through(const NormMoments<Real>& moments, Real g, Real hat) const {
    return moments.scale * (g - of_g - hat * of_product);
  }
};

template <class Real, class Parameter>
FUSED_RNN_DEVICE Real normalized(const Parameter& parameter, int norm, Real hat) {
  return parameter(2 * norm) * hat + parameter(2 * norm + 1);
}

// Where forward saves the gates from h before their norms.
template <class Cell, class Views>
FUSED_RNN_HD inline int first_saved_sum(const Views& views) {
  return Cell::kSaved + (has(views.variant.zoneout) ? kMadeStates<Cell> : 0);
}

// What the cell makes of gates from h whose hats are hat(gate); h still of c' without its norm.
template <class Pass, class HatOf, class Parameter>
FUSED_RNN_DEVICE auto call_with_norms(const typename Pass::Views& views, const Element& e,
                                      const typename Pass::Inputs& in, const HatOf& hat,
                                      const Pack<typename Pass::Real, Pass::kStates>& state,
                                      const Parameter& parameter) {
  Pack<typename Pass::Real, Pass::kResults> from_h;
  for (int g = 0; g < Pass::Cell::kGates; ++g) from_h[g] = normalized(parameter, g, hat(g));
  return Pass::call_cell(views, e, in, from_h, state);
}

// tanh(norm(c')), of which h' is made.
template <class Cell, class Value, class Real, class Parameter>
FUSED_RNN_DEVICE Value tanh_of_norm(const Parameter& parameter, Real hat) {
  return tanh(Value(normalized(parameter, kNormOfC<Cell>, hat)));
}

// From the gradient of h' to that of the norm of c.
template <class Cell, class Value, class Real>
struct NormOfC {
  Real hat;
  Value tanh_c;
  Real d;  // of the norm's result
  Real g;

  template <class Parameter>
  FUSED_RNN_DEVICE static NormOfC of(const Pack<Value, Cell::kSaved>& saved, const Pack<Value, Cell::kStates>& after,
                                     const Pack<Value, Cell::kStates>& d_after, const NormMoments<Real>& moments,
                                     const Parameter& parameter) {
    const Real hat = moments.hat(raw(after[1]));
    const Value tanh_c = tanh_of_norm<Cell, Value>(parameter, hat);
    const Real d = raw(Cell::output_backward(saved, tanh_c, d_after[0]));
    return {hat, tanh_c, d, d * parameter(2 * kNormOfC<Cell>)};
  }
  // The cell's backward, with the gradient of c' through its norm.
  FUSED_RNN_DEVICE CellBackward<Value, Cell> call(const Pack<Value, Cell::kSaved>& saved,
                                                  const Pack<Value, Cell::kStates>& before,
                                                  const Pack<Value, Cell::kStates>& d_after,
                                                  const NormMoments<Real>& moments,
                                                  const NormMeans<Real>& means) const {
    return Cell::gates_backward(saved, before, tanh_c, d_after[0], d_after[1] + Value(means.through(moments, g, hat)));
  }
};

}  // namespace fused_rnn::cuda
