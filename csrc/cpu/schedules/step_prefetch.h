// Asks the memory for what the next step will touch, in the order in which it lies there.
//
// A step touches a vector here and a vector there, block of units by block of units, and memory is slow to answer that:
// on one core of an EPYC (Zen 4) 35 cycles for a line, where lines one after the other take 13. So while a step's
// GEMM multiplies, each chunk of its tiles asks for a part of the next step's rows, one line after the other.
#pragma once

#include "core/views.h"
#include "cpu/schedules/partition.h"
#include "cpu/simd/prefetch.h"
#include "cpu/simd/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

class StepPrefetch {
 public:
  // For a step of `chunks` chunks, one of `time_steps`.
  StepPrefetch(const Part& part, int64_t chunks, int64_t time_steps)
      : shares_units_(part.unit_parts > 1), rows_(part.rows), chunks_(chunks), time_steps_(time_steps) {}

  // The `size` elements of each row of a sequence at `time`, which may lie outside of it.
  template <class T, class Void>
  void add(const SequenceView<Void>& view, int64_t time, int64_t direction, int64_t size) {
    if (chunks_ == 0 || !view || time < 0 || time >= time_steps_) return;
    constexpr auto kBytes = static_cast<int64_t>(sizeof(T));
    bytes_ += size * kBytes * rows_.size();
    rows_ahead_.add(at<T>(view, time, rows_.begin, direction), size * kBytes, view.row_stride * kBytes, rows_.size(),
                    chunks_);
  }

  // Null for sequences that fit the caches, and for threads that have only some units of each row. There it is better
  // to ask for what a tile itself will touch.
  Prefetch* of_step() { return shares_units_ || bytes_ * time_steps_ < kFarBytes ? nullptr : &rows_ahead_; }

 private:
  static constexpr int64_t kFarBytes = 1 << 20;

  bool shares_units_;
  Range rows_;
  int64_t chunks_, time_steps_;
  int64_t bytes_ = 0;  // of one step
  Prefetch rows_ahead_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
