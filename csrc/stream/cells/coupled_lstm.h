// The cell CoupledLstmCell, written by fused_rnn from its `step`.
//
// gates f g o: from_x = W_ih x + b_ih, from_h = W_hh h + b_hh
// states h c
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {

struct CoupledLstmCell {
  static constexpr const char* kName = "coupled_lstm";
  static constexpr int kGates = 3, kStates = 2, kSaved = 3, kUnitWeights = 0;
  static constexpr bool kSplit = false, kReadsHidden = false;
  static constexpr int kNormGroups = 0;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, CoupledLstmCell> forward([[maybe_unused]] const Pack<V, 3>& from_x,
                                                                     [[maybe_unused]] const Pack<V, 3>& from_h,
                                                                     [[maybe_unused]] const Pack<V, 2>& state) {
    const V f = sigmoid(from_x[0] + from_h[0]);
    const V t0 = tanh(from_x[1] + from_h[1]);
    const V c = state[1] * f + (V(1) - f) * t0;
    const V t1 = sigmoid(from_x[2] + from_h[2]);
    return {{t1 * tanh(c), c}, {f, t0, t1}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, CoupledLstmCell> backward([[maybe_unused]] const Pack<V, 3>& saved,
                                                                       [[maybe_unused]] const Pack<V, 2>& state,
                                                                       [[maybe_unused]] const Pack<V, 2>& current,
                                                                       [[maybe_unused]] const Pack<V, 2>& d_current) {
    const V f = saved[0];
    const V t0 = V(1) - f;
    const V t1 = saved[1];
    const V c = current[1];
    const V t2 = saved[2];
    const V t3 = tanh(c);
    const V t4 = d_current[1] + t2 * d_current[0] * (V(1) - t3 * t3);
    const Pack<V, 3> d_gates{(-(t1 * t4) + state[1] * t4) * (f * t0), t0 * t4 * (V(1) - t1 * t1),
                             t3 * d_current[0] * (t2 * (V(1) - t2))};
    return {d_gates, d_gates, {V(0), f * t4}, {}};
  }
};

static_assert(RecurrentCell<CoupledLstmCell>);

}  // namespace fused_rnn::own
