// Walks over the units of a row.
#pragma once

#include "core/views.h"
#include "cpu/pass/state_buffer.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Calls visit(unit, count) for each vector of `units` units.
template <class Real, class Visit>
FUSED_RNN_INLINE void for_each_vector_of_row(int64_t units, const Visit& visit) {
  for (int64_t unit = 0; unit < units; unit += Vec<Real>::kLanes) {
    visit_lanes<Real>(units - unit, [&](auto count) FUSED_RNN_INLINE_LAMBDA { visit(unit, count); });
  }
}

// Zeros a row of a buffer with its padding, or nothing where the problem has no such buffer.
template <class Kept>
void clear_row(const StateBuffer<Kept>& buffer, int64_t d, int64_t row) {
  using V = Vec<RealOf<Kept>>;
  if (buffer.data == nullptr) return;
  for (int64_t i = 0; i < buffer.stride; i += V::kLanes) Storage<Kept>::store(buffer.row(d, row) + i, V(0));
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
