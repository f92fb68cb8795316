// The cell Keras2LstmCell, written by fused_rnn from its `step`.
//
// gates i f g o: from_x = W_ih x + b_ih, from_h = W_hh h + b_hh
// states h c
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {

struct Keras2LstmCell {
  static constexpr const char* kName = "keras2_lstm";
  static constexpr int kGates = 4, kStates = 2, kSaved = 4, kUnitWeights = 0;
  static constexpr bool kSplit = false, kReadsHidden = false;
  static constexpr int kNormGroups = 0;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, Keras2LstmCell> forward([[maybe_unused]] const Pack<V, 4>& from_x,
                                                                    [[maybe_unused]] const Pack<V, 4>& from_h,
                                                                    [[maybe_unused]] const Pack<V, 2>& state) {
    const V t0 = (from_x[1] + from_h[1]) * constant<V>(0.2) + constant<V>(0.5);
    const V t1 = constant<V>(0.5) + (from_x[0] + from_h[0]) * constant<V>(0.2);
    const V t2 = tanh(from_x[2] + from_h[2]);
    const V c = state[1] * minimum(maximum(t0, V(0)), V(1)) + minimum(maximum(t1, V(0)), V(1)) * t2;
    const V t3 = constant<V>(0.5) + (from_x[3] + from_h[3]) * constant<V>(0.2);
    return {{minimum(maximum(t3, V(0)), V(1)) * tanh(c), c}, {t0, t1, t2, t3}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, Keras2LstmCell> backward([[maybe_unused]] const Pack<V, 4>& saved,
                                                                      [[maybe_unused]] const Pack<V, 2>& state,
                                                                      [[maybe_unused]] const Pack<V, 2>& current,
                                                                      [[maybe_unused]] const Pack<V, 2>& d_current) {
    const V t0 = saved[0];
    const V t1 = maximum(t0, V(0));
    const V t2 = saved[1];
    const V t3 = maximum(t2, V(0));
    const V t4 = saved[2];
    const V c = current[1];
    const V t5 = saved[3];
    const V t6 = maximum(t5, V(0));
    const V t7 = tanh(c);
    const V t8 = t7 * d_current[0];
    const V t9 = d_current[1] + minimum(t6, V(1)) * d_current[0] * (V(1) - t7 * t7);
    const V t10 = where_less(V(1), t6, V(0), where_less_equal(V(1), t6, constant<V>(0.5) * t8, t8));
    const V t11 = t4 * t9;
    const V t12 = where_less(V(1), t3, V(0), where_less_equal(V(1), t3, constant<V>(0.5) * t11, t11));
    const V t13 = state[1] * t9;
    const V t14 = where_less(V(1), t1, V(0), where_less_equal(V(1), t1, constant<V>(0.5) * t13, t13));
    const Pack<V, 4> d_gates{
        constant<V>(0.2) * where_less(t2, V(0), V(0), where_less_equal(t2, V(0), constant<V>(0.5) * t12, t12)),
        constant<V>(0.2) * where_less(t0, V(0), V(0), where_less_equal(t0, V(0), constant<V>(0.5) * t14, t14)),
        minimum(t3, V(1)) * t9 * (V(1) - t4 * t4),
        constant<V>(0.2) * where_less(t5, V(0), V(0), where_less_equal(t5, V(0), constant<V>(0.5) * t10, t10))};
    return {d_gates, d_gates, {V(0), minimum(t1, V(1)) * t9}, {}};
  }
};

static_assert(RecurrentCell<Keras2LstmCell>);

}  // namespace fused_rnn::own
