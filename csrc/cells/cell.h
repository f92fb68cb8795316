// The contract between the math of a recurrent cell and the schedules that run it.
//
// A cell maps one hidden unit through one time step. It sees no memory, time, batch, other unit or device: a schedule
// loads the values, calls the cell, and stores what comes back. `V` is a scalar or a SIMD vector of units.
//
//   from_x = W_ih x + b_ih, from_h = W_hh h + b_hh      the unit's pre-activations, one per gate, kept apart because
//                                                       some cells (GRU) do not simply add them
//   forward (from_x, from_h, state)            -> state', saved
//   backward(saved, state, state', d_state')   -> d_from_x, d_from_h, d_state
//
// A cell with kUnitWeights > 0 also takes that many numbers of its unit, and returns their gradients.
//
// state[0] is h, state[1] (if any) is c; up to two more may follow. d_state[0] that backward returns is the *direct*
// part only: what reaches the previous h through W_hh is the schedule's business.
#pragma once

#include <concepts>

#include "core/pack.h"
#include "core/problem.h"

namespace fused_rnn {

template <class V, class Cell>
struct CellForward {
  Pack<V, Cell::kStates> state;
  Pack<V, Cell::kSaved> saved;
};

template <class V, class Cell>
struct CellBackward {
  Pack<V, Cell::kGates> d_from_x;
  Pack<V, Cell::kGates> d_from_h;  // equals d_from_x unless Cell::kSplit
  Pack<V, Cell::kStates> d_state;
  Pack<V, Cell::kUnitWeights> d_unit_weights;
};

// What a schedule calls: the cell's functions, with the unit's weights for those that have some.
template <class Cell, class V>
FUSED_RNN_HD inline CellForward<V, Cell> cell_forward(const Pack<V, Cell::kGates>& from_x,
                                                      const Pack<V, Cell::kGates>& from_h,
                                                      const Pack<V, Cell::kStates>& state,
                                                      const Pack<V, Cell::kUnitWeights>& unit_weights) {
  if constexpr (Cell::kUnitWeights > 0) {
    return Cell::forward(from_x, from_h, state, unit_weights);
  } else {
    return Cell::forward(from_x, from_h, state);
  }
}

template <class Cell, class V>
FUSED_RNN_HD inline CellBackward<V, Cell> cell_backward(const Pack<V, Cell::kSaved>& saved,
                                                        const Pack<V, Cell::kStates>& previous,
                                                        const Pack<V, Cell::kStates>& current,
                                                        const Pack<V, Cell::kStates>& d_current,
                                                        const Pack<V, Cell::kUnitWeights>& unit_weights) {
  if constexpr (Cell::kUnitWeights > 0) {
    return Cell::backward(saved, previous, current, d_current, unit_weights);
  } else {
    return Cell::backward(saved, previous, current, d_current);
  }
}

// The first gates of the cell whose d_from_h equals their d_from_x: all, or kJointGates of a split cell that says so.
template <class Cell>
constexpr int joint_gates() {
  if constexpr (requires { Cell::kJointGates; }) return Cell::kJointGates;
  return Cell::kSplit ? 0 : Cell::kGates;
}

// R, the first gates of the cell that read h of the step before: all, or kRecurrentGates of a cell that says so. The
// others have no rows of W_hh and b_hh: their from_h is zero, and nobody asks for its gradient. With R = 0 a cell is
// diagonal: no unit sees another.
template <class Cell>
constexpr int recurrent_gates() {
  if constexpr (requires { Cell::kRecurrentGates; }) return Cell::kRecurrentGates;
  return Cell::kGates;
}

// Whether the normalized form of the cell also normalizes c where h is made of it.
template <class Cell>
inline constexpr bool kHasNormalizedC = Cell::kNormGroups > 0 && Cell::kStates == 2;

// The states besides h, and the first of those whose value after the step backward reads from where it was stored.
template <class Cell>
inline constexpr int kCellStates = Cell::kStates - 1;
template <class Cell>
inline constexpr int kFirstMade = Cell::kStates > 1 ? 1 : 0;

template <class Cell>
concept RecurrentCell =
    requires(Pack<double, Cell::kGates> gates, Pack<double, Cell::kStates> state, Pack<double, Cell::kSaved> saved,
             Pack<double, Cell::kUnitWeights> weights) {
      { Cell::kName } -> std::convertible_to<const char*>;
      { Cell::kSplit } -> std::convertible_to<bool>;        // d_from_h differs from d_from_x
      { Cell::kReadsHidden } -> std::convertible_to<bool>;  // needs h of its own unit; otherwise h may be a projection
      { Cell::kNormGroups } -> std::convertible_to<int>;    // sets of gates that a layer norm joins; 0: no such form
      { cell_forward<Cell, double>(gates, gates, state, weights) } -> std::same_as<CellForward<double, Cell>>;
      { cell_backward<Cell, double>(saved, state, state, state, weights) } -> std::same_as<CellBackward<double, Cell>>;
    } &&
    (Cell::kGates >= 1) && (Cell::kStates >= 1 && Cell::kStates <= 4) && (Cell::kSaved >= 0) &&
    (0 <= recurrent_gates<Cell>() && recurrent_gates<Cell>() <= Cell::kGates) &&
    (Cell::kNormGroups == 0 || (Cell::kStates <= 2 && recurrent_gates<Cell>() == Cell::kGates)) &&
    (!Cell::kSplit || joint_gates<Cell>() < recurrent_gates<Cell>());

template <RecurrentCell Cell>
constexpr CellSpec spec_of(int index) {
  return {Cell::kName,
          index,
          Cell::kGates,
          Cell::kStates,
          Cell::kSaved,
          Cell::kSplit,
          !Cell::kReadsHidden && recurrent_gates<Cell>() > 0,
          Cell::kUnitWeights,
          Cell::kNormGroups,
          joint_gates<Cell>(),
          recurrent_gates<Cell>()};
}

}  // namespace fused_rnn
