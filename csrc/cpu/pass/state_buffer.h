// The running states of a sweep: rows in a type of its own, padded to whole blocks, and their way in and out.
#pragma once

#include "core/range.h"
#include "cpu/simd/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class T>
struct StateBuffer {  // [D, B, stride]
  T* data;
  int64_t batch, stride;

  T* row(int64_t direction, int64_t row) const { return data + (direction * batch + row) * stride; }
  BatchRows<T> rows(int64_t direction) const { return {row(direction, 0), stride}; }
};

// Fills the rows of one direction from a view; zeros where there is none, and in the padding. A row has `runs` times
// `units` units, each run padded for itself.
template <class T, class Kept>
void load_state(const StateView<const void>& view, int64_t units, const StateBuffer<Kept>& to, int64_t d, Range rows,
                int runs = 1) {
  using V = Vec<RealOf<T>>;
  const int64_t padded = to.stride / runs;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int run = 0; run < runs; ++run) {
      for (int64_t unit = 0; unit < padded; unit += V::kLanes) {
        V value(0);
        if (view) {
          visit_lanes<RealOf<T>>(units - unit,
                                 [&](auto n) { value = load<T>(at<T>(view, d, row) + run * units + unit, n); });
        }
        Storage<Kept>::store(to.row(d, row) + run * padded + unit, value);
      }
    }
  }
}

template <class T, class Kept>
void store_state(const StateBuffer<Kept>& from, const StateView<void>& view, int64_t units, int64_t d, Range rows,
                 int runs = 1) {
  using V = Vec<RealOf<T>>;
  const int64_t padded = from.stride / runs;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int run = 0; run < runs; ++run) {
      for (int64_t unit = 0; unit < units; unit += V::kLanes) {
        const V value = Storage<Kept>::load(from.row(d, row) + run * padded + unit);
        visit_lanes<RealOf<T>>(units - unit,
                               [&](auto n) { store<T>(at<T>(view, d, row) + run * units + unit, value, n); });
      }
    }
  }
}

// Rows of sums over time, `count` runs of padded units, into a view that has one time; nothing where it is null.
template <class T, class Kept>
void store_sums(const StateBuffer<Kept>& from, const SequenceView<void>& to, int count, int64_t units, int64_t d,
                Range rows) {
  if (!to) return;
  const StateView<void> view{at<T>(to, 0, 0, 0), to.direction_stride, to.row_stride};
  store_state<T>(from, view, units, d, rows, count);
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
