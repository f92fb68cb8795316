// The CPU schedule of the backward pass: the forward sweep mirrored, from the last step to the first.
//
// One step of a thread, for its rows and blocks of units:
//   GEMM      d_h = W_hh^T d_from_h of the step after, tile by tile (nothing after the last step)
//   update    adds d_output and the direct part the step after left in `carry_h`, then the pass (backward_pass.h); it
//             writes the gate gradients, for the weight gradients and, in the compute type, for the next GEMM
//   barrier   only where threads share units
// One GEMM more gives d_h_0. With a projection the first GEMM makes the gradient of the projected h, and a second
// one, with W_hr^T, what the cell's backward needs.
//
// Lengths, resets and variants are as in the forward sweep. If no row of a tile was handed gate gradients, the tile
// skips its GEMM. Gradients of weights of single units are summed over time for each row, so that they depend
// neither on the batch nor on the threads.
#pragma once

#include <algorithm>
#include <utility>

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/backward_pass.h"
#include "cpu/pass/row_units.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/schedules/partition.h"
#include "cpu/schedules/step_prefetch.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T, bool HasVariants = false>
class BackwardSweep {
  using Real = RealOf<T>;
  using Row = RowOf<T>;  // of what the GEMMs multiply
  using V = Vec<Real>;
  using Units = typename BackwardWeights<Cell, T>::Units;
  static constexpr int kLanes = V::kLanes, kCells = kCellStates<Cell>, kRecurrent = recurrent_gates<Cell>();

 public:
  using Views = BackwardViews;
  using Element = T;
  static constexpr bool kRounds = kRoundsFactors<T>;

  static Tiling tiling(const Problem& problem) {
    return Units::tiling(problem.hidden_size, kRecurrent, Terms<WeightOf<T>>::kCount);
  }

  BackwardSweep(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem),
        v_(views),
        barriers_(plan, arena),
        threads_(plan.threads()),
        ragged_(v_.lengths != nullptr || v_.resets),
        weights_(problem, views, arena),
        parameters_(problem, views.variant, arena) {
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = Units::padded(p_.output_size);
    gates_stride_ = kRecurrent * hidden_stride_;
    const int64_t rows = p_.directions * p_.batch;
    for (StateBuffer<Row>& d_gates : d_gates_) {
      d_gates = {arena.take<Row>(rows * gates_stride_), p_.batch, gates_stride_};
    }
    carry_h_ = {arena.take<Real>(rows * output_stride_), p_.batch, output_stride_};
    if (kCells > 0) carry_c_ = {arena.take<Real>(rows * kCells * hidden_stride_), p_.batch, kCells * hidden_stride_};
    if (Cell::kUnitWeights > 0)
      d_unit_weights_ = {arena.take<Real>(rows * Cell::kUnitWeights * hidden_stride_), p_.batch,
                         Cell::kUnitWeights * hidden_stride_};
    if (projected()) d_projected_ = {arena.take<Row>(rows * output_stride_), p_.batch, output_stride_};
  }

  void before_team() const { barriers_.reset(); }

  // What a thread does whenever it has walked through `together` steps, down to the one at position `begin`.
  struct Between {
    int64_t together;
    const void* context;
    void (*call)(const void* context, int thread, int64_t begin);
  };

  [[gnu::noinline]] void run(int thread, const Between& between) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    weights_.pack(thread, threads_);
    if (HasVariants && thread == 0) parameters_.load();
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) initialize(part, d);
    barriers_.wait_for_team();  // packed weights, parameters, zeroed padding and initial carries are complete
    for (int64_t end = p_.time_steps; end > 0;) {
      const int64_t begin = (end - 1) / between.together * between.together;
      for (int64_t d = part.directions.begin; d < part.directions.end; ++d) {
        for (int64_t s = end - 1; s >= begin; --s) step(part, d, s);
      }
      between.call(between.context, thread, begin);
      end = begin;
    }
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) finish(part, d);
  }

  void run(int thread) const {
    run(thread, {std::max<int64_t>(p_.time_steps, 1), nullptr, [](const void*, int, int64_t) {}});
  }

  // Then everything that the threads have written before is there for all of them.
  void wait_for_team() const { barriers_.wait_for_team(); }

 private:
  // Known at compile time for the cells that cannot project, which so leave the second stage out.
  bool projected() const {
    if constexpr (Cell::kReadsHidden) return false;
    return p_.projected;
  }

  RowStep row_step_at(int64_t t, int64_t row) const { return ragged_ ? row_step(v_, t, row) : RowStep::kPlain; }

  // Whether an active row starts at position s: the step before it is inactive, or there is none.
  bool starts(int64_t d, int64_t s, int64_t t, int64_t row) const {
    return s == 0 || (ragged_ && begins(v_, s, time_before(t, direction_of(d, p_.heads)), row));
  }

  // Whether the update takes a row alone.
  bool is_special(int64_t d, int64_t s, int64_t t, int64_t row) const {
    return ragged_ && (row_step(v_, t, row) != RowStep::kPlain || (s > 0 && starts(d, s, t, row)));
  }

  // The carries start as the gradients of the final states. Both gate buffers and d_projected are zeroed, since the
  // GEMMs read their padding, where steps write zeros at most.
  void initialize(const Part& part, int64_t d) const {
    const Range rows = part.own_rows();
    load_state<T>(v_.d_h_n, p_.output_size, carry_h_, d, rows);
    if constexpr (kCells > 0) load_state<T>(v_.d_c_n, p_.hidden_size, carry_c_, d, rows, kCells);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (const StateBuffer<Row>& d_gates : d_gates_) clear_row(d_gates, d, row);
      clear_row(d_projected_, d, row);
      clear_row(d_unit_weights_, d, row);
    }
  }

  // W_hh^T times the gate gradients of the step after position s.
  auto recurrent(int64_t d, int64_t s) const {
    return weights_.recurrent(d, d_gates_[(s + 1) & 1].row(d, 0), s != p_.time_steps - 1);
  }

  // Whether that GEMM is of use for a tile.
  template <class TileOf>
  bool recurrent_is_wanted(const TileOf& tile, int64_t d, int64_t s) const {
    if (!ragged_ || s == p_.time_steps - 1) return true;
    const int64_t after = time_at(s + 1, direction_of(d, p_.heads), p_.time_steps);
    return any_row(tile, [&](int64_t row) { return row_step(v_, after, row) == RowStep::kPlain; });
  }

  template <class TileOf>
  bool is_active(const TileOf& tile, int64_t t) const {
    return any_row(tile, [&](int64_t row) { return row_step_at(t, row) != RowStep::kInactive; });
  }

  // What the updates of one step read and write, worked out once for all of them.
  struct Step {
    int64_t d, s, t;
    BatchRows<const T> d_output;
    BatchRows<T> d_projected;
    BatchRows<Row> d_gates_kept, d_projected_kept;  // for the GEMMs
    BatchRows<Real> carry_h, carry_c, d_unit_weights;
    BackwardPass<Cell, T, HasVariants> pass;
  };

  Step at_position(int64_t d, int64_t s) const {
    const int64_t t = time_at(s, direction_of(d, p_.heads), p_.time_steps);
    return {.d = d,
            .s = s,
            .t = t,
            .d_output = rows_at<T>(v_.d_output, t, d),
            .d_projected = rows_at<T>(v_.d_projected, t, d),
            .d_gates_kept = d_gates_[s & 1].rows(d),
            .d_projected_kept = projected() ? d_projected_.rows(d) : BatchRows<Row>{},
            .carry_h = carry_h_.rows(d),
            .carry_c = kCells > 0 ? carry_c_.rows(d) : BatchRows<Real>{},
            .d_unit_weights = Cell::kUnitWeights > 0 ? d_unit_weights_.rows(d) : BatchRows<Real>{},
            .pass = BackwardPass<Cell, T, HasVariants>(p_, v_, parameters_.unit_weights(d), d, s, t)};
  }

  void step(const Part& part, int64_t d, int64_t s) const {
    const Step step = at_position(d, s);
    const Range output_blocks = part.blocks_of(weights_.output_blocks());
    if (!projected()) {
      auto gemm = recurrent(d, s);
      StepPrefetch prefetch(part, chunk_count<Units::kColumns>(gemm, part.rows, output_blocks), p_.time_steps);
      const Direction direction = direction_of(d, p_.heads);
      const int64_t next = time_before(step.t, direction);
      prefetch.add<T>(v_.saved, next, d, (HasVariants ? saved_values(p_) : Cell::kSaved) * p_.hidden_size);
      prefetch.add<T>(v_.d_output, next, d, p_.output_size);
      // The state before the next step; the one after it is at hand.
      const int64_t before = time_before(next, direction);
      if (kCells > 0) prefetch.add<T>(v_.cells, before, d, kCells * p_.hidden_size);
      if (Cell::kReadsHidden) prefetch.add<T>(v_.output, before, d, p_.output_size);
      if (v_.d_gates.data != v_.saved.data) prefetch.add<T>(v_.d_gates, next, d, Cell::kGates * p_.hidden_size);
      if (HasVariants) prefetch.add<T>(v_.variant.zoneout, next, d, Cell::kStates * p_.hidden_size);
      gemm.prefetch = prefetch.of_step();
      const auto prepare = [&](const auto& tile) {
        if (is_active(tile, step.t)) prefetch_update(tile, step);
        return recurrent_is_wanted(tile, d, s);
      };
      for_each_tile<Units::kColumns>(
          gemm, part.rows, output_blocks, prepare, [&](const auto& tile) { update_tile(tile, step); }, s % 2 != 0);
      part.wait();
      return;
    }
    if constexpr (!Cell::kReadsHidden) step_projected(part, step);
  }

  void step_projected(const Part& part, const Step& step) const {
    const Range output_blocks = part.blocks_of(weights_.output_blocks());
    const auto special = [&](int64_t row) { return is_special(step.d, step.s, step.t, row); };
    const auto wanted = [&](const auto& tile) { return recurrent_is_wanted(tile, step.d, step.s); };
    for_each_tile<Units::kColumns>(recurrent(step.d, step.s), part.rows, output_blocks, wanted, [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.output_size, special, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        auto d_h = output_gradient(tile, where, step), carry = decltype(d_h)(0);
        if (where.kParts == 1 && row_step_at(step.t, where.row) == RowStep::kInactive) std::swap(d_h, carry);
        store_padded(where, carry, step.carry_h);
        store_factors(where, d_h, step.d_projected_kept);
        store_rows(where, d_h, step.d_projected);
      });
    });
    part.wait();
    const auto projection = weights_.projection(step.d, step.d_projected_kept.data);
    const auto prepare = [&](const auto& tile) {
      const bool active = is_active(tile, step.t);
      if (active) prefetch_update(tile, step);
      return active;
    };
    for_each_tile<Units::kColumns>(projection, part.rows, part.blocks_of(weights_.hidden_blocks()), prepare,
                                   [&](const auto& tile) { update_tile(tile, step); });
    part.wait();
  }

  template <class TileOf>
  void prefetch_update(const TileOf& tile, const Step& step) const {
    if (step.d_output && !projected()) prefetch_tile<Units::kVectors>(tile, 1, p_.hidden_size, step.d_output);
    step.pass.template prefetch<Units::kVectors>(tile);
  }

  // What a tile of the recurrent GEMM and the step after give to h: through the gates, whose h is masked, and
  // directly.
  template <class TileOf, class Where>
  FUSED_RNN_INLINE auto handed_gradient(const TileOf& tile, const Where& where, int64_t d) const {
    auto d_h = column_of(tile, where);
    if (HasVariants && p_.recurrent_mask) d_h = d_h * load_rows(where, rows_at<T>(v_.variant.recurrent_mask, d));
    return d_h + load_padded(where, carry_h_.rows(d));
  }

  // The whole gradient of h_t: also from outside, which an inactive row has not.
  template <class TileOf, class Where>
  FUSED_RNN_INLINE auto output_gradient(const TileOf& tile, const Where& where, const Step& step) const {
    auto d_h = handed_gradient(tile, where, step.d);
    if (step.d_output && !(where.kParts == 1 && row_step_at(step.t, where.row) == RowStep::kInactive))
      d_h = d_h + load_rows(where, step.d_output);
    return d_h;
  }

  // The pass of the units of a tile, which holds the gradient of h before its projection or, without one, a part of it.
  template <class TileOf>
  void update_tile(const TileOf& tile, const Step& step) const {
    const auto special = [&](int64_t row) { return is_special(step.d, step.s, step.t, row); };
    for_each_vector<Units::kVectors, kPairsOf<T, HasVariants>>(
        tile, p_.hidden_size, special, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
          const RowStep kind = where.kParts == 1 ? row_step_at(step.t, where.row) : RowStep::kPlain;
          const bool begins = where.kParts == 1 ? starts(step.d, step.s, step.t, where.row) : step.s == 0;
          const auto d_h = projected() ? column_of(tile, where) : output_gradient(tile, where, step);
          step.pass(where, kind, begins, d_h, Access{*this, step});
        });
  }

  // Where the pass finds the values of vectors of units.
  struct Access {
    const BackwardSweep& sweep;
    const Step& step;

    FUSED_RNN_INLINE BatchRows<Real> carry_of(int k) const {
      return k == 0 ? step.carry_h : step.carry_c.from((k - 1) * sweep.hidden_stride_);
    }
    template <class Where>
    FUSED_RNN_INLINE auto carried(const Where& where, int k) const {
      return load_padded(where, carry_of(k));
    }
    template <class Where, class Rows>
    FUSED_RNN_INLINE void carry(const Where& where, int k, const Rows& d) const {
      // With a projection carry_h belongs to the projected h, which has no direct part.
      if (k > 0 || !sweep.projected()) store_padded(where, d, carry_of(k));
    }
    template <class Where, class Rows>
    FUSED_RNN_INLINE void hand_on(const Where& where, int gate, const Rows& d) const {
      store_factors(where, d, step.d_gates_kept.from(gate * sweep.hidden_stride_));
    }
    template <class Where, class Rows>
    FUSED_RNN_INLINE void add(const Where& where, int k, const Rows& d) const {
      const BatchRows<Real> sums = step.d_unit_weights.from(k * sweep.hidden_stride_);
      store_padded(where, load_padded(where, sums) + d, sums);
    }
  };

  void finish(const Part& part, int64_t d) const {
    const auto wanted = [&](const auto& tile) { return recurrent_is_wanted(tile, d, -1); };
    const auto store_tile = [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.output_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        store_rows(where, handed_gradient(tile, where, d), rows_at<T>(v_.d_h_0, d));
      });
    };
    for_each_tile<Units::kColumns>(recurrent(d, -1), part.rows, part.blocks_of(weights_.output_blocks()), wanted,
                                   store_tile);
    if constexpr (kCells > 0) store_state<T>(carry_c_, v_.d_c_0, p_.hidden_size, d, part.own_rows(), kCells);
    if (Cell::kUnitWeights > 0)
      store_sums<T>(d_unit_weights_, v_.d_unit_weights, Cell::kUnitWeights, p_.hidden_size, d, part.own_rows());
  }

  const Problem& p_;
  const Views& v_;
  Barriers barriers_;
  int threads_;
  bool ragged_;  // there are lengths or resets
  BackwardWeights<Cell, T> weights_;
  UnitParameters<Cell, T> parameters_;
  int64_t hidden_stride_, output_stride_, gates_stride_;  // padded sizes of one row
  StateBuffer<Row> d_gates_[2];                           // [D, B, R, hidden_stride] of this step and the one after
  StateBuffer<Row> d_projected_{};
  StateBuffer<Real> carry_h_{}, carry_c_{};  // gradients handed to the step before
  StateBuffer<Real> d_unit_weights_{};       // [D, B, K, hidden_stride]
};

template <class Cell, class T>
using VariantBackward = BackwardSweep<Cell, T, true>;

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
