// The cell MinLstmCell, written by fused_rnn from its `step`.
//
// gates f i n, of x alone
// states h
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {

struct MinLstmCell {
  static constexpr const char* kName = "min_lstm";
  static constexpr int kGates = 3, kStates = 1, kSaved = 3, kUnitWeights = 0;
  static constexpr bool kSplit = false, kReadsHidden = true;
  static constexpr int kRecurrentGates = 0;
  static constexpr int kNormGroups = 0;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, MinLstmCell> forward([[maybe_unused]] const Pack<V, 3>& from_x,
                                                                 [[maybe_unused]] const Pack<V, 3>& from_h,
                                                                 [[maybe_unused]] const Pack<V, 1>& state) {
    const V t0 = from_x[2];
    const V f = sigmoid(from_x[0]);
    const V i = sigmoid(from_x[1]);
    return {{(state[0] * f + t0 * i) / (f + i)}, {t0, f, i}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, MinLstmCell> backward([[maybe_unused]] const Pack<V, 3>& saved,
                                                                   [[maybe_unused]] const Pack<V, 1>& state,
                                                                   [[maybe_unused]] const Pack<V, 1>& current,
                                                                   [[maybe_unused]] const Pack<V, 1>& d_current) {
    const V f = saved[1];
    const V i = saved[2];
    const V t0 = f + i;
    const V t1 = d_current[0] / t0;
    const V t2 = -(current[0] * d_current[0] / t0);
    const Pack<V, 3> d_gates{(t2 + state[0] * t1) * (f * (V(1) - f)), (t2 + saved[0] * t1) * (i * (V(1) - i)), i * t1};
    return {d_gates, d_gates, {f * t1}, {}};
  }
};

static_assert(RecurrentCell<MinLstmCell>);

}  // namespace fused_rnn::own
