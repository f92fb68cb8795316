// The cell IndRnnCell, written by fused_rnn from its `step`.
//
// gates a, of x alone
// states h
// weights of each unit u
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {

struct IndRnnCell {
  static constexpr const char* kName = "ind_rnn";
  static constexpr int kGates = 1, kStates = 1, kSaved = 0, kUnitWeights = 1;
  static constexpr bool kSplit = false, kReadsHidden = true;
  static constexpr int kRecurrentGates = 0;
  static constexpr int kNormGroups = 0;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, IndRnnCell> forward([[maybe_unused]] const Pack<V, 1>& from_x,
                                                                [[maybe_unused]] const Pack<V, 1>& from_h,
                                                                [[maybe_unused]] const Pack<V, 1>& state,
                                                                [[maybe_unused]] const Pack<V, 1>& unit_weights) {
    return {{relu(from_x[0] + state[0] * unit_weights[0])}, {}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, IndRnnCell> backward([[maybe_unused]] const Pack<V, 0>& saved,
                                                                  [[maybe_unused]] const Pack<V, 1>& state,
                                                                  [[maybe_unused]] const Pack<V, 1>& current,
                                                                  [[maybe_unused]] const Pack<V, 1>& d_current,
                                                                  [[maybe_unused]] const Pack<V, 1>& unit_weights) {
    const V t0 = where_less_equal(current[0], V(0), V(0), d_current[0]);
    const Pack<V, 1> d_gates{t0};
    return {d_gates, d_gates, {unit_weights[0] * t0}, {state[0] * t0}};
  }
};

static_assert(RecurrentCell<IndRnnCell>);

}  // namespace fused_rnn::own
