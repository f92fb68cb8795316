// Which time a step has, which step is before it, and where the state before it lies, for either direction.
//
// A position counts the steps in the order of a direction: the first direction walks forward in time, the second back.
// A direction has one head or several, which exchange nothing. D counts all heads, those of the first direction first.
#pragma once

#include "core/views.h"

namespace fused_rnn {

enum class Direction : bool { kForward, kBackward };

// That of index d of D.
FUSED_RNN_HD constexpr Direction direction_of(int64_t d, int64_t heads) {
  return d < heads ? Direction::kForward : Direction::kBackward;
}

// `Index` is what a backend computes places in.
template <class Index>
FUSED_RNN_HD inline Index time_at(Index position, Direction direction, Index time_steps) {
  return direction == Direction::kForward ? position : time_steps - 1 - position;
}
template <class Index>
FUSED_RNN_HD inline Index time_before(Index time, Direction direction) {
  return direction == Direction::kForward ? time - 1 : time + 1;
}
template <class Index>
FUSED_RNN_HD inline Index time_after(Index time, Direction direction) {
  return direction == Direction::kForward ? time + 1 : time - 1;
}

// Whether an active row begins at a position: no step is before it, or the row is inactive at the time before.
template <class Views>
FUSED_RNN_HD inline bool begins(const Views& views, int64_t position, int64_t before, int64_t row) {
  return position == 0 || row_step(views, before, row) == RowStep::kInactive;
}

// Where the state of an active row before a step lies.
enum class StateBefore {
  kStep,     // in the results of the step before
  kInitial,  // in the initial states, which are zeros where they are not given
  kZero,     // nowhere: a reset
};

template <class Views>
FUSED_RNN_HD inline StateBefore state_before(const Views& views, int64_t position, int64_t time, Direction direction,
                                             int64_t row) {
  if (row_step(views, time, row) == RowStep::kReset) return StateBefore::kZero;
  return begins(views, position, time_before(time, direction), row) ? StateBefore::kInitial : StateBefore::kStep;
}

}  // namespace fused_rnn
