// Draws the masks of zoneout from a seed: the same on every processor and for every type.
#pragma once

#include <cstdint>

#include "core/problem.h"

namespace fused_rnn {

// Which units of `rows` rows keep each of their states, [rows, states, units]: ones and zeros of a type.
struct ZoneoutMask {
  DataType type;
  int64_t rows, states, units;
  double of_h, of_others;  // the probabilities of a one, in the first state and in all others
};

// `to` has rows * states * units elements. Decisions are independent, and their probabilities are rounded to a multiple
// of 2^-16, but not to 0.
void draw_zoneout_mask(const ZoneoutMask& mask, uint64_t seed, void* to);

}  // namespace fused_rnn
