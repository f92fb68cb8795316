// The CPU schedule of the backward pass: the forward sweep mirrored, from the last step to the first.
//
// One step of a thread, for its rows and blocks of units:
//   product   d_h = W_hh^T d_from_h of the step after, tile by tile (nothing after the last step)
//   update    adds d_output and the direct part the step after left in `carry_h`, then the cell's backward; writes the
//             gate gradients, for the caller's weight GEMMs and, in the compute type, for the next product
//   barrier   only where threads share units
// One product more gives d_h_0. With a projection the first product makes the gradient of the projected h, and a second
// one, with W_hr^T, what the cell's backward needs.
//
// Lengths and resets are questions about a row at its update, as in the forward sweep: a reset row hands nothing on to
// the step before, and an inactive row hands on what it was handed, its gate gradients being zero. A tile of rows that
// were handed no gate gradients leaves its product out.
#pragma once

#include <algorithm>
#include <utility>

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/schedules/partition.h"
#include "cpu/schedules/step_prefetch.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
class BackwardSweep {
  using Real = RealOf<T>;
  using Row = RowOf<T>;  // of what the products multiply
  using V = Vec<Real>;
  using Units = typename BackwardWeights<Cell, T>::Units;
  static constexpr int kLanes = V::kLanes;

 public:
  using Views = BackwardViews;

  static Tiling tiling(const Problem& problem) {
    return {kLanes,          Units::kUnits,
            Units::kColumns, max_tile_rows(Units::kColumns),
            Cell::kGates,    Units::count(problem.hidden_size)};
  }

  BackwardSweep(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem),
        v_(views),
        barriers_(plan, arena),
        threads_(plan.threads()),
        ragged_(v_.lengths != nullptr || v_.resets),
        weights_(problem, views, arena) {
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = Units::padded(p_.output_size);
    gates_stride_ = Cell::kGates * hidden_stride_;
    const int64_t rows = p_.directions * p_.batch;
    for (StateBuffer<Row>& d_gates : d_gates_) {
      d_gates = {arena.take<Row>(rows * gates_stride_), p_.batch, gates_stride_};
    }
    carry_h_ = {arena.take<Real>(rows * output_stride_), p_.batch, output_stride_};
    if (Cell::kStates == 2) carry_c_ = {arena.take<Real>(rows * hidden_stride_), p_.batch, hidden_stride_};
    if (projected()) d_projected_ = {arena.take<Row>(rows * output_stride_), p_.batch, output_stride_};
  }

  void before_team() const { barriers_.reset(); }

  // What a thread does whenever it has walked through `together` steps, down to the one at position `begin`.
  struct Between {
    int64_t together;
    const void* context;
    void (*call)(const void* context, int thread, int64_t begin);
  };

  void run(int thread, const Between& between) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    weights_.pack(thread, threads_);
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) initialize(part, d);
    barriers_.wait_for_team();  // packed weights, zeroed padding and initial carries are complete
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
    return s == 0 || (ragged_ && begins(v_, s, t, d, row));
  }

  // Whether the update takes a row alone.
  bool is_special(int64_t d, int64_t s, int64_t t, int64_t row) const {
    return ragged_ && (row_step(v_, t, row) != RowStep::kPlain || (s > 0 && starts(d, s, t, row)));
  }

  // The carries start as the gradients of the final states. Both gate buffers and d_projected are zeroed, since the
  // products read their padding, where steps write zeros at most.
  void initialize(const Part& part, int64_t d) const {
    const Range rows = part.own_rows();
    load_state<T>(v_.d_h_n, p_.output_size, carry_h_, d, rows);
    if (Cell::kStates == 2) load_state<T>(v_.d_c_n, p_.hidden_size, carry_c_, d, rows);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (const StateBuffer<Row>& d_gates : d_gates_) clear(d_gates.row(d, row), gates_stride_);
      if (projected()) clear(d_projected_.row(d, row), output_stride_);
    }
  }

  static void clear(Row* row, int64_t size) {
    for (int64_t i = 0; i < size; i += kLanes) Storage<Row>::store(row + i, V(0));
  }

  // W_hh^T times the gate gradients of the step after position s.
  auto recurrent(int64_t d, int64_t s) const {
    return weights_.recurrent(d, d_gates_[(s + 1) & 1].row(d, 0), s != p_.time_steps - 1);
  }

  // Whether that product is of use for a tile.
  template <class TileOf>
  bool recurrent_is_wanted(const TileOf& tile, int64_t d, int64_t s) const {
    if (!ragged_ || s == p_.time_steps - 1) return true;
    const int64_t after = time_at(s + 1, d, p_.time_steps);
    return any_row(tile, [&](int64_t row) { return row_step(v_, after, row) == RowStep::kPlain; });
  }

  template <class TileOf>
  bool is_active(const TileOf& tile, int64_t t) const {
    return any_row(tile, [&](int64_t row) { return row_step_at(t, row) != RowStep::kInactive; });
  }

  // What the updates of one step read and write, worked out once for all of them.
  struct Step {
    int64_t d, s, t;
    BatchRows<const T> d_output, d_cells, saved, output, cells;
    BatchRows<const T> output_before, cells_before;  // of the step before, in rows that do not start
    BatchRows<const T> h_0, c_0;                     // in those that do; null: zeros
    BatchRows<T> d_gates, d_gates_h, d_projected;
    BatchRows<Row> d_gates_kept, d_projected_kept;  // for the products
    BatchRows<Real> carry_h, carry_c;
  };

  Step at_position(int64_t d, int64_t s) const {
    const int64_t t = time_at(s, d, p_.time_steps), before = time_before(t, d);
    const auto rows_before = [&](const SequenceView<const void>& view) {
      return s > 0 ? rows_at<T>(view, before, d) : BatchRows<const T>{};
    };
    return {.d = d,
            .s = s,
            .t = t,
            .d_output = rows_at<T>(v_.d_output, t, d),
            .d_cells = rows_at<T>(v_.d_cells, t, d),
            .saved = rows_at<T>(v_.saved, t, d),
            .output = rows_at<T>(v_.output, t, d),
            .cells = rows_at<T>(v_.cells, t, d),
            .output_before = rows_before(v_.output),
            .cells_before = rows_before(v_.cells),
            .h_0 = rows_at<T>(v_.h_0, d),
            .c_0 = rows_at<T>(v_.c_0, d),
            .d_gates = rows_at<T>(v_.d_gates, t, d),
            .d_gates_h = rows_at<T>(v_.d_gates_h, t, d),
            .d_projected = rows_at<T>(v_.d_projected, t, d),
            .d_gates_kept = d_gates_[s & 1].rows(d),
            .d_projected_kept = projected() ? d_projected_.rows(d) : BatchRows<Row>{},
            .carry_h = carry_h_.rows(d),
            .carry_c = Cell::kStates == 2 ? carry_c_.rows(d) : BatchRows<Real>{}};
  }

  void step(const Part& part, int64_t d, int64_t s) const {
    const Step step = at_position(d, s);
    const Range output_blocks = part.blocks_of(weights_.output_blocks());
    if (!projected()) {
      auto product = recurrent(d, s);
      StepPrefetch prefetch(part, chunk_count<Units::kColumns>(product, part.rows, output_blocks), p_.time_steps);
      const int64_t next = time_before(step.t, d);
      prefetch.add<T>(v_.saved, next, d, Cell::kSaved * p_.hidden_size);
      prefetch.add<T>(v_.d_output, next, d, p_.output_size);
      // The state before the next step; the one after it is at hand.
      const int64_t before = time_before(next, d);
      if (Cell::kStates == 2) prefetch.add<T>(v_.cells, before, d, p_.hidden_size);
      if (Cell::kReadsHidden) prefetch.add<T>(v_.output, before, d, p_.output_size);
      if (v_.d_gates.data != v_.saved.data) prefetch.add<T>(v_.d_gates, next, d, Cell::kGates * p_.hidden_size);
      product.prefetch = prefetch.of_step();
      const auto announce = [&](const auto& tile) {
        if (is_active(tile, step.t)) prefetch_update(tile, step);
        return recurrent_is_wanted(tile, d, s);
      };
      const auto special = [&](int64_t row) { return is_special(d, s, step.t, row); };
      const auto update_tile = [&](const auto& tile) {
        for_each_vector<Units::kVectors>(tile, p_.hidden_size, special, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
          update(where, step, output_gradient(tile, where, step));
        });
      };
      for_each_tile<Units::kColumns>(product, part.rows, output_blocks, announce, update_tile, s % 2 != 0);
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
    const auto announce = [&](const auto& tile) {
      const bool active = is_active(tile, step.t);
      if (active) prefetch_update(tile, step);
      return active;
    };
    const auto update_tile = [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.hidden_size, special, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        update(where, step, column_of(tile, where));
      });
    };
    for_each_tile<Units::kColumns>(projection, part.rows, part.blocks_of(weights_.hidden_blocks()), announce,
                                   update_tile);
    part.wait();
  }

  template <class TileOf>
  void prefetch_update(const TileOf& tile, const Step& step) const {
    const int64_t size = p_.hidden_size;
    prefetch_tile<Units::kVectors>(tile, Cell::kSaved, size, step.saved);
    if (step.d_output && !projected()) prefetch_tile<Units::kVectors>(tile, 1, size, step.d_output);
    if (step.cells_before) prefetch_tile<Units::kVectors>(tile, 1, size, step.cells_before);
    prefetch_tile<Units::kVectors, true>(tile, Cell::kGates, size, step.d_gates);
    if constexpr (Cell::kSplit) {
      const int first = v_.first_apart;
      prefetch_tile<Units::kVectors, true>(tile, Cell::kGates - first, size, step.d_gates_h.from(first * size));
    }
  }

  // The whole gradient of h_t: through the next step's gates, directly through its update, and from outside, which an
  // inactive row has not.
  template <class TileOf, class Where>
  FUSED_RNN_INLINE auto output_gradient(const TileOf& tile, const Where& where, const Step& step) const {
    auto d_h = column_of(tile, where) + load_padded(where, step.carry_h);
    if (step.d_output && !(where.kParts == 1 && row_step_at(step.t, where.row) == RowStep::kInactive))
      d_h = d_h + load_rows(where, step.d_output);
    return d_h;
  }

  // h or c before a step of rows without a reset: what the step before left, or the initial state.
  template <class Where>
  FUSED_RNN_INLINE auto previous_state(const Where& where, const Step& step, const BatchRows<const T>& before,
                                       const BatchRows<const T>& initial) const {
    if (where.kParts == 1 ? !starts(step.d, step.s, step.t, where.row) : step.s > 0) return load_rows(where, before);
    if (initial) return load_rows(where, initial);
    return Vec<Real, Where::kParts>(0);
  }

  template <class Where>
  FUSED_RNN_INLINE void update(const Where& where, const Step& step, const Vec<Real, Where::kParts>& d_h) const {
    using Rows = Vec<Real, Where::kParts>;
    const int64_t hidden_size = p_.hidden_size;
    const RowStep kind = Where::kParts == 1 ? row_step_at(step.t, where.row) : RowStep::kPlain;
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kInactive) return pass_through(where, step, d_h);
    }
    Pack<Rows, Cell::kSaved> saved;
#pragma GCC unroll 4
    for (int k = 0; k < Cell::kSaved; ++k) saved[k] = load_rows(where, step.saved.from(k * hidden_size));
    Pack<Rows, Cell::kStates> previous, current, d_current;
    d_current[0] = d_h;
    previous[0] = current[0] = Rows(0);
    if constexpr (Cell::kReadsHidden) {
      previous[0] = previous_state(where, step, step.output_before, step.h_0);
      current[0] = load_rows(where, step.output);
    }
    if constexpr (Cell::kStates == 2) {
      previous[1] = previous_state(where, step, step.cells_before, step.c_0);
      current[1] = load_rows(where, step.cells);
      d_current[1] = load_padded(where, step.carry_c);
      if (step.d_cells) d_current[1] = d_current[1] + load_rows(where, step.d_cells);
    }
    if (kind == RowStep::kReset) previous = Pack<Rows, Cell::kStates>{};
    const CellBackward<Rows, Cell> result = Cell::backward(saved, previous, current, d_current);

#pragma GCC unroll 4
    for (int g = 0; g < Cell::kGates; ++g) {
      store_rows(where, result.d_from_x[g], step.d_gates.from(g * hidden_size));
      store_factors(where, result.d_from_h[g], step.d_gates_kept.from(g * hidden_stride_));
      if (Cell::kSplit && g >= v_.first_apart)
        store_rows(where, result.d_from_h[g], step.d_gates_h.from(g * hidden_size));
    }
    // With a projection carry_h belongs to the projected h, which has no direct part.
    if (!projected()) store_padded(where, result.d_state[0], step.carry_h);
    if constexpr (Cell::kStates == 2) store_padded(where, result.d_state[1], step.carry_c);
    if constexpr (Where::kParts == 1) {
      if (kind == RowStep::kReset) hand_nothing_on(where, step);
    }
  }

  // After the step of a reset row: its state before the step was no function of anything.
  template <class Where>
  [[gnu::noinline]] void hand_nothing_on(const Where& where, const Step& step) const {
    clear_product(where, step);
    if (!projected()) store_padded(where, V(0), step.carry_h);
    if constexpr (Cell::kStates == 2) store_padded(where, V(0), step.carry_c);
  }

  // The step of an inactive row: no gate gradients; d_h is handed on, and the carry of c stays where it is.
  template <class Where>
  [[gnu::noinline]] void pass_through(const Where& where, const Step& step, const V& d_h) const {
    clear_product(where, step);
    for (int g = 0; g < Cell::kGates; ++g) {
      store_rows(where, V(0), step.d_gates.from(g * p_.hidden_size));
      if (Cell::kSplit && g >= v_.first_apart) store_rows(where, V(0), step.d_gates_h.from(g * p_.hidden_size));
    }
    if (!projected()) store_padded(where, d_h, step.carry_h);
  }

  // Nothing for the product of the step before.
  template <class Where>
  FUSED_RNN_INLINE void clear_product(const Where& where, const Step& step) const {
    for (int g = 0; g < Cell::kGates; ++g) store_padded(where, V(0), step.d_gates_kept.from(g * hidden_stride_));
  }

  void finish(const Part& part, int64_t d) const {
    const auto wanted = [&](const auto& tile) { return recurrent_is_wanted(tile, d, -1); };
    const auto store_tile = [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.output_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        store_rows(where, column_of(tile, where) + load_padded(where, carry_h_.rows(d)), rows_at<T>(v_.d_h_0, d));
      });
    };
    for_each_tile<Units::kColumns>(recurrent(d, -1), part.rows, part.blocks_of(weights_.output_blocks()), wanted,
                                   store_tile);
    if (Cell::kStates == 2) store_state<T>(carry_c_, v_.d_c_0, p_.hidden_size, d, part.own_rows());
  }

  const Problem& p_;
  const Views& v_;
  Barriers barriers_;
  int threads_;
  bool ragged_;  // there are lengths or resets
  BackwardWeights<Cell, T> weights_;
  int64_t hidden_stride_, output_stride_, gates_stride_;  // padded sizes of one row
  StateBuffer<Row> d_gates_[2];                           // [D, B, G, hidden_stride] of this step and the one after
  StateBuffer<Row> d_projected_{};
  StateBuffer<Real> carry_h_{}, carry_c_{};  // gradients handed to the step before
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
