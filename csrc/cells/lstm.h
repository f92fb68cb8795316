// The long short-term memory cell (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).
//
// a = from_x + from_h for each of i f g o (torch.nn's order); s = sigmoid
//   i = s(a_i)   f = s(a_f)   g = tanh(a_g)   o = s(a_o)
//   c' = f c + i g            h' = o tanh(c')
//
// A norm of c (Ba et al. 2016) stands within h' = o tanh(norm(c')) and joins all units. A schedule that has one makes
// h' itself, from `output`, and calls `gates_backward` with tanh(norm(c')) and the whole gradient of c'.
#pragma once

#include "cells/activations.h"
#include "cells/cell.h"

namespace fused_rnn {

struct LstmCell {
  static constexpr const char* kName = "lstm";
  static constexpr int kGates = 4, kStates = 2, kSaved = 4, kUnitWeights = 0;
  static constexpr bool kSplit = false, kReadsHidden = false;
  static constexpr int kNormGroups = 1;
  static constexpr int norm_group(int /*gate*/) { return 0; }

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, LstmCell> forward(const Pack<V, 4>& from_x, const Pack<V, 4>& from_h,
                                                              const Pack<V, 2>& state) {
    const V i = sigmoid(from_x[0] + from_h[0]);
    const V f = sigmoid(from_x[1] + from_h[1]);
    const V g = tanh(from_x[2] + from_h[2]);
    const V o = sigmoid(from_x[3] + from_h[3]);
    const V c = f * state[1] + i * g;
    const Pack<V, 4> saved{i, f, g, o};
    return {{output(saved, tanh(c)), c}, saved};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, LstmCell> backward(const Pack<V, 4>& saved, const Pack<V, 2>& previous,
                                                                const Pack<V, 2>& current,
                                                                const Pack<V, 2>& d_current) {
    const V tanh_c = tanh(current[1]);
    const V d_c = d_current[1] + output_backward(saved, tanh_c, d_current[0]);
    return gates_backward(saved, previous, tanh_c, d_current[0], d_c);
  }

  // h' from tanh(c'), and the gradient that h' has for c'.
  template <class V>
  FUSED_RNN_HD static inline V output(const Pack<V, 4>& saved, const V& tanh_c) {
    return saved[3] * tanh_c;
  }
  template <class V>
  FUSED_RNN_HD static inline V output_backward(const Pack<V, 4>& saved, const V& tanh_c, const V& d_h) {
    return d_h * saved[3] * (V(1) - tanh_c * tanh_c);
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, LstmCell> gates_backward(const Pack<V, 4>& saved,
                                                                      const Pack<V, 2>& previous, const V& tanh_c,
                                                                      const V& d_h, const V& d_c) {
    const V one(1);
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const Pack<V, 4> d_a{d_c * g * (i * (one - i)), d_c * previous[1] * (f * (one - f)), d_c * i * (one - g * g),
                         d_h * tanh_c * (o * (one - o))};
    return {d_a, d_a, {V(0), d_c * f}, {}};
  }
};

static_assert(RecurrentCell<LstmCell>);

}  // namespace fused_rnn
