// The cell HardSigmoidGruCell, written by fused_rnn from its `step`.
//
// gates r z n: from_x = W_ih x + b_ih, from_h = W_hh h + b_hh
// states h
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {

struct HardSigmoidGruCell {
  static constexpr const char* kName = "hard_sigmoid_gru";
  static constexpr int kGates = 3, kStates = 1, kSaved = 4, kUnitWeights = 0;
  static constexpr bool kSplit = true, kReadsHidden = true;
  static constexpr int kJointGates = 2;
  static constexpr int kNormGroups = 0;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, HardSigmoidGruCell> forward([[maybe_unused]] const Pack<V, 3>& from_x,
                                                                        [[maybe_unused]] const Pack<V, 3>& from_h,
                                                                        [[maybe_unused]] const Pack<V, 1>& state) {
    const V t0 = from_h[2];
    const V t1 = (from_x[1] + from_h[1]) / V(6) + constant<V>(0.5);
    const V z = minimum(maximum(t1, V(0)), V(1));
    const V t2 = constant<V>(0.5) + (from_x[0] + from_h[0]) / V(6);
    const V t3 = tanh(from_x[2] + t0 * minimum(maximum(t2, V(0)), V(1)));
    return {{state[0] * z + (V(1) - z) * t3}, {t0, t1, t2, t3}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, HardSigmoidGruCell> backward(
      [[maybe_unused]] const Pack<V, 4>& saved, [[maybe_unused]] const Pack<V, 1>& state,
      [[maybe_unused]] const Pack<V, 1>& current, [[maybe_unused]] const Pack<V, 1>& d_current) {
    const V t0 = saved[1];
    const V t1 = maximum(t0, V(0));
    const V z = minimum(t1, V(1));
    const V t2 = saved[2];
    const V t3 = maximum(t2, V(0));
    const V t4 = saved[3];
    const V t5 = (V(1) - z) * d_current[0] * (V(1) - t4 * t4);
    const V t6 = saved[0] * t5;
    const V t7 = where_less(V(1), t3, V(0), where_less_equal(V(1), t3, constant<V>(0.5) * t6, t6));
    const V t8 = where_less(t2, V(0), V(0), where_less_equal(t2, V(0), constant<V>(0.5) * t7, t7)) / V(6);
    const V t9 = -(t4 * d_current[0]) + state[0] * d_current[0];
    const V t10 = where_less(V(1), t1, V(0), where_less_equal(V(1), t1, constant<V>(0.5) * t9, t9));
    const V t11 = where_less(t0, V(0), V(0), where_less_equal(t0, V(0), constant<V>(0.5) * t10, t10)) / V(6);
    return {{t8, t11, t5}, {t8, t11, minimum(t3, V(1)) * t5}, {z * d_current[0]}, {}};
  }
};

static_assert(RecurrentCell<HardSigmoidGruCell>);

}  // namespace fused_rnn::own
