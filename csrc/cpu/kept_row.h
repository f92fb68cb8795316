// What the forward pass kept of one row and step, as the backward pass of whole rows finds it.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/storage.h"

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

// Where an active row's state before position s, time t, is; null: it is zero.
template <class T>
const T* state_before(const BackwardViews& views, const SequenceView<const void>& states,
                      const StateView<const void>& initial, int64_t d, int64_t s, int64_t t, int64_t row) {
  const int64_t before = d == 0 ? t - 1 : t + 1;
  if (s > 0 && row_step(views, before, row) != RowStep::kInactive) return at<T>(states, before, row, d);
  return initial ? at<T>(initial, d, row) : nullptr;
}

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
  if (row_step(views, t, index) == RowStep::kReset) return row;
  if (Cell::kReadsHidden) row.before[0] = state_before<T>(views, views.output, views.h_0, d, s, t, index);
  if (Cell::kStates == 2) row.before[1] = state_before<T>(views, views.cells, views.c_0, d, s, t, index);
  return row;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
