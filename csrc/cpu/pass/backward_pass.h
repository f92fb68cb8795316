// What units do at one step of the backward pass, whatever the schedule: load, update, store.
//
//   load     what the forward pass left of the step, the state before it, and the gradients of the state after it
//   update   zoneout splits these gradients; the cell's backward makes those of the gates and of the state before
//   store    the gradients of the gates, for the caller and for the GEMM of the step before; what is carried there
//
// A reset row hands nothing to the step before. An inactive row hands on what it was handed, and its gate gradients
// are zero.
//
// A schedule says with `At` where its values are, for the vectors of units that `where` names:
//   carried(where, k)        the gradient of state k that the step after left
//   carry(where, k, d)       leaves one for the step before
//   hand_on(where, gate, d)  that of a recurrent gate for the GEMM of the step before
//   add(where, k, d)         to the gradient of a weight of the unit
#pragma once

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/unit_parameters.h"
#include "cpu/pass/zoneout.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// One step of one direction. The plain recurrence leaves zoneout out at compile time.
template <class Cell, class T, bool HasVariants>
class BackwardPass {
  using Real = RealOf<T>;
  static constexpr int kRecurrent = recurrent_gates<Cell>();

 public:
  int64_t hidden_size;
  BatchRows<const T> d_cells, saved, made;         // made: the states as the cell made them
  BatchRows<const T> output_before, cells_before;  // of the step before, in rows that do not begin here
  BatchRows<const T> h_0, c_0;                     // in those that do; null: zeros
  BatchRows<T> d_gates, d_gates_h;
  int first_split_gate;  // the gate that d_gates_h begins with
  UnitWeights<Cell, Real> weights;
  Zoneout<T> zoneout{};

  // For the step at a position and a time.
  BackwardPass(const Problem& problem, const BackwardViews& views, const UnitWeights<Cell, Real>& unit_weights,
               int64_t d, int64_t s, int64_t t)
      : hidden_size(problem.hidden_size),
        d_cells(rows_at<T>(views.d_cells, t, d)),
        saved(rows_at<T>(views.saved, t, d)),
        made(rows_at<T>(kCellStates<Cell> > 0 ? views.cells : views.output, t, d)),
        h_0(rows_at<T>(views.h_0, d)),
        c_0(rows_at<T>(views.c_0, d)),
        d_gates(rows_at<T>(views.d_gates, t, d)),
        d_gates_h(rows_at<T>(views.d_gates_h, t, d)),
        first_split_gate(views.first_split_gate),
        weights(unit_weights) {
    if (s > 0) {
      const int64_t before = time_before(t, direction_of(d, problem.heads));
      output_before = rows_at<T>(views.output, before, d);
      cells_before = rows_at<T>(views.cells, before, d);
    }
    if constexpr (HasVariants) {
      zoneout = {rows_at<T>(views.variant.zoneout, t, d), hidden_size};
      if (zoneout) made = saved.from(Cell::kSaved * hidden_size);
    }
  }

  // From the whole gradient of h; `begins` where no active step is before this one.
  template <class Where, class At, class Rows>
  FUSED_RNN_INLINE void operator()(const Where& where, RowStep kind, bool begins, const Rows& d_h, const At& at) const {
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kInactive) return pass_through(where, d_h, at);
    }
    const auto cell = [&](const auto& values, const auto& before, const auto& after, const auto& d_after)
                          FUSED_RNN_INLINE_LAMBDA {
                            return cell_backward<Cell, Rows>(values, before, after, d_after, weights.at(where));
                          };
    const CellBackward<Rows, Cell> result = gradients(where, state_before(where, kind, begins), d_h, at, cell);
#pragma GCC unroll 4
    for (int g = 0; g < Cell::kGates; ++g) {
      store(where, g, result.d_from_x[g], result.d_from_h[g]);
      if (g < kRecurrent) at.hand_on(where, g, result.d_from_h[g]);
    }
    for (int k = 0; k < Cell::kUnitWeights; ++k) at.add(where, k, result.d_unit_weights[k]);
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kReset) hand_nothing_on(where, at);
    }
  }

  // The first half of it: cell(saved, before, after, d_after), which may be another than the plain one, and what is
  // carried to the step before.
  template <class Where, class Before, class Rows, class At, class CellBackwardOf>
  FUSED_RNN_INLINE auto gradients(const Where& where, const Before& before, const Rows& d_h, const At& at,
                                  const CellBackwardOf& cell) const {
    Pack<Rows, Cell::kStates> after{}, d_after, d_stayed{};
    d_after[0] = d_h;
#pragma GCC unroll 4
    for (int k = 1; k < Cell::kStates; ++k) {
      d_after[k] = at.carried(where, k);
      if (d_cells) d_after[k] = d_after[k] + load_rows(where, d_cells.from((k - 1) * hidden_size));
    }
    if constexpr (Cell::kReadsHidden || kCellStates<Cell> > 0) {
#pragma GCC unroll 4
      for (int k = kFirstMade<Cell>; k < Cell::kStates; ++k)
        after[k] = load_rows(where, made.from((k - kFirstMade<Cell>)*hidden_size));
    }
    if constexpr (HasVariants) {
      if (zoneout) {
        for (int k = 0; k < Cell::kStates; ++k) zoneout.split(where, k, d_after[k], d_stayed[k]);
      }
    }
    const CellBackward<Rows, Cell> result = cell(saved_of(where), before, after, d_after);
    for (int k = 0; k < Cell::kStates; ++k)
      at.carry(where, k, HasVariants ? result.d_state[k] + d_stayed[k] : result.d_state[k]);
    return result;
  }

  template <class Where>
  FUSED_RNN_INLINE auto saved_of(const Where& where) const {
    Pack<Vec<Real, Where::kParts>, Cell::kSaved> values{};
#pragma GCC unroll 4
    for (int k = 0; k < Cell::kSaved; ++k) values[k] = load_rows(where, saved.from(k * hidden_size));
    return values;
  }

  // What the cell's backward reads of the state before the step; the rest is zero.
  template <class Where>
  FUSED_RNN_INLINE auto state_before(const Where& where, RowStep kind, bool begins) const {
    Pack<Vec<Real, Where::kParts>, Cell::kStates> before{};
    if (Where::kParts == 1 && kind == RowStep::kReset) return before;
    const auto load = [&](const BatchRows<const T>& step_before, const BatchRows<const T>& initial, int64_t first)
                          FUSED_RNN_INLINE_LAMBDA {
                            if (!begins) return load_rows(where, step_before.from(first));
                            return initial ? load_rows(where, initial.from(first)) : Vec<Real, Where::kParts>(0);
                          };
    if constexpr (Cell::kReadsHidden) before[0] = load(output_before, h_0, 0);
#pragma GCC unroll 4
    for (int k = 1; k < Cell::kStates; ++k) before[k] = load(cells_before, c_0, (k - 1) * hidden_size);
    return before;
  }

  template <class Where, class Rows>
  FUSED_RNN_INLINE void store(const Where& where, int gate, const Rows& d_from_x, const Rows& d_from_h) const {
    store_rows(where, d_from_x, d_gates.from(gate * hidden_size));
    if (Cell::kSplit && gate < kRecurrent && gate >= first_split_gate)
      store_rows(where, d_from_h, d_gates_h.from(gate * hidden_size));
  }

  // Asks the memory for what the pass will read and write.
  template <int Vectors, class TileOf>
  FUSED_RNN_INLINE void prefetch(const TileOf& tile) const {
    prefetch_tile<Vectors>(tile, Cell::kSaved, hidden_size, saved);
    if (cells_before) prefetch_tile<Vectors>(tile, kCellStates<Cell>, hidden_size, cells_before);
    prefetch_tile<Vectors, true>(tile, Cell::kGates, hidden_size, d_gates);
    if constexpr (Cell::kSplit)
      prefetch_tile<Vectors, true>(tile, kRecurrent - first_split_gate, hidden_size,
                                   d_gates_h.from(first_split_gate * hidden_size));
  }

  // Of an inactive row.
  template <class Where, class At>
  [[gnu::noinline]] void pass_through(const Where& where, const Vec<Real>& d_h, const At& at) const {
    for (int g = 0; g < Cell::kGates; ++g) {
      store(where, g, Vec<Real>(0), Vec<Real>(0));
      if (g < kRecurrent) at.hand_on(where, g, Vec<Real>(0));
    }
    at.carry(where, 0, d_h);  // the other carries stay where they are
  }

  // Of a reset row after its update: the state before the step was no function of anything.
  template <class Where, class At>
  [[gnu::noinline]] void hand_nothing_on(const Where& where, const At& at) const {
    for (int g = 0; g < kRecurrent; ++g) at.hand_on(where, g, Vec<Real>(0));
    for (int k = 0; k < Cell::kStates; ++k) at.carry(where, k, Vec<Real>(0));
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
