// The cell SlstmCell, written by fused_rnn from its `step`.
//
// gates i f z o: from_x = W_ih x + b_ih, from_h = W_hh h + b_hh
// states h c n m
#pragma once

#include "cells/cell.h"
#include "cells/cell_math.h"

namespace fused_rnn::own {

struct SlstmCell {
  static constexpr const char* kName = "slstm";
  static constexpr int kGates = 4, kStates = 4, kSaved = 4, kUnitWeights = 0;
  static constexpr bool kSplit = false, kReadsHidden = false;
  static constexpr int kNormGroups = 0;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, SlstmCell> forward([[maybe_unused]] const Pack<V, 4>& from_x,
                                                               [[maybe_unused]] const Pack<V, 4>& from_h,
                                                               [[maybe_unused]] const Pack<V, 4>& state) {
    const V t0 = from_x[0] + from_h[0];
    const V t1 = -(from_x[1] + from_h[1]);
    const V kept = state[3] + -softplus(t1);
    const V m = where_less_equal(state[2], V(0), t0, maximum(t0, kept));
    const V i = minimum(exponential(t0 - m), V(1));
    const V f = minimum(exponential(kept - m), V(1));
    const V t2 = tanh(from_x[2] + from_h[2]);
    const V c = state[1] * f + i * t2;
    const V n = i + state[2] * f;
    const V t3 = sigmoid(from_x[3] + from_h[3]);
    return {{c * t3 / n, c, n, m}, {t0, t1, t2, t3}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, SlstmCell> backward([[maybe_unused]] const Pack<V, 4>& saved,
                                                                 [[maybe_unused]] const Pack<V, 4>& state,
                                                                 [[maybe_unused]] const Pack<V, 4>& current,
                                                                 [[maybe_unused]] const Pack<V, 4>& d_current) {
    const V t0 = saved[0];
    const V t1 = saved[1];
    const V kept = state[3] + -softplus(t1);
    const V m = current[3];
    const V t2 = exponential(t0 - m);
    const V i = minimum(t2, V(1));
    const V t3 = exponential(kept - m);
    const V f = minimum(t3, V(1));
    const V t4 = saved[2];
    const V c = current[1];
    const V n = current[2];
    const V t5 = saved[3];
    const V t6 = d_current[0] / n;
    const V t7 = d_current[2] - c * t5 / n * d_current[0] / n;
    const V t8 = d_current[1] + t5 * t6;
    const V t9 = t7 + t4 * t8;
    const V t10 = state[2] * t7 + state[1] * t8;
    const V t11 = t3 * where_less(V(1), t3, V(0), where_less_equal(V(1), t3, t10 * constant<V>(0.5), t10));
    const V t12 = t2 * where_less(V(1), t2, V(0), where_less_equal(V(1), t2, t9 * constant<V>(0.5), t9));
    const V t13 = d_current[3] - t11 - t12;
    const V t14 = where_less_equal(state[2], V(0), V(0), t13);
    const V t15 = constant<V>(0.5) * t14;
    const V t16 = t11 + where_less(kept, t0, V(0), where_less_equal(kept, t0, t15, t14));
    const Pack<V, 4> d_gates{t12 + where_less_equal(state[2], V(0), t13, V(0)) +
                                 where_less(t0, kept, V(0), where_less_equal(t0, kept, t15, t14)),
                             -(-t16 * sigmoid(t1)), i * t8 * (V(1) - t4 * t4), c * t6 * (t5 * (V(1) - t5))};
    return {d_gates, d_gates, {V(0), f * t8, f * t7, t16}, {}};
  }
};

static_assert(RecurrentCell<SlstmCell>);

}  // namespace fused_rnn::own
