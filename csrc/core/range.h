// Ranges of indices and their division into nearly equal parts.
#pragma once

#include <cstdint>

namespace fused_rnn {

struct Range {
  int64_t begin, end;
  [[gnu::always_inline]] constexpr int64_t size() const { return end - begin; }
};

// The index-th of `parts` nearly equal parts. (Inlined, so that the units of the instruction sets leave no copy to
// share.)
[[gnu::always_inline]] constexpr Range part_of(Range range, int64_t parts, int64_t index) {
  if (parts == 1) return range;  // a division takes as long as a small tile
  return {range.begin + range.size() * index / parts, range.begin + range.size() * (index + 1) / parts};
}

}  // namespace fused_rnn
