// Asks the memory for what the next step will touch, in the order in which it lies there.
//
// A step touches a vector here and a vector there, block of units by block of units, and memory is slow to answer that:
// on one core of an EPYC (Zen 4) 35 cycles for a line, where lines one after the other take 13. So while a step's
// product multiplies, each chunk of its tiles asks for a part of the next step's rows, one line after the other.
#pragma once

#include "core/views.h"
#include "cpu/lines.h"
#include "cpu/share.h"
#include "cpu/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

class Ahead {
 public:
  // For a step of `chunks` chunks, one of `time_steps`.
  Ahead(const Share& share, int64_t chunks, int64_t time_steps)
      : shares_units_(share.unit_parts > 1), rows_(share.rows), chunks_(chunks), time_steps_(time_steps) {}

  // The `size` elements of each row of a sequence at `time`, which may lie outside of it.
  template <class T, class Void>
  void add(const SequenceView<Void>& view, int64_t time, int64_t direction, int64_t size) {
    if (chunks_ == 0 || !view || time < 0 || time >= time_steps_) return;
    constexpr auto kBytes = static_cast<int64_t>(sizeof(T));
    bytes_ += size * kBytes * rows_.size();
    lines_.add(at<T>(view, time, rows_.begin, direction), size * kBytes, view.row_stride * kBytes, rows_.size(),
               chunks_);
  }

  // Null for sequences that fit the caches, and for threads that have only some units of each row. There it is better
  // to ask for what a tile itself will touch.
  Lines* lines() { return shares_units_ || bytes_ * time_steps_ < kFarBytes ? nullptr : &lines_; }

 private:
  static constexpr int64_t kFarBytes = 1 << 20;

  bool shares_units_;
  Range rows_;
  int64_t chunks_, time_steps_;
  int64_t bytes_ = 0;  // of one step
  Lines lines_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
