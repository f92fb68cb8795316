// The LSTM with peepholes (Gers, Schraudolph and Schmidhuber 2002) and a clipped cell state.
//
// a = from_x + from_h for each of i f g o; p_i p_f p_o and m are weights of the unit; s = sigmoid
//   i = s(a_i + p_i c)        f = s(a_f + p_f c)        g = tanh(a_g)
//   c' = f c + i g, clipped to [-m, m]; no clipping: m = infinity
//   o = s(a_o + p_o c')       h' = o tanh(c')
#pragma once

#include "cells/activations.h"
#include "cells/cell.h"

namespace fused_rnn {

struct PeepholeLstmCell {
  static constexpr const char* kName = "lstm_peephole";
  static constexpr int kGates = 4, kStates = 2, kSaved = 4, kUnitWeights = 4, kNormGroups = 0;
  static constexpr bool kSplit = false, kReadsHidden = false;

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, PeepholeLstmCell> forward(const Pack<V, 4>& from_x,
                                                                      const Pack<V, 4>& from_h, const Pack<V, 2>& state,
                                                                      const Pack<V, 4>& weights) {
    const V i = sigmoid(from_x[0] + from_h[0] + weights[0] * state[1]);
    const V f = sigmoid(from_x[1] + from_h[1] + weights[1] * state[1]);
    const V g = tanh(from_x[2] + from_h[2]);
    const V c = clip(f * state[1] + i * g, weights[3]);
    const V o = sigmoid(from_x[3] + from_h[3] + weights[2] * c);
    return {{o * tanh(c), c}, {i, f, g, o}};
  }

  // A clipped c' has no gradient; nor has the limit m. Field by field: gcc 12 keeps so many values, which come as
  // aggregates, in memory.
  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, PeepholeLstmCell> backward(const Pack<V, 4>& saved,
                                                                        const Pack<V, 2>& previous,
                                                                        const Pack<V, 2>& current,
                                                                        const Pack<V, 2>& d_current,
                                                                        const Pack<V, 4>& weights) {
    const V one(1);
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V tanh_c = tanh(current[1]);
    const V d_o = d_current[0] * tanh_c * (o * (one - o));
    const V d_c_clipped = d_current[1] + d_current[0] * o * (one - tanh_c * tanh_c) + weights[2] * d_o;
    const V d_c = where_within(f * previous[1] + i * g, weights[3], d_c_clipped);
    const V d_i = d_c * g * (i * (one - i));
    const V d_f = d_c * previous[1] * (f * (one - f));
    CellBackward<V, PeepholeLstmCell> result;
    result.d_from_x[0] = result.d_from_h[0] = d_i;
    result.d_from_x[1] = result.d_from_h[1] = d_f;
    result.d_from_x[2] = result.d_from_h[2] = d_c * i * (one - g * g);
    result.d_from_x[3] = result.d_from_h[3] = d_o;
    result.d_state[0] = V(0);
    result.d_state[1] = d_c * f + weights[0] * d_i + weights[1] * d_f;
    result.d_unit_weights[0] = d_i * previous[1];
    result.d_unit_weights[1] = d_f * previous[1];
    result.d_unit_weights[2] = d_o * current[1];
    result.d_unit_weights[3] = V(0);
    return result;
  }
};

static_assert(RecurrentCell<PeepholeLstmCell>);

}  // namespace fused_rnn
