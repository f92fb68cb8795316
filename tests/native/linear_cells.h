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
  static constexpr int kGates = 1, kStates = 1, kSaved = 0, kUnitWeights = 0, kNormGroups = 1;
  static constexpr bool kSplit = false, kReadsHidden = true;
  static constexpr int norm_group(int /*gate*/) { return 0; }

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
  static constexpr int kGates = 3, kStates = 1, kSaved = 3, kUnitWeights = 0, kNormGroups = 2;
  static constexpr bool kSplit = true, kReadsHidden = true;
  static constexpr int norm_group(int gate) { return gate == 1 ? 0 : 1; }

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
//   c' = c / 2 + x0 + r0 / 4 + x0 c      h' = v + o + v v / 16 with v = c', o = x1 + r1 / 4
// The normalized form has v = tanh(norm(c')), which is the schedule's tanh.
struct TwoStateCell {
  static constexpr const char* kName = "two_state";
  static constexpr int kGates = 2, kStates = 2, kSaved = 2, kUnitWeights = 0, kNormGroups = 1;
  static constexpr bool kSplit = true, kReadsHidden = false;
  static constexpr int norm_group(int /*gate*/) { return 0; }

  template <class V>
  static CellForward<V, TwoStateCell> forward(const Pack<V, 2>& x, const Pack<V, 2>& r, const Pack<V, 2>& state) {
    const V c = state[1] / V(2) + x[0] + r[0] / V(4) + x[0] * state[1];
    const Pack<V, 2> saved{x[0], x[1] + r[1] / V(4)};
    return {{output(saved, c), c}, saved};
  }
  template <class V>
  static CellBackward<V, TwoStateCell> backward(const Pack<V, 2>& saved, const Pack<V, 2>& previous,
                                                const Pack<V, 2>& current, const Pack<V, 2>& d) {
    return gates_backward(saved, previous, current[1], d[0], d[1] + d[0] + d[0] * current[1] / V(8));
  }

  template <class V>
  static V output(const Pack<V, 2>& saved, const V& v) {
    return v + saved[1] + v * v / V(16);
  }
  template <class V>
  static V output_backward(const Pack<V, 2>& /*saved*/, const V& tanh_c, const V& d_h) {
    return (d_h + d_h * tanh_c / V(8)) * (V(1) - tanh_c * tanh_c);
  }
  template <class V>
  static CellBackward<V, TwoStateCell> gates_backward(const Pack<V, 2>& saved, const Pack<V, 2>& previous,
                                                      const V& /*v*/, const V& d_h, const V& d_c) {
    return {{d_c + d_c * previous[1], d_h}, {d_c / V(4), d_h / V(4)}, {V(0), d_c * (V(1) / V(2) + saved[0])}, {}};
  }
};

// One state, three gates, two weights of the unit:  h' = x0 + w0 x0 + r0 / 2 + x1 r1 - x2 + r2 / 8 + w1 h / 4.
struct WeightedCell {
  static constexpr const char* kName = "weighted";
  static constexpr int kGates = 3, kStates = 1, kSaved = 3, kUnitWeights = 2, kNormGroups = 2;
  static constexpr bool kSplit = true, kReadsHidden = true;
  static constexpr int norm_group(int gate) { return gate == 1 ? 0 : 1; }

  template <class V>
  static CellForward<V, WeightedCell> forward(const Pack<V, 3>& x, const Pack<V, 3>& r, const Pack<V, 1>& state,
                                              const Pack<V, 2>& weights) {
    const V from_units = x[0] + weights[0] * x[0] - x[2] + weights[1] * state[0] / V(4);
    return {{from_units + r[0] / V(2) + x[1] * r[1] + r[2] / V(8)}, {x[0], x[1], r[1]}};
  }
  template <class V>
  static CellBackward<V, WeightedCell> backward(const Pack<V, 3>& saved, const Pack<V, 1>& previous,
                                                const Pack<V, 1>& /*current*/, const Pack<V, 1>& d,
                                                const Pack<V, 2>& weights) {
    const V x0 = saved[0], x1 = saved[1], r1 = saved[2];
    return {{d[0] + d[0] * weights[0], d[0] * r1, -d[0]},
            {d[0] / V(2), d[0] * x1, d[0] / V(8)},
            {d[0] * weights[1] / V(4)},
            {d[0] * x0, d[0] * previous[0] / V(4)}};
  }
};

// One state, three gates of which one reads h:  h' = x0 + r0 / 2 + x1 r0 - x2 + h / 8.
struct PartlyRecurrentCell {
  static constexpr const char* kName = "partly_recurrent";
  static constexpr int kGates = 3, kStates = 1, kSaved = 2, kUnitWeights = 0, kNormGroups = 0, kRecurrentGates = 1;
  static constexpr bool kSplit = true, kReadsHidden = true;

  template <class V>
  static CellForward<V, PartlyRecurrentCell> forward(const Pack<V, 3>& x, const Pack<V, 3>& r,
                                                     const Pack<V, 1>& state) {
    return {{x[0] + r[0] / V(2) + x[1] * r[0] - x[2] + state[0] / V(8)}, {x[1], r[0]}};
  }
  // What is no gradient of a gate that reads h is not to be looked at.
  template <class V>
  static CellBackward<V, PartlyRecurrentCell> backward(const Pack<V, 2>& saved, const Pack<V, 1>& /*previous*/,
                                                       const Pack<V, 1>& /*current*/, const Pack<V, 1>& d) {
    return {{d[0], d[0] * saved[1], -d[0]}, {d[0] / V(2) + d[0] * saved[0], V(1000), V(1000)}, {d[0] / V(8)}, {}};
  }
};

// Two states, three gates of which two read h, h unread so that it may be a projection; g = x + r:
//   c' = c / 2 + g0 / 4 + x2 c      h' = c' + g1 / 4 + c' c' / 16
struct PartlyProjectedCell {
  static constexpr const char* kName = "partly_projected";
  static constexpr int kGates = 3, kStates = 2, kSaved = 1, kUnitWeights = 0, kNormGroups = 0, kRecurrentGates = 2;
  static constexpr bool kSplit = false, kReadsHidden = false;

  template <class V>
  static CellForward<V, PartlyProjectedCell> forward(const Pack<V, 3>& x, const Pack<V, 3>& r,
                                                     const Pack<V, 2>& state) {
    const V c = state[1] / V(2) + (x[0] + r[0]) / V(4) + x[2] * state[1];
    return {{c + (x[1] + r[1]) / V(4) + c * c / V(16), c}, {x[2]}};
  }
  template <class V>
  static CellBackward<V, PartlyProjectedCell> backward(const Pack<V, 1>& saved, const Pack<V, 2>& previous,
                                                       const Pack<V, 2>& current, const Pack<V, 2>& d) {
    const V d_c = d[1] + d[0] + d[0] * current[1] / V(8);
    const Pack<V, 3> d_gates{d_c / V(4), d[0] / V(4), d_c * previous[1]};
    return {d_gates, d_gates, {V(0), d_c * (V(1) / V(2) + saved[0])}, {}};
  }
};

// Diagonal, one state, two gates:  h' = x0 h + x1 / 2.
struct DiagonalCell {
  static constexpr const char* kName = "diagonal";
  static constexpr int kGates = 2, kStates = 1, kSaved = 1, kUnitWeights = 0, kNormGroups = 0, kRecurrentGates = 0;
  static constexpr bool kSplit = false, kReadsHidden = true;

  template <class V>
  static CellForward<V, DiagonalCell> forward(const Pack<V, 2>& x, const Pack<V, 2>& /*r*/, const Pack<V, 1>& state) {
    return {{x[0] * state[0] + x[1] / V(2)}, {x[0]}};
  }
  template <class V>
  static CellBackward<V, DiagonalCell> backward(const Pack<V, 1>& saved, const Pack<V, 1>& previous,
                                                const Pack<V, 1>& /*current*/, const Pack<V, 1>& d) {
    const Pack<V, 2> d_gates{d[0] * previous[0], d[0] / V(2)};
    return {d_gates, d_gates, {d[0] * saved[0]}, {}};
  }
};

// Diagonal, two states, one gate, a weight of the unit:  c' = w c / 2 + x0      h' = c' + w h / 4 + c' c' / 16
struct WeightedDiagonalCell {
  static constexpr const char* kName = "weighted_diagonal";
  static constexpr int kGates = 1, kStates = 2, kSaved = 0, kUnitWeights = 1, kNormGroups = 0, kRecurrentGates = 0;
  static constexpr bool kSplit = false, kReadsHidden = true;

  template <class V>
  static CellForward<V, WeightedDiagonalCell> forward(const Pack<V, 1>& x, const Pack<V, 1>& /*r*/,
                                                      const Pack<V, 2>& state, const Pack<V, 1>& w) {
    const V c = w[0] * state[1] / V(2) + x[0];
    return {{c + w[0] * state[0] / V(4) + c * c / V(16), c}, {}};
  }
  template <class V>
  static CellBackward<V, WeightedDiagonalCell> backward(const Pack<V, 0>& /*saved*/, const Pack<V, 2>& previous,
                                                        const Pack<V, 2>& current, const Pack<V, 2>& d,
                                                        const Pack<V, 1>& w) {
    const V d_c = d[1] + d[0] + d[0] * current[1] / V(8);
    const Pack<V, 1> d_gates{d_c};
    return {d_gates,
            d_gates,
            {d[0] * w[0] / V(4), d_c * w[0] / V(2)},
            {d_c * previous[1] / V(2) + d[0] * previous[0] / V(4)}};
  }
};

static_assert(RecurrentCell<PartlyRecurrentCell> && RecurrentCell<PartlyProjectedCell> && RecurrentCell<DiagonalCell> &&
              RecurrentCell<WeightedDiagonalCell>);
static_assert(RecurrentCell<IdentityCell> && RecurrentCell<BilinearCell> && RecurrentCell<TwoStateCell> &&
              RecurrentCell<WeightedCell>);

}  // namespace fused_rnn::test
