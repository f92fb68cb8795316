// The simple recurrent cell of Elman (1990): h' = act(from_x + from_h) with act = tanh or relu.
//
// Both derivatives can be told from h' alone, so nothing but the states is saved.
#pragma once

#include "cells/activations.h"
#include "cells/cell.h"

namespace fused_rnn {

struct Tanh {
  static constexpr const char* kCellName = "rnn_tanh";
  template <class V>
  FUSED_RNN_HD static inline V apply(const V& a) {
    return tanh(a);
  }
  template <class V>
  FUSED_RNN_HD static inline V gradient(const V& y, const V& d_y) {
    return d_y * (V(1) - y * y);
  }
};

struct Relu {
  static constexpr const char* kCellName = "rnn_relu";
  template <class V>
  FUSED_RNN_HD static inline V apply(const V& a) {
    return relu(a);
  }
  template <class V>
  FUSED_RNN_HD static inline V gradient(const V& y, const V& d_y) {
    return where_positive(y, d_y);
  }
};

template <class Activation>
struct ElmanCell {
  static constexpr const char* kName = Activation::kCellName;
  static constexpr int kGates = 1, kStates = 1, kSaved = 0, kUnitWeights = 0, kNormGroups = 1;
  static constexpr bool kSplit = false, kReadsHidden = true;
  static constexpr int norm_group(int /*gate*/) { return 0; }

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, ElmanCell> forward(const Pack<V, 1>& from_x, const Pack<V, 1>& from_h,
                                                               const Pack<V, 1>& /*state*/) {
    return {{Activation::apply(from_x[0] + from_h[0])}, {}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, ElmanCell> backward(const Pack<V, 0>& /*saved*/,
                                                                 const Pack<V, 1>& /*previous*/,
                                                                 const Pack<V, 1>& current,
                                                                 const Pack<V, 1>& d_current) {
    const Pack<V, 1> d_a{Activation::gradient(current[0], d_current[0])};
    return {d_a, d_a, {V(0)}, {}};
  }
};

static_assert(RecurrentCell<ElmanCell<Tanh>> && RecurrentCell<ElmanCell<Relu>>);

}  // namespace fused_rnn
