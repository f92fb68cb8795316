// Which part of a recurrence one thread of a plan works on, and whom it has to wait for.
#pragma once

#include <algorithm>

#include "core/range.h"
#include "core/views.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/plan.h"
#include "cpu/runtime/team.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

struct Part {
  Range directions, rows;
  int unit_part, unit_parts;
  Barrier* barrier;  // shared by the threads that differ only in unit_part

  Range blocks_of(int64_t blocks) const { return part_of({0, blocks}, unit_parts, unit_part); }
  // A second partition of the rows, for work that is not bound to units.
  Range own_rows() const { return part_of(rows, unit_parts, unit_part); }
  void wait() const { barrier->wait(unit_parts); }
};

// The first row of the index-th of `parts` parts of the batch: with lengths, rows of nearly as many steps in each, and
// at least one row.
inline int64_t first_row_of_part(const Problem& p, const int64_t* lengths, int64_t parts, int64_t index) {
  if (lengths == nullptr || index == 0 || index == parts || p.batch < parts) return p.batch * index / parts;
  const auto steps_of = [&](int64_t row) { return std::clamp<int64_t>(lengths[row], 0, p.time_steps); };
  int64_t all = 0, before = 0, row = 0;
  for (int64_t each = 0; each < p.batch; ++each) all += steps_of(each);
  // Half of a row's steps: the nearer boundary, before it or behind.
  for (; row < p.batch && 2 * before + steps_of(row) < 2 * all * index / parts; ++row) before += steps_of(row);
  return std::clamp(row, index, p.batch - (parts - index));
}

// The barriers of a plan: one for the whole team and one for each group that shares units.
class Barriers {
 public:
  Barriers(const Plan& plan, Arena& arena)
      : plan_(plan), barriers_(arena.take<Barrier>(1 + plan.direction_parts * plan.row_parts)) {}

  // Call once, before the team starts.
  void reset() const { Barrier::make(barriers_, 1 + plan_.direction_parts * plan_.row_parts); }

  void wait_for_team() const { barriers_[0].wait(plan_.threads()); }

  template <class Views>
  Part part_of_thread(int thread, const Problem& p, const Views& views) const {
    const int unit_part = thread % plan_.unit_parts, group = thread / plan_.unit_parts;
    const auto first_row = [&](int64_t index) {
      return first_row_of_part(p, views.lengths, plan_.row_parts, group % plan_.row_parts + index);
    };
    return {part_of({0, p.directions}, plan_.direction_parts, group / plan_.row_parts),
            {first_row(0), first_row(1)},
            unit_part,
            plan_.unit_parts,
            barriers_ + 1 + group};
  }

 private:
  Plan plan_;
  Barrier* barriers_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
