// What the schedules of whole rows share: walks over the units of a row, and the parameters that each unit has.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/pass/state_buffer.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Calls visit(unit, count) for each vector of `units` units.
template <class Real, class Visit>
FUSED_RNN_INLINE void for_each_vector_of_row(int64_t units, const Visit& visit) {
  for (int64_t unit = 0; unit < units; unit += Vec<Real>::kLanes) {
    visit_lanes<Real>(units - unit, [&](auto count) FUSED_RNN_INLINE_LAMBDA { visit(unit, count); });
  }
}

// Zeros a row of a buffer with its padding, or nothing where the problem has no such buffer.
template <class Real>
void clear_row(const StateBuffer<Real>& buffer, int64_t d, int64_t row) {
  if (buffer.data == nullptr) return;
  for (int64_t i = 0; i < buffer.stride; i += Vec<Real>::kLanes) Vec<Real>(0).store(buffer.row(d, row) + i);
}

// Zeros the `size` trailing elements of a result that was asked for.
template <class T>
void store_zeros(const SequenceView<void>& view, int64_t t, int64_t row, int64_t d, int64_t size) {
  if (!view) return;
  T* const to = at<T>(view, t, row, d);
  for_each_vector_of_row<RealOf<T>>(size, [&](int64_t i, auto count) { store<T>(to + i, Vec<RealOf<T>>(0), count); });
}

// The weights of units and the gains and biases of norms, in the compute type.
template <class Cell, class T>
class UnitParameters {
  using Real = RealOf<T>;
  using V = Vec<Real>;

 public:
  UnitParameters(const Problem& problem, const VariantViews& views, Arena& arena) : p_(problem), v_(views) {
    const int64_t stride = (p_.hidden_size + V::kLanes - 1) / V::kLanes * V::kLanes;
    const auto take = [&](int64_t count) {
      return StateBuffer<Real>{arena.take<Real>(p_.directions * count * stride), count, stride};
    };
    if (Cell::kUnitWeights > 0) unit_weights_ = take(Cell::kUnitWeights);
    if (p_.normalized) norm_ = take(norm_rows(p_.cell));
  }

  // One thread does it, and the others wait for it.
  void load() const {
    const auto load_all = [&](const StateView<const void>& view, const StateBuffer<Real>& to) {
      for (int64_t d = 0; d < p_.directions; ++d) load_state<T>(view, p_.hidden_size, to, d, {0, to.batch});
    };
    if (Cell::kUnitWeights > 0) load_all(v_.unit_weights, unit_weights_);
    if (p_.normalized) load_all(v_.norm, norm_);
  }

  FUSED_RNN_INLINE Pack<V, Cell::kUnitWeights> unit_weights(int64_t d, int64_t unit) const {
    Pack<V, Cell::kUnitWeights> weights;
    for (int k = 0; k < Cell::kUnitWeights; ++k) weights[k] = V::load(unit_weights_.row(d, k) + unit);
    return weights;
  }

  // Of the norm of a gate, or of c: kNormOfC.
  static constexpr int kNormOfC = Cell::kGates;
  FUSED_RNN_INLINE V gain(int64_t d, int norm, int64_t unit) const { return V::load(norm_.row(d, 2 * norm) + unit); }
  FUSED_RNN_INLINE V bias(int64_t d, int norm, int64_t unit) const {
    return V::load(norm_.row(d, 2 * norm + 1) + unit);
  }

 private:
  const Problem& p_;
  const VariantViews& v_;
  StateBuffer<Real> unit_weights_{}, norm_{};  // [D, K or N, padded H]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
