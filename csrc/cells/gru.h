// The gated recurrent unit (Cho et al. 2014) in torch.nn's variant: the reset gate acts after the recurrent GEMM.
//
// gates r z n (torch.nn's order); x_k = from_x, h_k = from_h of gate k; s = sigmoid
//   r = s(x_r + h_r)   z = s(x_z + h_z)   n = tanh(x_n + r h_n)
//   h' = (1 - z) n + z h = n + z (h - n)
#pragma once

#include "cells/activations.h"
#include "cells/cell.h"

namespace fused_rnn {

struct GruCell {
  static constexpr const char* kName = "gru";
  static constexpr int kGates = 3, kStates = 1, kSaved = 4, kUnitWeights = 0;
  static constexpr bool kSplit = true, kReadsHidden = true;
  static constexpr int kJointGates = 2;  // r and z
  // Norms: one over r and z together, one over n.
  static constexpr int kNormGroups = 2;
  static constexpr int norm_group(int gate) { return gate < 2 ? 0 : 1; }

  template <class V>
  FUSED_RNN_HD static inline CellForward<V, GruCell> forward(const Pack<V, 3>& from_x, const Pack<V, 3>& from_h,
                                                             const Pack<V, 1>& state) {
    const V r = sigmoid(from_x[0] + from_h[0]);
    const V z = sigmoid(from_x[1] + from_h[1]);
    const V n = tanh(from_x[2] + r * from_h[2]);
    return {{n + z * (state[0] - n)}, {r, z, n, from_h[2]}};
  }

  template <class V>
  FUSED_RNN_HD static inline CellBackward<V, GruCell> backward(const Pack<V, 4>& saved, const Pack<V, 1>& previous,
                                                               const Pack<V, 1>& /*current*/,
                                                               const Pack<V, 1>& d_current) {
    const V one(1);
    const V r = saved[0], z = saved[1], n = saved[2], h_n = saved[3];
    const V d_n = d_current[0] * (one - z) * (one - n * n);
    const V d_z = d_current[0] * (previous[0] - n) * (z * (one - z));
    const V d_r = d_n * h_n * (r * (one - r));
    return {{d_r, d_z, d_n}, {d_r, d_z, d_n * r}, {d_current[0] * z}, {}};
  }
};

static_assert(RecurrentCell<GruCell>);

}  // namespace fused_rnn
