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
#include "core/views.h"
#include "cpu/ahead.h"
#include "cpu/input_gates.h"
#include "cpu/packed_weights.h"
#include "cpu/share.h"
#include "cpu/state_buffer.h"
#include "cpu/step_results.h"
#include "cpu/tile_vectors.h"
#include "cpu/vec_math.h"

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
    for (Row*& h : h_) h = arena.take<Row>(p_.directions * p_.batch * output_stride_);
    if (Cell::kStates == 2) c_ = arena.take<Real>(p_.directions * p_.batch * hidden_stride_);
    if (projected()) hidden_ = arena.take<Row>(p_.directions * p_.batch * hidden_stride_);
  }

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Share share = barriers_.share_of(thread, p_.directions, p_.batch);
    weights_.pack(thread, threads_);
    for (int64_t d = share.directions.begin; d < share.directions.end; ++d) load_initial(share, d);
    barriers_.wait_for_team();  // packed weights and initial states are complete
    for (int64_t d = share.directions.begin; d < share.directions.end; ++d) {
      for (int64_t s = 0; s < p_.time_steps; s += input_.steps()) {
        const int64_t count = std::min(input_.steps(), p_.time_steps - s);
        input_.make(thread, share, d, s, count, weights_.input());
        for (int64_t i = 0; i < count; ++i) step(share, d, s + i, input_.of_step(thread, share, i, count));
      }
      store_final(share, d);
    }
  }

 private:
  // Known at compile time for the cells that cannot project, which so leave the second stage out.
  bool projected() const {
    if constexpr (Cell::kReadsHidden) return false;
    return p_.projected;
  }

  int64_t row_index(int64_t d, int64_t row) const { return d * p_.batch + row; }

  RowStep row_step_at(int64_t t, int64_t row) const { return ragged_ ? row_step(v_, t, row) : RowStep::kPlain; }

  void load_initial(const Share& share, int64_t d) const {
    load_state<T>(v_.h_0, p_.output_size, StateBuffer<Row>{h_[0], p_.batch, output_stride_}, d, share.own_rows());
    if (Cell::kStates == 2)
      load_state<T>(v_.c_0, p_.hidden_size, StateBuffer<Real>{c_, p_.batch, hidden_stride_}, d, share.own_rows());
  }

  void store_final(const Share& share, int64_t d) const {
    const Range rows = share.own_rows();
    store_state<T>(StateBuffer<Row>{h_[p_.time_steps & 1], p_.batch, output_stride_}, v_.h_n, p_.output_size, d, rows);
    if (Cell::kStates == 2)
      store_state<T>(StateBuffer<Real>{c_, p_.batch, hidden_stride_}, v_.c_n, p_.hidden_size, d, rows);
  }

  using GatesMade = typename InputGates<Cell, T>::Made;

  void step(const Share& share, int64_t d, int64_t s, const GatesMade& made) const {
    const int64_t t = d == 0 ? s : p_.time_steps - 1 - s;
    const int64_t first_row = row_index(d, 0);
    const Row* h_previous = h_[s & 1] + first_row * output_stride_;
    Row* h_next = h_[(s + 1) & 1] + first_row * output_stride_;
    const bool from_zero = s == 0 && !v_.h_0;
    const auto recurrent = weights_.recurrent().times(d, h_previous, output_stride_, from_zero ? 0 : p_.output_size);
    Row* hidden = projected() ? hidden_ + first_row * hidden_stride_ : nullptr;
    const auto special = [&](int64_t row) { return row_step_at(t, row) != RowStep::kPlain; };
    Ahead ahead(share, tile_count<Units::kColumns>(share.rows, share.blocks_of(weights_.unit_blocks())), p_.time_steps,
                Cell::kSaved * p_.hidden_size * int64_t{sizeof(T)});
    const int64_t next = d == 0 ? t + 1 : t - 1;
    ahead.add<T>(v_.gates, next, p_.time_steps, d, Cell::kGates * p_.hidden_size);
    ahead.add<T>(v_.saved, next, p_.time_steps, d, Cell::kSaved * p_.hidden_size);
    ahead.add<T>(v_.cells, next, p_.time_steps, d, p_.hidden_size);
    ahead.add<T>(projected() ? v_.hidden : v_.output, next, p_.time_steps, d, p_.hidden_size);
    const auto announce = [&](const auto& tile) {
      const bool asked = ahead.advance();
      if (ragged_ && !any_row(tile, [&](int64_t row) { return !special(row); })) return false;
      if (!asked) prefetch_update(tile, d, t);
      return true;
    };
    const auto update_tile = [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.hidden_size, special, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        update(tile, where, d, t, made, h_previous, h_next, hidden);
      });
    };
    for_each_tile<Units::kColumns>(recurrent, share.rows, share.blocks_of(weights_.unit_blocks()), announce,
                                   update_tile, s % 2 != 0);
    share.wait();
    if constexpr (!Cell::kReadsHidden) {
      if (projected()) project(share, d, t, hidden, h_previous, h_next);
    }
  }

  template <class TileOf>
  void prefetch_update(const TileOf& tile, int64_t d, int64_t t) const {
    if (v_.gates) {
      prefetch_tile<Units::kVectors>(tile, Cell::kGates, p_.hidden_size,
                                     [&](int64_t row) { return at<T>(v_.gates, t, row, d); });
    }
    const auto prefetch_result = [&](const SequenceView<void>& view, int count) {
      if (!view) return;
      prefetch_tile<Units::kVectors, true>(tile, count, p_.hidden_size,
                                           [&](int64_t row) { return at<T>(view, t, row, d); });
    };
    prefetch_result(projected() ? v_.hidden : v_.output, 1);
    prefetch_result(v_.cells, 1);
    prefetch_result(v_.saved, Cell::kSaved);
  }

  // The second stage of a step: h_t = W_hr hidden.
  void project(const Share& share, int64_t d, int64_t t, const Row* hidden, const Row* h_previous, Row* h_next) const {
    const auto inactive = [&](int64_t row) { return row_step_at(t, row) == RowStep::kInactive; };
    const auto projection = weights_.projection(d, hidden, hidden_stride_);
    const auto wanted = [&](const auto& tile) { return any_row(tile, [&](int64_t row) { return !inactive(row); }); };
    const auto update_tile = [&](const auto& tile) {
      for_each_vector<Outputs::kVectors>(
          tile, p_.output_size, inactive, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
            auto h = round_to<T>(column_of(tile, where)), next = h;
            if (where.kParts == 1 && inactive(where.row)) {
              h = decltype(h)(0);
              next = load_padded(where, h_previous, output_stride_);
            }
            store_padded(where, next, h_next, output_stride_);
            store_rows<T>(where, h, [&](int64_t row) FUSED_RNN_INLINE_LAMBDA { return at<T>(v_.output, t, row, d); });
          });
    };
    for_each_tile<Outputs::kColumns>(projection, share.rows, share.blocks_of(weights_.output_blocks()), wanted,
                                     update_tile);
    share.wait();
  }

  template <class TileOf, class Where>
  FUSED_RNN_INLINE void update(const TileOf& tile, const Where& where, int64_t d, int64_t t, const GatesMade& made,
                               const Row* h_previous, Row* h_next, Row* hidden) const {
    using Rows = Vec<Real, Where::kParts>;
    const RowStep kind = Where::kParts == 1 ? row_step_at(t, where.row) : RowStep::kPlain;
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kInactive) return pass_through(where, d, t, h_previous, h_next, hidden);
    }
    Real* c = Cell::kStates == 2 ? c_ + row_index(d, 0) * hidden_stride_ : nullptr;
    Pack<Rows, Cell::kGates> from_x, from_h;
#pragma GCC unroll 4
    for (int g = 0; g < Cell::kGates; ++g) {
      from_x[g] = made ? made.template load<Cell::kGates>(tile, where, g)
                       : load_rows<T>(where, [&](int64_t row) FUSED_RNN_INLINE_LAMBDA {
                           return at<T>(v_.gates, t, row, d) + g * p_.hidden_size;
                         });
      from_h[g] = column_of<Cell::kGates>(tile, where, g);
    }
    Pack<Rows, Cell::kStates> state;
    state[0] = Rows(0);
    if constexpr (Cell::kReadsHidden) state[0] = load_padded(where, h_previous, output_stride_);
    if constexpr (Cell::kStates == 2) state[1] = load_padded(where, c, hidden_stride_);
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kReset) forget(tile, where, d, from_h, state);
    }
    CellForward<Rows, Cell> result = Cell::forward(from_x, from_h, state);

    result.state[0] = round_to<T>(result.state[0]);
    store_padded(where, result.state[0], hidden != nullptr ? hidden : h_next,
                 hidden != nullptr ? hidden_stride_ : output_stride_);
    if constexpr (Cell::kStates == 2) store_padded(where, result.state[1], c, hidden_stride_);
    store_results<T>(v_, p_, projected(), where, d, t, result);
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
  [[gnu::noinline]] void pass_through(const Where& where, int64_t d, int64_t t, const Row* h_previous, Row* h_next,
                                      Row* hidden) const {
    if (hidden != nullptr) {
      store_padded(where, V(0), hidden, hidden_stride_);
    } else {
      store_padded(where, load_padded(where, h_previous, output_stride_), h_next, output_stride_);
    }
    store_results<T>(v_, p_, projected(), where, d, t, CellForward<V, Cell>{});
  }

  const Problem& p_;
  const Views& v_;
  ForwardWeights<Cell, T> weights_;
  Barriers barriers_;
  int threads_;
  bool ragged_;  // there are lengths or resets
  InputGates<Cell, T> input_;
  int64_t hidden_stride_, output_stride_;  // padded sizes of one row of c and hidden, and of h
  Row* h_[2];                              // [D, B, output_stride] before and after the step, alternating
  Real* c_ = nullptr;                      // [D, B, hidden_stride]
  Row* hidden_ = nullptr;                  // [D, B, hidden_stride]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
