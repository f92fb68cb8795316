// The CPU schedule of the forward pass: every thread walks through time over its share of directions, rows and units.
//
// Where the gates are not given, a thread makes those of a few steps (input_gates.h), then walks through these steps.
// One step of a thread, for its rows and blocks of units:
//   product   from_h = b_hh + W_hh h_{t-1}    tile by tile, h from a buffer in the compute type
//   update    the cell, in registers; writes output, h_t into the other h buffer, and what backward needs
//   barrier   only where threads share units: h_t is complete, and h_{t-1} may be overwritten
// With a projection the update writes the unprojected h into `hidden`, and a second product makes h_t from it.
//
// Lengths and resets are questions about a row at its update (row_step): a reset row takes the bias for its product and
// zero for its state; an inactive row keeps its state, and its results are zero. A tile of rows that all do without
// their product leaves it out.
#pragma once

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/pass/step_results.h"
#include "cpu/schedules/input_gates.h"
#include "cpu/schedules/partition.h"
#include "cpu/schedules/step_prefetch.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
class ForwardSweep {
  using Real = RealOf<T>;
  using Row = RowOf<T>;  // of h
  using V = Vec<Real>;
  using Units = typename ForwardWeights<Cell, T>::Units;
  using Outputs = typename ForwardWeights<Cell, T>::Outputs;
  static constexpr int kLanes = V::kLanes;

 public:
  using Views = ForwardViews;

  static Tiling tiling(const Problem& problem) {
    return {
        kLanes, Units::kUnits, Units::kColumns, max_tile_rows(Units::kColumns), 1, Units::count(problem.hidden_size)};
  }

  ForwardSweep(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem),
        v_(views),
        weights_(problem, views, arena),
        barriers_(plan, arena),
        threads_(plan.threads()),
        ragged_(v_.lengths != nullptr || v_.resets),
        input_(problem, views, plan, arena) {
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = projected() ? Outputs::padded(p_.output_size) : hidden_stride_;
    const int64_t rows = p_.directions * p_.batch;
    for (StateBuffer<Row>& h : h_) h = {arena.take<Row>(rows * output_stride_), p_.batch, output_stride_};
    if (Cell::kStates == 2) c_ = {arena.take<Real>(rows * hidden_stride_), p_.batch, hidden_stride_};
    if (projected()) hidden_ = {arena.take<Row>(rows * hidden_stride_), p_.batch, hidden_stride_};
  }

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    weights_.pack(thread, threads_);
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) load_initial(part, d);
    barriers_.wait_for_team();  // packed weights and initial states are complete
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) {
      for (int64_t s = 0; s < p_.time_steps; s += input_.steps()) {
        const int64_t count = std::min(input_.steps(), p_.time_steps - s);
        input_.make(thread, part, d, s, count, weights_.input());
        for (int64_t i = 0; i < count; ++i) step(part, d, s + i, input_.of_step(thread, part, i, count));
      }
      store_final(part, d);
    }
  }

 private:
  // Known at compile time for the cells that cannot project, which so leave the second stage out.
  bool projected() const {
    if constexpr (Cell::kReadsHidden) return false;
    return p_.projected;
  }

  RowStep row_step_at(int64_t t, int64_t row) const { return ragged_ ? row_step(v_, t, row) : RowStep::kPlain; }

  void load_initial(const Part& part, int64_t d) const {
    load_state<T>(v_.h_0, p_.output_size, h_[0], d, part.own_rows());
    if (Cell::kStates == 2) load_state<T>(v_.c_0, p_.hidden_size, c_, d, part.own_rows());
  }

  void store_final(const Part& part, int64_t d) const {
    store_state<T>(h_[p_.time_steps & 1], v_.h_n, p_.output_size, d, part.own_rows());
    if (Cell::kStates == 2) store_state<T>(c_, v_.c_n, p_.hidden_size, d, part.own_rows());
  }

  using GatesMade = typename InputGates<Cell, T>::Made;

  // What the updates of one step read and write, worked out once for all of them.
  struct Step {
    int64_t d, t;
    GatesMade made;
    BatchRows<const T> gates;  // null where they are made
    BatchRows<Row> h_before, h, hidden;
    BatchRows<Real> c;
    StepResults<T> results;
  };

  void step(const Part& part, int64_t d, int64_t s, const GatesMade& made) const {
    const int64_t t = time_at(s, d, p_.time_steps);
    const Step at_t{d,
                    t,
                    made,
                    rows_at<T>(v_.gates, t, d),
                    h_[s & 1].rows(d),
                    h_[(s + 1) & 1].rows(d),
                    projected() ? hidden_.rows(d) : BatchRows<Row>{},
                    Cell::kStates == 2 ? c_.rows(d) : BatchRows<Real>{},
                    StepResults<T>(v_, p_, projected(), d, t)};
    const bool from_zero = s == 0 && !v_.h_0;
    const Range blocks = part.blocks_of(weights_.unit_blocks());
    auto recurrent = weights_.recurrent().times(d, at_t.h_before.data, output_stride_, from_zero ? 0 : p_.output_size);
    StepPrefetch prefetch(part, chunk_count<Units::kColumns>(recurrent, part.rows, blocks), p_.time_steps);
    const int64_t next = time_after(t, d);
    prefetch.add<T>(v_.gates, next, d, Cell::kGates * p_.hidden_size);
    prefetch.add<T>(v_.saved, next, d, Cell::kSaved * p_.hidden_size);
    prefetch.add<T>(v_.cells, next, d, p_.hidden_size);
    prefetch.add<T>(projected() ? v_.hidden : v_.output, next, d, p_.hidden_size);
    recurrent.prefetch = prefetch.of_step();
    const auto special = [&](int64_t row) { return row_step_at(t, row) != RowStep::kPlain; };
    const auto announce = [&](const auto& tile) {
      if (ragged_ && !any_row(tile, [&](int64_t row) { return !special(row); })) return false;
      if (recurrent.prefetch == nullptr) prefetch_update(tile, at_t);
      return true;
    };
    const auto update_tile = [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.hidden_size, special,
                                       [&](const auto& where) FUSED_RNN_INLINE_LAMBDA { update(tile, where, at_t); });
    };
    for_each_tile<Units::kColumns>(recurrent, part.rows, blocks, announce, update_tile, s % 2 != 0);
    part.wait();
    if constexpr (!Cell::kReadsHidden) {
      if (projected()) project(part, at_t);
    }
  }

  template <class TileOf>
  void prefetch_update(const TileOf& tile, const Step& step) const {
    if (step.gates) prefetch_tile<Units::kVectors>(tile, Cell::kGates, p_.hidden_size, step.gates);
    step.results.template prefetch<Cell, Units::kVectors>(tile);
  }

  // The second stage of a step: h_t = W_hr hidden.
  void project(const Part& part, const Step& step) const {
    const auto inactive = [&](int64_t row) { return row_step_at(step.t, row) == RowStep::kInactive; };
    const auto projection = weights_.projection(step.d, step.hidden.data, hidden_stride_);
    const BatchRows<T> output = rows_at<T>(v_.output, step.t, step.d);
    const auto wanted = [&](const auto& tile) { return any_row(tile, [&](int64_t row) { return !inactive(row); }); };
    const auto update_tile = [&](const auto& tile) {
      for_each_vector<Outputs::kVectors>(tile, p_.output_size, inactive,
                                         [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
                                           auto h = round_to<T>(column_of(tile, where)), next = h;
                                           if (where.kParts == 1 && inactive(where.row)) {
                                             h = decltype(h)(0);
                                             next = load_padded(where, step.h_before);
                                           }
                                           store_factors(where, next, step.h);
                                           store_rows(where, h, output);
                                         });
    };
    for_each_tile<Outputs::kColumns>(projection, part.rows, part.blocks_of(weights_.output_blocks()), wanted,
                                     update_tile);
    part.wait();
  }

  template <class TileOf, class Where>
  FUSED_RNN_INLINE void update(const TileOf& tile, const Where& where, const Step& step) const {
    using Rows = Vec<Real, Where::kParts>;
    const RowStep kind = Where::kParts == 1 ? row_step_at(step.t, where.row) : RowStep::kPlain;
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kInactive) return pass_through(where, step);
    }
    Pack<Rows, Cell::kGates> from_x, from_h;
#pragma GCC unroll 4
    for (int g = 0; g < Cell::kGates; ++g) {
      from_x[g] = step.made ? step.made.template load<Cell::kGates>(tile, where, g)
                            : load_rows(where, step.gates.from(g * p_.hidden_size));
      from_h[g] = column_of<Cell::kGates>(tile, where, g);
    }
    Pack<Rows, Cell::kStates> state;
    state[0] = Rows(0);
    if constexpr (Cell::kReadsHidden) state[0] = load_padded(where, step.h_before);
    if constexpr (Cell::kStates == 2) state[1] = load_padded(where, step.c);
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kReset) forget(tile, where, step.d, from_h, state);
    }
    CellForward<Rows, Cell> result = Cell::forward(from_x, from_h, state);

    result.state[0] = round_to<T>(result.state[0]);
    store_factors(where, result.state[0], projected() ? step.hidden : step.h);
    if constexpr (Cell::kStates == 2) store_padded(where, result.state[1], step.c);
    step.results.store(where, result);
  }

  // A step from the zero state: W_hh 0 + b_hh = b_hh.
  template <class TileOf, class Where>
  FUSED_RNN_INLINE void forget(const TileOf& tile, const Where& where, int64_t d, Pack<V, Cell::kGates>& from_h,
                               Pack<V, Cell::kStates>& state) const {
    const Real* bias = weights_.recurrent().bias(d, tile.block) + where.vector * Cell::kGates * kLanes;
    for (int g = 0; g < Cell::kGates; ++g) from_h[g] = V::load(bias + g * kLanes);
    for (int k = 0; k < Cell::kStates; ++k) state[k] = V(0);
  }

  // A step of an inactive row: the state stays (c where it is), and the results are zero.
  template <class Where>
  [[gnu::noinline]] void pass_through(const Where& where, const Step& step) const {
    if (projected()) {
      store_padded(where, V(0), step.hidden);
    } else {
      store_padded(where, load_padded(where, step.h_before), step.h);
    }
    step.results.store(where, CellForward<V, Cell>{});
  }

  const Problem& p_;
  const Views& v_;
  ForwardWeights<Cell, T> weights_;
  Barriers barriers_;
  int threads_;
  bool ragged_;  // there are lengths or resets
  InputGates<Cell, T> input_;
  int64_t hidden_stride_, output_stride_;  // padded sizes of one row of c and hidden, and of h
  StateBuffer<Row> h_[2];                  // before and after the step, alternating
  StateBuffer<Real> c_{};
  StateBuffer<Row> hidden_{};
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
