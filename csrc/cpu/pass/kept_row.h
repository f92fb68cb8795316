// What the forward pass kept of one row and step, as the backward pass of whole rows finds it.
#pragma once

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/simd/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class T>
struct KeptRow {
  int64_t d, t, index;                      // direction, time, row of the batch
  const T* before[2] = {nullptr, nullptr};  // the states before the step; null: zeros
  const T* made = nullptr;                  // the last state as the cell made it
  const T* saved = nullptr;                 // the cell's own values
  const T* sums = nullptr;                  // the recurrent gates before their norms, only with these
  const T* stays = nullptr;                 // only with zoneout
};

template <class Cell, class T>
KeptRow<T> kept_row(const Problem& problem, const BackwardViews& views, int64_t d, int64_t s, int64_t t,
                    int64_t index) {
  KeptRow<T> row{.d = d, .t = t, .index = index};
  if (views.saved) row.saved = at<T>(views.saved, t, index, d);
  const T* extra = row.saved + Cell::kSaved * problem.hidden_size;  // saved_values says what follows
  row.made = at<T>(Cell::kStates == 2 ? views.cells : views.output, t, index, d);
  if (problem.zoneout) {
    row.stays = at<T>(views.variant.zoneout, t, index, d);
    row.made = extra;
    extra += problem.hidden_size;
  }
  if (problem.normalized) row.sums = extra;
  const StateBefore where = state_before(views, s, t, d, index);
  const auto before = [&](const SequenceView<const void>& states, const StateView<const void>& initial) -> const T* {
    if (where == StateBefore::kStep) return at<T>(states, time_before(t, d), index, d);
    return where == StateBefore::kInitial && initial ? at<T>(initial, d, index) : nullptr;
  };
  if (Cell::kReadsHidden) row.before[0] = before(views.output, views.h_0);
  if (Cell::kStates == 2) row.before[1] = before(views.cells, views.c_0);
  return row;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
