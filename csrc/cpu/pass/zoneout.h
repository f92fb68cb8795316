// Zoneout (Krueger et al. 2017): a part of each state before a step stays. state' = part before + (1 - part) made.
#pragma once

#include "cpu/gemm/tile_vectors.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// The parts of one step of one direction.
template <class T>
struct Zoneout {
  BatchRows<const T> parts;  // [B, states, H]; null: there is no zoneout
  int64_t hidden_size = 0;

  explicit operator bool() const { return static_cast<bool>(parts); }

  template <class Where, class Rows>
  FUSED_RNN_INLINE Rows mix(const Where& where, int state, const Rows& made, const Rows& before) const {
    const Rows part = part_of_state(where, state);
    return made * (Rows(1) - part) + before * part;
  }

  // The gradient of a state into those of what the cell made, in its place, and of what stayed.
  template <class Where, class Rows>
  FUSED_RNN_INLINE void split(const Where& where, int state, Rows& d, Rows& d_stayed) const {
    const Rows part = part_of_state(where, state);
    d_stayed = d * part;
    d = d * (Rows(1) - part);
  }

 private:
  template <class Where>
  FUSED_RNN_INLINE auto part_of_state(const Where& where, int state) const {
    return load_rows(where, parts.from(state * hidden_size));
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
