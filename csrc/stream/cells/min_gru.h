// The cell MinGruCell, written by fused_rnn from its `step`.
//
// gates z n, of x alone
// states h
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {

struct MinGruCell {
  static constexpr const char* kName = "min_gru";
  static constexpr int kGates = 2, kStates = 1, kSaved = 2, kUnitWeights = 0;
  static constexpr bool kSplit = false, kReadsHidden = true;
  static constexpr int kRecurrentGates = 0;
  static constexpr int kNormGroups = 0;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, MinGruCell> forward([[maybe_unused]] const Pack<V, 2>& from_x,
                                                                [[maybe_unused]] const Pack<V, 2>& from_h,
                                                                [[maybe_unused]] const Pack<V, 1>& state) {
    const V t0 = from_x[1];
    const V z = sigmoid(from_x[0]);
    return {{state[0] * (V(1) - z) + t0 * z}, {t0, z}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, MinGruCell> backward([[maybe_unused]] const Pack<V, 2>& saved,
                                                                  [[maybe_unused]] const Pack<V, 1>& state,
                                                                  [[maybe_unused]] const Pack<V, 1>& current,
                                                                  [[maybe_unused]] const Pack<V, 1>& d_current) {
    const V z = saved[1];
    const V t0 = V(1) - z;
    const Pack<V, 2> d_gates{(saved[0] * d_current[0] - state[0] * d_current[0]) * (z * t0), z * d_current[0]};
    return {d_gates, d_gates, {t0 * d_current[0]}, {}};
  }
};

static_assert(RecurrentCell<MinGruCell>);

}  // namespace fused_rnn::own
