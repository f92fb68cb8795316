// What a forward step leaves for the caller.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/gemm/tile_vectors.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class T>
struct StepResults {
  int64_t hidden_size;
  BatchRows<T> h, cells, saved;  // each may be null; h is `output` or, before its projection, `hidden`

  StepResults(const ForwardViews& views, const Problem& problem, bool projected, int64_t d, int64_t t)
      : hidden_size(problem.hidden_size),
        h(rows_at<T>(projected ? views.hidden : views.output, t, d)),
        cells(rows_at<T>(views.cells, t, d)),
        saved(rows_at<T>(views.saved, t, d)) {}

  // h is rounded.
  template <class Cell, class Where, class Rows>
  FUSED_RNN_INLINE void store(const Where& where, const CellForward<Rows, Cell>& result) const {
    if (h) store_rows(where, result.state[0], h);
    if constexpr (Cell::kStates == 2) {
      if (cells) store_rows(where, result.state[1], cells);
    }
    if (!saved) return;
#pragma GCC unroll 4
    for (int k = 0; k < Cell::kSaved; ++k) store_rows(where, result.saved[k], saved.from(k * hidden_size));
  }

  // Asks the memory for what `store` will write.
  template <class Cell, int Vectors, class TileOf>
  FUSED_RNN_INLINE void prefetch(const TileOf& tile) const {
    if (h) prefetch_tile<Vectors, true>(tile, 1, hidden_size, h);
    if (cells) prefetch_tile<Vectors, true>(tile, 1, hidden_size, cells);
    if (saved) prefetch_tile<Vectors, true>(tile, Cell::kSaved, hidden_size, saved);
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
