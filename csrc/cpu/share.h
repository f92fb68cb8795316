// Which part of a recurrence one thread of a plan works on, and whom it has to wait for.
#pragma once

#include "cpu/arena.h"
#include "cpu/plan.h"
#include "cpu/product.h"
#include "cpu/team.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

struct Share {
  Range directions, rows;
  int unit_part, unit_parts;
  Barrier* barrier;  // shared by the threads that differ only in unit_part

  Range blocks_of(int64_t blocks) const { return part_of({0, blocks}, unit_parts, unit_part); }
  // A second cut of the rows, for work that is not bound to units.
  Range own_rows() const { return part_of(rows, unit_parts, unit_part); }
  void wait() const { barrier->wait(unit_parts); }
};

// The barriers of a plan: one for the whole team and one for each group that shares units.
class Barriers {
 public:
  Barriers(const Plan& plan, Arena& arena)
      : plan_(plan), barriers_(arena.take<Barrier>(1 + plan.direction_parts * plan.row_parts)) {}

  // Call once, before the team starts.
  void reset() const { Barrier::make(barriers_, 1 + plan_.direction_parts * plan_.row_parts); }

  void wait_for_team() const { barriers_[0].wait(plan_.threads()); }

  Share share_of(int thread, int64_t directions, int64_t batch) const {
    const int unit_part = thread % plan_.unit_parts;
    const int group = thread / plan_.unit_parts;
    return {part_of({0, directions}, plan_.direction_parts, group / plan_.row_parts),
            part_of({0, batch}, plan_.row_parts, group % plan_.row_parts), unit_part, plan_.unit_parts,
            barriers_ + 1 + group};
  }

 private:
  Plan plan_;
  Barrier* barriers_;
};

// A cell's block shape in this instruction set.
template <int Gates, class Real>
struct Block {
  static constexpr int kVectors = vectors_per_block(Gates);
  static constexpr int kColumns = kVectors * Gates;
  static constexpr int kUnits = kVectors * Vec<Real>::kLanes;

  static constexpr int64_t count(int64_t units) { return (units + kUnits - 1) / kUnits; }
  static constexpr int64_t padded(int64_t units) { return count(units) * kUnits; }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
