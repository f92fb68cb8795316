// The CPU schedule of the forward pass: every thread walks through time over its share of directions, rows and units.
//
// Where the gates are not given, a thread makes those of a few steps (input_gates.h), then walks through these steps.
// One step of a thread, for its rows and blocks of units:
//   GEMM      from_h = b_hh + W_hh h_{t-1}    tile by tile, h from a buffer in the type of the GEMM
//   update    the pass (forward_pass.h); h_t goes into the other buffer
//   barrier   only where threads share units: h_t is complete, and h_{t-1} may be overwritten
// With a projection the update writes the unprojected h into `hidden`, and a second GEMM makes h_t from it.
//
// The variants of the plain recurrence are a second instance of the schedule: zoneout, weights of single units, and a
// recurrent mask (Gal and Ghahramani 2016).
//
// The h buffers hold the factors of the GEMM. Where these are not h itself, but masked or rounded, `h_` is the
// state.
//
// Lengths and resets are questions about a row at its update (row_step). If no row of a tile needs the recurrent GEMM,
// the tile skips it.
#pragma once

#include <type_traits>

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/forward_pass.h"
#include "cpu/pass/row_units.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/schedules/input_gates.h"
#include "cpu/schedules/partition.h"
#include "cpu/schedules/step_prefetch.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T, bool HasVariants = false>
class ForwardSweep {
  using Real = RealOf<T>;
  using State = StateOf<T>;  // of h
  using V = Vec<Real>;
  using Units = typename ForwardWeights<Cell, T>::Units;
  using Outputs = typename ForwardWeights<Cell, T>::Outputs;
  static constexpr int kLanes = V::kLanes, kCells = kCellStates<Cell>, kRecurrent = recurrent_gates<Cell>();

 public:
  using Views = ForwardViews;
  static constexpr bool kRounds = kRoundsFactors<T>;

  static Tiling tiling(const Problem& problem) {
    return Units::tiling(problem.hidden_size, 1, Terms<WeightOf<T>>::kCount);
  }

  ForwardSweep(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem),
        v_(views),
        weights_(problem, views, arena),
        barriers_(plan, arena),
        threads_(plan.threads()),
        ragged_(v_.lengths != nullptr || v_.resets),
        input_(problem, views, plan, arena),
        factor_rows_(problem.batch, std::max(problem.output_size, problem.projected ? problem.hidden_size : 0),
                     plan.threads(), arena),
        parameters_(problem, views.variant, arena) {
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = projected() ? Outputs::padded(p_.output_size) : hidden_stride_;
    const int64_t rows = p_.directions * p_.batch;
    for (StateBuffer<State>& factors : factors_)
      factors = {arena.take<State>(rows * output_stride_), p_.batch, output_stride_};
    if (kCells > 0) c_ = {arena.take<Real>(rows * kCells * hidden_stride_), p_.batch, kCells * hidden_stride_};
    if (keeps_h()) h_ = {arena.take<Real>(rows * output_stride_), p_.batch, output_stride_};
    if (projected()) hidden_ = {arena.take<State>(rows * hidden_stride_), p_.batch, hidden_stride_};
  }

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    weights_.pack(thread, threads_);
    if (HasVariants && thread == 0) parameters_.load();
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) load_initial(part, d);
    barriers_.wait_for_team();  // packed weights, parameters and initial states are complete
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) {
      for (int64_t s = 0; s < p_.time_steps; s += input_.steps()) {
        const int64_t count = std::min(input_.steps(), p_.time_steps - s);
        input_.make(thread, part, d, s, count, weights_.input());
        for (int64_t i = 0; i < count; ++i) step(thread, part, d, s + i, input_.of_step(thread, part, i, count));
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

  bool masked() const { return HasVariants && p_.recurrent_mask; }
  bool keeps_h() const { return kRoundsFactors<T> || masked(); }
  // Whether something reads h of the step before besides the GEMM: else masked factors need h at the end alone.
  bool reads_h() const { return !masked() || Cell::kReadsHidden || p_.zoneout || ragged_; }

  RowStep row_step_at(int64_t t, int64_t row) const { return ragged_ ? row_step(v_, t, row) : RowStep::kPlain; }

  void load_initial(const Part& part, int64_t d) const {
    const Range rows = part.own_rows();
    if constexpr (kCells > 0) load_state<T>(v_.c_0, p_.hidden_size, c_, d, rows, kCells);
    if (!masked()) load_state<T>(v_.h_0, p_.output_size, factors_[0], d, rows);
    if (keeps_h()) load_state<T>(v_.h_0, p_.output_size, h_, d, rows);
    if (!masked()) return;
    const BatchRows<const T> mask = rows_at<T>(v_.variant.recurrent_mask, d);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for_each_vector_of_row<Real>(p_.output_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
        const TileVector<1, decltype(count)> where{0, 0, row, unit, count};
        store_factors(where, load_padded(where, h_.rows(d)) * load_rows(where, mask), factors_[0].rows(d));
      });
    }
  }

  void store_final(const Part& part, int64_t d) const {
    const Range rows = part.own_rows();
    if (keeps_h()) {
      store_state<T>(h_, v_.h_n, p_.output_size, d, rows);
    } else {
      store_state<T>(factors_[p_.time_steps & 1], v_.h_n, p_.output_size, d, rows);
    }
    if constexpr (kCells > 0) store_state<T>(c_, v_.c_n, p_.hidden_size, d, rows, kCells);
  }

  using GatesMade = typename InputGates<Cell, T>::Made;

  // What the updates of one step read and write, worked out once for all of them.
  struct Step {
    int64_t d, t;
    GatesMade made;
    BatchRows<const T> gates;  // null where they are made
    BatchRows<State> factors_before, factors, hidden;
    BatchRows<Real> c, h;     // h: null where the factors are h itself, or nothing reads it
    BatchRows<const T> mask;  // may be null
    ForwardPass<Cell, T, HasVariants> pass;
  };

  Step at_position(int64_t d, int64_t s, const GatesMade& made) const {
    const int64_t t = time_at(s, direction_of(d, p_.heads), p_.time_steps);
    return {.d = d,
            .t = t,
            .made = made,
            .gates = rows_at<T>(v_.gates, t, d),
            .factors_before = factors_[s & 1].rows(d),
            .factors = factors_[(s + 1) & 1].rows(d),
            .hidden = projected() ? hidden_.rows(d) : BatchRows<State>{},
            .c = kCells > 0 ? c_.rows(d) : BatchRows<Real>{},
            .h = keeps_h() && (reads_h() || s + 1 == p_.time_steps) ? h_.rows(d) : BatchRows<Real>{},
            .mask = masked() ? rows_at<T>(v_.variant.recurrent_mask, d) : BatchRows<const T>{},
            .pass = ForwardPass<Cell, T, HasVariants>(p_, v_, parameters_.unit_weights(d), d, t)};
  }

  void step(int thread, const Part& part, int64_t d, int64_t s, const GatesMade& made) const {
    const Step at_t = at_position(d, s, made);
    const int64_t t = at_t.t;
    const bool from_zero = s == 0 && !v_.h_0;
    const Range blocks = part.blocks_of(weights_.recurrent().blocks());
    const Factors<RowOf<T>> h =
        factor_rows_.of(thread, part.rows, {at_t.factors_before.data, output_stride_}, p_.output_size);
    auto recurrent = weights_.recurrent().times(d, h, from_zero ? 0 : p_.output_size);
    StepPrefetch prefetch(part, chunk_count<Units::kColumns>(recurrent, part.rows, blocks), p_.time_steps);
    const int64_t next = time_after(t, direction_of(d, p_.heads));
    prefetch.add<T>(v_.gates, next, d, Cell::kGates * p_.hidden_size);
    prefetch.add<T>(v_.saved, next, d, (HasVariants ? saved_values(p_) : Cell::kSaved) * p_.hidden_size);
    prefetch.add<T>(v_.cells, next, d, kCells * p_.hidden_size);
    prefetch.add<T>(projected() ? v_.hidden : v_.output, next, d, p_.hidden_size);
    if (HasVariants) prefetch.add<T>(v_.variant.zoneout, next, d, Cell::kStates * p_.hidden_size);
    recurrent.prefetch = prefetch.of_step();
    const auto special = [&](int64_t row) { return row_step_at(t, row) != RowStep::kPlain; };
    const auto prepare = [&](const auto& tile) {
      if (ragged_ && !any_row(tile, [&](int64_t row) { return !special(row); })) return false;
      if (recurrent.prefetch == nullptr) prefetch_update(tile, at_t);
      return true;
    };
    const auto update_tile = [&](const auto& tile) {
      for_each_vector<Units::kVectors, kPairsOf<T, HasVariants>>(
          tile, p_.hidden_size, special, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
            const RowStep kind = where.kParts == 1 ? row_step_at(t, where.row) : RowStep::kPlain;
            at_t.pass(where, kind, Access<std::remove_cvref_t<decltype(tile)>>{*this, tile, at_t});
          });
    };
    for_each_tile<Units::kColumns>(recurrent, part.rows, blocks, prepare, update_tile, s % 2 != 0);
    part.wait();
    if constexpr (!Cell::kReadsHidden) {
      if (projected()) project(thread, part, at_t);
    }
  }

  template <class TileOf>
  void prefetch_update(const TileOf& tile, const Step& step) const {
    if (step.gates) prefetch_tile<Units::kVectors>(tile, Cell::kGates, p_.hidden_size, step.gates);
    step.pass.results().template prefetch<Units::kVectors>(tile);
  }

  // The second stage of a step: h_t = W_hr hidden.
  void project(int thread, const Part& part, const Step& step) const {
    const auto inactive = [&](int64_t row) { return row_step_at(step.t, row) == RowStep::kInactive; };
    const Factors<RowOf<T>> hidden =
        factor_rows_.of(thread, part.rows, {step.hidden.data, hidden_stride_}, p_.hidden_size);
    const auto projection = weights_.projection().times(step.d, hidden, p_.hidden_size);
    const BatchRows<T> output = rows_at<T>(v_.output, step.t, step.d);
    const auto wanted = [&](const auto& tile) { return any_row(tile, [&](int64_t row) { return !inactive(row); }); };
    const auto update_tile = [&](const auto& tile) {
      for_each_vector<Outputs::kVectors>(tile, p_.output_size, inactive,
                                         [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
                                           auto h = round_to<T>(column_of(tile, where)), next = h;
                                           if (where.kParts == 1 && inactive(where.row)) {
                                             h = decltype(h)(0);
                                             next = h_before(where, step);
                                           }
                                           keep_h(where, step, next);
                                           store_rows(where, h, output);
                                         });
    };
    for_each_tile<Outputs::kColumns>(projection, part.rows, part.blocks_of(weights_.projection().blocks()), wanted,
                                     update_tile);
    part.wait();
  }

  template <class Where>
  FUSED_RNN_INLINE static Vec<Real, Where::kParts> h_before(const Where& where, const Step& step) {
    if (kRoundsFactors<T> || (HasVariants && step.h)) return load_padded(where, step.h);
    return load_padded(where, step.factors_before);
  }

  // h after the step, for the next GEMM.
  template <class Where, class Rows>
  FUSED_RNN_INLINE static void keep_h(const Where& where, const Step& step, Rows h) {
    if (kRoundsFactors<T> || (HasVariants && step.h)) store_padded(where, h, step.h);
    if (HasVariants && step.mask) h = h * load_rows(where, step.mask);
    store_factors(where, h, step.factors);
  }

  // Where the pass finds the values of the vectors of a tile.
  template <class TileOf>
  struct Access {
    const ForwardSweep& sweep;
    const TileOf& tile;
    const Step& step;

    template <class Where>
    FUSED_RNN_INLINE auto from_x(const Where& where, int g) const {
      return step.made ? step.made.template load<Cell::kGates>(tile, where, g)
                       : load_rows(where, step.gates.from(g * sweep.p_.hidden_size));
    }
    template <class Where>
    FUSED_RNN_INLINE auto from_h(const Where& where, int g) const {
      return column_of<kRecurrent>(tile, where, g);
    }
    template <class Where>
    FUSED_RNN_INLINE V bias(const Where& where, int g) const {
      return V::load(sweep.weights_.recurrent().bias(step.d, tile.block) + (where.vector * kRecurrent + g) * kLanes);
    }
    template <class Where>
    FUSED_RNN_INLINE auto before(const Where& where, int k) const {
      return k == 0 ? h_before(where, step) : load_padded(where, step.c.from((k - 1) * sweep.hidden_stride_));
    }
    template <class Where, class States>
    FUSED_RNN_INLINE void keep(const Where& where, const States& state) const {
      if (sweep.projected()) {
        store_factors(where, state[0], step.hidden);
      } else {
        keep_h(where, step, state[0]);
      }
#pragma GCC unroll 4
      for (int k = 1; k < Cell::kStates; ++k)
        store_padded(where, state[k], step.c.from((k - 1) * sweep.hidden_stride_));
    }
    // The other states are where they were.
    template <class Where>
    FUSED_RNN_INLINE void stay(const Where& where) const {
      if (sweep.projected()) {
        store_padded(where, V(0), step.hidden);
      } else {
        store_padded(where, load_padded(where, step.factors_before), step.factors);
      }
    }
  };

  const Problem& p_;
  const Views& v_;
  ForwardWeights<Cell, T> weights_;
  Barriers barriers_;
  int threads_;
  bool ragged_;  // there are lengths or resets
  InputGates<Cell, T> input_;
  FactorRows<T> factor_rows_;
  UnitParameters<Cell, T> parameters_;
  int64_t hidden_stride_, output_stride_;  // padded sizes of one row of c and hidden, and of h
  StateBuffer<State> factors_[2];          // before and after the step, alternating
  StateBuffer<Real> c_{}, h_{};
  StateBuffer<State> hidden_{};
};

template <class Cell, class T>
using VariantForward = ForwardSweep<Cell, T, true>;

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
