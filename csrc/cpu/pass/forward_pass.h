// What units do at one step of the forward pass, whatever the schedule: load, update, store.
//
//   load     the gates from x and from h, and the state before the step, from where the schedule has them
//   update   the cell, then zoneout; h is rounded as it is stored
//   store    the new state for the schedule, the results for the caller
//
// A reset row has the bias for its gates from h, and zero for the state before. An inactive row keeps its state, and
// its results are zero.
//
// A schedule says with `At` where its values are, for the vectors of units that `where` names:
//   from_x(where, gate)   from_h(where, gate)   bias(where, gate): from_h of a row whose h is zero; of recurrent gates
//   before(where, k)      keep(where, states)   stay(where)      : the state before, the new one, the one that stays
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/unit_parameters.h"
#include "cpu/pass/zoneout.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// What a step leaves for the caller.
template <class Cell, class T>
struct StepResults {
  int64_t hidden_size = 0;
  BatchRows<T> h, cells, saved;  // each may be null; h is `output` or, before its projection, `hidden`

  StepResults() = default;
  StepResults(const Problem& problem, const ForwardViews& views, int64_t d, int64_t t)
      : hidden_size(problem.hidden_size),
        h(rows_at<T>(problem.projected ? views.hidden : views.output, t, d)),
        cells(rows_at<T>(views.cells, t, d)),
        saved(rows_at<T>(views.saved, t, d)) {}

  // h is rounded.
  template <class Where, class Rows>
  FUSED_RNN_INLINE void store(const Where& where, const CellForward<Rows, Cell>& result) const {
    if (h) store_rows(where, result.state[0], h);
    if constexpr (kCellStates<Cell> > 0) {
      if (cells) {
#pragma GCC unroll 4
        for (int k = 1; k < Cell::kStates; ++k) store_rows(where, result.state[k], cells.from((k - 1) * hidden_size));
      }
    }
    if (!saved) return;
#pragma GCC unroll 4
    for (int k = 0; k < Cell::kSaved; ++k) save(where, k, result.saved[k]);
  }

  // One of saved_values.
  template <class Where, class Rows>
  FUSED_RNN_INLINE void save(const Where& where, int k, const Rows& value) const {
    store_rows(where, value, saved.from(k * hidden_size));
  }

  // Asks the memory for what `store` will write.
  template <int Vectors, class TileOf>
  FUSED_RNN_INLINE void prefetch(const TileOf& tile) const {
    if (h) prefetch_tile<Vectors, true>(tile, 1, hidden_size, h);
    if (cells) prefetch_tile<Vectors, true>(tile, kCellStates<Cell>, hidden_size, cells);
    if (saved) prefetch_tile<Vectors, true>(tile, Cell::kSaved, hidden_size, saved);
  }
};

// One step of one direction. The plain recurrence leaves zoneout out at compile time.
template <class Cell, class T, bool HasVariants>
class ForwardPass {
  using Real = RealOf<T>;
  static constexpr int kRecurrent = recurrent_gates<Cell>();

 public:
  ForwardPass(const Problem& problem, const ForwardViews& views, const UnitWeights<Cell, Real>& weights, int64_t d,
              int64_t t)
      : results_(problem, views, d, t), weights_(weights) {
    if constexpr (HasVariants) zoneout_ = {rows_at<T>(views.variant.zoneout, t, d), problem.hidden_size};
  }

  // Without results.
  explicit ForwardPass(const UnitWeights<Cell, Real>& weights) : weights_(weights) {}

  const StepResults<Cell, T>& results() const { return results_; }

  template <class Where, class At>
  FUSED_RNN_INLINE void operator()(const Where& where, RowStep kind, const At& at) const {
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kInactive) return pass_through(where, at);
    }
    const auto before = state_before(where, kind, at);
    auto result = cell(where, kind, at, before);
    complete(where, at, before, result);
  }

  // The first half of it, up to what the cell makes.
  template <class Where, class At, class Before>
  FUSED_RNN_INLINE auto cell(const Where& where, RowStep kind, const At& at, const Before& before) const {
    using Rows = Vec<Real, Where::kParts>;
    Pack<Rows, Cell::kGates> from_x, from_h;
#pragma GCC unroll 4
    for (int g = 0; g < Cell::kGates; ++g) {
      from_x[g] = at.from_x(where, g);
      from_h[g] = Rows(0);
      if (g < kRecurrent) from_h[g] = at.from_h(where, g);
    }
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kReset) {
        for (int g = 0; g < kRecurrent; ++g) from_h[g] = at.bias(where, g);
      }
    }
    return cell_forward<Cell, Rows>(from_x, from_h, before, weights_.at(where));
  }

  // What the update reads of the state before the step; the rest is zero.
  template <class Where, class At>
  FUSED_RNN_INLINE auto state_before(const Where& where, RowStep kind, const At& at) const {
    Pack<Vec<Real, Where::kParts>, Cell::kStates> before{};
    if (Where::kParts == 1 && kind == RowStep::kReset) return before;
    if (Cell::kReadsHidden || (HasVariants && zoneout_)) before[0] = at.before(where, 0);
#pragma GCC unroll 4
    for (int k = 1; k < Cell::kStates; ++k) before[k] = at.before(where, k);
    return before;
  }

  // The second half.
  template <class Where, class At, class Rows>
  FUSED_RNN_INLINE void complete(const Where& where, const At& at, const Pack<Rows, Cell::kStates>& before,
                                 CellForward<Rows, Cell>& result) const {
    const Pack<Rows, Cell::kStates> made = result.state;
    if constexpr (HasVariants) {
      if (zoneout_) {
        for (int k = 0; k < Cell::kStates; ++k) result.state[k] = zoneout_.mix(where, k, result.state[k], before[k]);
      }
    }
    result.state[0] = round_to<T>(result.state[0]);
    at.keep(where, result.state);
    store(where, result, made);
  }

  // Of an inactive row.
  template <class Where, class At>
  [[gnu::noinline]] void pass_through(const Where& where, const At& at) const {
    at.stay(where);
    store(where, CellForward<Vec<Real>, Cell>{}, Pack<Vec<Real>, Cell::kStates>{});
  }

 private:
  // With zoneout also the states as the cell made them.
  template <class Where, class Rows>
  FUSED_RNN_INLINE void store(const Where& where, const CellForward<Rows, Cell>& result,
                              const Pack<Rows, Cell::kStates>& made) const {
    results_.store(where, result);
    if constexpr (HasVariants) {
      if (zoneout_ && results_.saved) {
        for (int k = kFirstMade<Cell>; k < Cell::kStates; ++k)
          results_.save(where, Cell::kSaved + k - kFirstMade<Cell>, made[k]);
      }
    }
  }

  StepResults<Cell, T> results_;
  UnitWeights<Cell, Real> weights_;
  Zoneout<T> zoneout_{};
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
