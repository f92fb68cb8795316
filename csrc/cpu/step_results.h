// What a forward step leaves for the caller.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/tile_vectors.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// h, rounded, goes to `output` or, before its projection, to `hidden`.
template <class T, class Cell, class Where, class Rows>
FUSED_RNN_INLINE void store_results(const ForwardViews& views, const Problem& problem, bool projected,
                                    const Where& where, int64_t d, int64_t t, const CellForward<Rows, Cell>& result) {
  const SequenceView<void>& h = projected ? views.hidden : views.output;
  if (h) {
    store_rows<T>(where, result.state[0], [&](int64_t row) FUSED_RNN_INLINE_LAMBDA { return at<T>(h, t, row, d); });
  }
  if constexpr (Cell::kStates == 2) {
    if (views.cells)
      store_rows<T>(where, result.state[1],
                    [&](int64_t row) FUSED_RNN_INLINE_LAMBDA { return at<T>(views.cells, t, row, d); });
  }
  if (!views.saved) return;
#pragma GCC unroll 4
  for (int k = 0; k < Cell::kSaved; ++k) {
    store_rows<T>(where, result.saved[k], [&](int64_t row) FUSED_RNN_INLINE_LAMBDA {
      return at<T>(views.saved, t, row, d) + k * problem.hidden_size;
    });
  }
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
