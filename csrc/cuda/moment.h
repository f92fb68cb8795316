// Where a step of a schedule is in time.
#pragma once

#include "core/time.h"

namespace fused_rnn::cuda {

template <class Index>
struct Moment {
  Index time, time_before, time_after;  // of the step, and of its neighbours in the order of the direction
  Index position;                       // in that order, from 0 on
  bool is_last;                         // no step comes after
};

template <class Index>
FUSED_RNN_HD inline Moment<Index> moment_at(Index position, Direction direction, Index time_steps) {
  const Index time = time_at(position, direction, time_steps);
  return {time, time_before(time, direction), time_after(time, direction), position, position == time_steps - 1};
}

// The moments of a pass one after another, by an addition each; kBackward: from the last position on.
template <class Index, bool kBackward>
struct Walk {
  Index time, apart;  // apart: from a time to the time after

  FUSED_RNN_HD Walk(Direction direction, Index steps)
      : time(time_at(position(0, steps), direction, steps)), apart(direction == Direction::kForward ? 1 : -1) {}
  FUSED_RNN_HD static Index position(Index step, Index steps) { return kBackward ? steps - 1 - step : step; }
  FUSED_RNN_HD Moment<Index> at(Index step, Index steps) const {
    return {time, time - apart, time + apart, position(step, steps), position(step, steps) == steps - 1};
  }
  FUSED_RNN_HD Walk next() const { return {time + (kBackward ? -apart : apart), apart}; }

 private:
  FUSED_RNN_HD Walk(Index t, Index a) : time(t), apart(a) {}
};

// Of the first step; negative where there is none.
FUSED_RNN_HD inline int64_t first_time(int64_t steps, Direction d) {
  return steps > 0 ? time_at<int64_t>(0, d, steps) : -1;
}

}  // namespace fused_rnn::cuda
