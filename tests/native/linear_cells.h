// Test-only cells without exponentials, so that a recurrence of thousands of steps has a nearly exact answer.
//
// Their constants differ from gate to gate and from state to state: a wrong index, carry or order changes the result.
// Products of inputs and states make the derivatives depend on what was saved and on the states before and after. No
// formula adds two products: a compiler may contract either into an FMA, and two instantiations could differ in a bit.
#pragma once

#include "cells/cell.h"

namespace fused_rnn::test {

// h' = x + r with r = from_h: the activation of an Elman cell replaced by the identity.
struct IdentityCell {
  static constexpr const char* kName = "identity";
  static constexpr int kGates = 1, kStates = 1, kSaved = 0, kUnitWeights = 0, kNormGroups = 0;
  static constexpr bool kSplit = false, kReadsHidden = true;

  template <class V>
  static CellForward<V, IdentityCell> forward(const Pack<V, 1>& x, const Pack<V, 1>& r, const Pack<V, 1>& /*state*/) {
    return {{x[0] + r[0]}, {}};
  }
  template <class V>
  static CellBackward<V, IdentityCell> backward(const Pack<V, 0>& /*saved*/, const Pack<V, 1>& /*previous*/,
                                                const Pack<V, 1>& /*current*/, const Pack<V, 1>& d) {
    return {{d[0]}, {d[0]}, {V(0)}, {}};
  }
};

// One state, three gates:  h' = x0 + r0 / 2 - x1 + r1 / 4 + x2 r2 + h / 8 + x0 h.
struct BilinearCell {
  static constexpr const char* kName = "bilinear";
  static constexpr int kGates = 3, kStates = 1, kSaved = 3, kUnitWeights = 0, kNormGroups = 0;
  static constexpr bool kSplit = true, kReadsHidden = true;

  template <class V>
  static CellForward<V, BilinearCell> forward(const Pack<V, 3>& x, const Pack<V, 3>& r, const Pack<V, 1>& state) {
    const V h = state[0];
    const V next = x[0] + r[0] / V(2) - x[1] + r[1] / V(4) + x[2] * r[2] + h / V(8) + x[0] * h;
    return {{next}, {x[0], x[2], r[2]}};
  }
  template <class V>
  static CellBackward<V, BilinearCell> backward(const Pack<V, 3>& saved, const Pack<V, 1>& previous,
                                                const Pack<V, 1>& /*current*/, const Pack<V, 1>& d) {
    const V h = previous[0], x0 = saved[0], x2 = saved[1], r2 = saved[2];
    return {
        {d[0] + d[0] * h, -d[0], d[0] * r2}, {d[0] / V(2), d[0] / V(4), d[0] * x2}, {d[0] * (V(1) / V(8) + x0)}, {}};
  }
};

// Two states, two gates, h unread so that it may be a projection:
//   c' = c / 2 + x0 + r0 / 4 + x0 c      h' = c' + x1 + r1 / 4 + c' c' / 16
struct TwoStateCell {
  static constexpr const char* kName = "two_state";
  static constexpr int kGates = 2, kStates = 2, kSaved = 1, kUnitWeights = 0, kNormGroups = 0;
  static constexpr bool kSplit = true, kReadsHidden = false;

  template <class V>
  static CellForward<V, TwoStateCell> forward(const Pack<V, 2>& x, const Pack<V, 2>& r, const Pack<V, 2>& state) {
    const V c = state[1] / V(2) + x[0] + r[0] / V(4) + x[0] * state[1];
    return {{c + x[1] + r[1] / V(4) + c * c / V(16), c}, {x[0]}};
  }
  template <class V>
  static CellBackward<V, TwoStateCell> backward(const Pack<V, 1>& saved, const Pack<V, 2>& previous,
                                                const Pack<V, 2>& current, const Pack<V, 2>& d) {
    const V d_c = d[1] + d[0] + d[0] * current[1] / V(8);
    return {{d_c + d_c * previous[1], d[0]}, {d_c / V(4), d[0] / V(4)}, {V(0), d_c * (V(1) / V(2) + saved[0])}, {}};
  }
};

static_assert(RecurrentCell<IdentityCell> && RecurrentCell<BilinearCell> && RecurrentCell<TwoStateCell>);

}  // namespace fused_rnn::test
