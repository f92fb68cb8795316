// The parameters that each unit has for itself: the weights that enter its update, gains and biases of layer norms.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/runtime/arena.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Those of one direction that enter the update.
template <class Cell, class Real>
struct UnitWeights {
  const Real* data = nullptr;  // [K, stride], null for the cells that have none
  int64_t stride = 0;          // H, padded to whole vectors

  template <class Where>
  FUSED_RNN_INLINE auto at(const Where& where) const {
    Pack<Vec<Real, Where::kParts>, Cell::kUnitWeights> weights{};
    for (int k = 0; k < Cell::kUnitWeights; ++k) {
      for (int i = 0; i < Where::kParts; ++i)
        weights[k].parts[i] = Vec<Real>::load(data + k * stride + where.unit_of(i)).parts[0];
    }
    return weights;
  }
};

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

  UnitWeights<Cell, Real> unit_weights(int64_t d) const {
    if constexpr (Cell::kUnitWeights == 0) return {};
    return {unit_weights_.row(d, 0), unit_weights_.stride};
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
