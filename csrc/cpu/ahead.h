// Asks the memory for what the next step will touch, in the order in which it lies there.
//
// A step touches a vector here and a vector there, block of units by block of units, and memory is slow to answer that:
// on one core of an EPYC (Zen 4) 35 cycles for a line, where lines one after the other take 13. So each tile of a step
// asks for a part of the next step's rows, one line after the other, which brings them into the second cache.
#pragma once

#include "core/views.h"
#include "cpu/share.h"
#include "cpu/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// For a step of `tiles` tiles that touches about `row_bytes` of each row.
class Ahead {
 public:
  Ahead(const Share& share, int64_t tiles, int64_t time_steps, int64_t row_bytes)
      : on_(share.unit_parts == 1 && tiles > 0 && time_steps * share.rows.size() * row_bytes >= kFarBytes),
        rows_(share.rows),
        tiles_(tiles) {}

  // The `size` elements of each row of a sequence at `time`, which may lie outside of it.
  template <class T, class Void>
  void add(const SequenceView<Void>& view, int64_t time, int64_t time_steps, int64_t direction, int64_t size) {
    if (!on_ || !view || time < 0 || time >= time_steps) return;
    Stream& stream = streams_[count_++];
    stream.row = reinterpret_cast<const char*>(at<T>(view, time, rows_.begin, direction));
    stream.at = stream.row;
    stream.row_bytes = size * static_cast<int64_t>(sizeof(T));
    stream.row_stride = view.row_stride * static_cast<int64_t>(sizeof(T));
    stream.rows = rows_.size();
    stream.lines_per_tile = (stream.row_bytes / kLine + 1) * stream.rows / tiles_ + 1;
  }

  // At each tile. False where it asks for nothing: sequences that fit the caches, and threads that have only some units
  // of each row. There it is better to ask for what a tile itself will touch.
  bool advance() {
    for (int i = 0; i < count_; ++i) streams_[i].advance();
    return on_;
  }

 private:
  static constexpr int kLine = 64;
  static constexpr int64_t kFarBytes = 1 << 20;

  struct Stream {
    const char *row, *at;
    int64_t row_bytes, row_stride, rows, lines_per_tile;

    void advance() {
      for (int64_t line = 0; line < lines_per_tile && rows > 0; ++line) {
        __builtin_prefetch(at, 0, 2);
        at += kLine;
        if (at - row < row_bytes) continue;
        row += row_stride, at = row, --rows;
      }
    }
  };

  bool on_;
  Range rows_;
  int64_t tiles_;
  int count_ = 0;
  Stream streams_[5];
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
