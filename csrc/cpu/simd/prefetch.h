// Prefetch of memory that will be needed later, asked for a few at a time.
#pragma once

#include <cstdint>

#include "cpu/simd/vec.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

class Prefetch {
 public:
  static constexpr int kStreams = 8, kBytes = 64;  // of a line

  // Rows of `bytes` bytes, `stride` bytes apart, in `parts` nearly equal parts.
  void add(const void* first, int64_t bytes, int64_t stride, int64_t rows, int64_t parts) {
    if (count_ == kStreams) return;  // a prefetch less
    const auto* row = static_cast<const char*>(first);
    streams_[count_++] = {row, row, bytes, stride, rows, (bytes / kBytes + 1) * rows / parts + 1};
  }

  // Asks for the next part of each, to be in L2.
  void issue() {
    for (int i = 0; i < count_; ++i) streams_[i].issue();
  }

 private:
  struct Stream {
    const char *row, *at;
    int64_t bytes, stride, rows, lines_of_part;

    void issue() {
      for (int64_t line = 0; line < lines_of_part && rows > 0; ++line) {
        __builtin_prefetch(at, 0, 2);
        at += kBytes;
        if (at - row < bytes) continue;
        row += stride, at = row, --rows;
      }
    }
  };

  int count_ = 0;
  Stream streams_[kStreams];
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
