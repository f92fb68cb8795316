// The CPU schedule of the backward pass of the variants: the row forward schedule mirrored, from the last step on.
//
// One step of a thread, for its rows:
//   product   d_h = mask W_hh^T d_sums of the step after, of all rows
//   update    row by row: what goes past the cell by zoneout, the norm of c, the cell's backward, the norm of the sums;
//             writes the gate gradients and d_sums
// With a projection a second product, W_hr^T, stands between the two.
//
// Gradients of what all rows share, the unit weights and the norms, are summed over time for each row; so they depend
// neither on the batch nor on the threads. A reset row hands nothing on after its step. An inactive row hands on what
// it was handed.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/packed_weights.h"
#include "cpu/row_forward.h"
#include "cpu/row_norm.h"
#include "cpu/share.h"
#include "cpu/state_buffer.h"
#include "cpu/tile_vectors.h"
#include "cpu/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
class RowBackward {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  using Units = typename BackwardWeights<Cell, T>::Units;
  static constexpr int kLanes = V::kLanes, kStates = Cell::kStates;

 public:
  using Views = BackwardViews;

  static Tiling tiling(const Problem& problem) {
    return {.lanes = kLanes,
            .block_units = Units::kUnits,
            .columns = Units::kColumns,
            .tile_rows = max_tile_rows(Units::kColumns),
            .reduction = Cell::kGates,
            .blocks = Units::count(problem.hidden_size),
            .whole_rows = true};
  }

  RowBackward(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem), v_(views), barriers_(plan, arena), threads_(plan.threads()), weights_(problem, views, arena) {
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = Units::padded(p_.output_size);
    const auto take = [&](int64_t count, int64_t stride) {
      return StateBuffer<Real>{arena.take<Real>(p_.directions * count * stride), count, stride};
    };
    d_sums_ = take(p_.batch, Cell::kGates * hidden_stride_);
    d_h_ = take(p_.batch, output_stride_);
    carry_h_ = take(p_.batch, output_stride_);
    if (kStates == 2) carry_c_ = take(p_.batch, hidden_stride_);
    if (projected()) d_hidden_ = take(p_.batch, hidden_stride_);
    if (Cell::kUnitWeights > 0) {
      unit_weights_ = take(Cell::kUnitWeights, hidden_stride_);
      d_unit_weights_ = take(p_.batch, Cell::kUnitWeights * hidden_stride_);
    }
    if (p_.normalized) {
      norm_ = take(norm_rows(p_.cell), hidden_stride_);
      d_norm_ = take(p_.batch, norm_rows(p_.cell) * hidden_stride_);
      scratch_ = arena.take<Real>(threads_ * kScratchRows * hidden_stride_);
    }
  }

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Share share = barriers_.share_of(thread, p_.directions, p_.batch);
    weights_.pack(thread, threads_);
    if (thread == 0) load_unit_parameters();
    const Scratch scratch = scratch_of(thread);
    for (int64_t d = share.directions.begin; d < share.directions.end; ++d) initialize(share.rows, d);
    barriers_.wait_for_team();  // packed weights are complete
    for (int64_t d = share.directions.begin; d < share.directions.end; ++d) {
      for (int64_t s = p_.time_steps - 1; s >= 0; --s) step(share.rows, d, s, scratch);
      finish(share.rows, d);
    }
  }

 private:
  // Of one row with norms.
  struct Scratch {
    Real* hats;    // [G, hidden_stride] the recurrent gates as their norm left them, before gain and bias
    Real* tanh_c;  // [hidden_stride] tanh(norm(c))
    Real* d_c;     // [hidden_stride] the gradient of c through h
  };
  static constexpr int kScratchRows = Cell::kGates + 2;

  Scratch scratch_of(int thread) const {
    Real* const hats = scratch_ + thread * kScratchRows * hidden_stride_;
    return {hats, hats + Cell::kGates * hidden_stride_, hats + (Cell::kGates + 1) * hidden_stride_};
  }

  bool projected() const {
    if constexpr (Cell::kReadsHidden) return false;
    return p_.projected;
  }

  static Range all_of(const StateBuffer<Real>& buffer) { return {0, buffer.batch}; }

  void load_unit_parameters() const {
    for (int64_t d = 0; d < p_.directions; ++d) {
      if (Cell::kUnitWeights > 0)
        load_state<T>(v_.variant.unit_weights, p_.hidden_size, unit_weights_, d, all_of(unit_weights_));
      if (p_.normalized) load_state<T>(v_.variant.norm, p_.hidden_size, norm_, d, all_of(norm_));
    }
  }

  void initialize(Range rows, int64_t d) const {
    load_state<T>(v_.d_h_n, p_.output_size, carry_h_, d, rows);
    if (kStates == 2) load_state<T>(v_.d_c_n, p_.hidden_size, carry_c_, d, rows);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (const StateBuffer<Real>& zeroed : {d_sums_, d_h_, d_hidden_, d_unit_weights_, d_norm_})
        clear(zeroed, d, row);
    }
  }

  static void clear(const StateBuffer<Real>& buffer, int64_t d, int64_t row) {
    if (buffer.data == nullptr) return;
    for (int64_t i = 0; i < buffer.stride; i += kLanes) V(0).store(buffer.row(d, row) + i);
  }

  // d_h of the rows before position s (from the gate gradients of the step there), added to what was carried.
  void make_d_h(Range rows, int64_t d, bool present) const {
    const Product<Real> recurrent = weights_.recurrent(d, d_sums_.row(d, 0), present);
    const auto wanted = [](const auto& /*tile*/) { return true; };
    for_each_tile<Units::kColumns>(recurrent, rows, {0, weights_.output_blocks()}, wanted, [&](const auto& tile) {
      const auto alone = [](int64_t /*row*/) { return true; };
      for_each_vector<Units::kVectors>(tile, p_.output_size, alone, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        if constexpr (where.kRows == 1) {
          V d_h = column_of(tile, where, where.vector);
          if (p_.recurrent_mask)
            d_h = d_h * load<T>(at<T>(v_.variant.recurrent_mask, d, where.row) + where.unit, where.count);
          (d_h + V::load(carry_h_.row(d, where.row) + where.unit)).store(d_h_.row(d, where.row) + where.unit);
        }
      });
    });
  }

  void step(Range rows, int64_t d, int64_t s, const Scratch& scratch) const {
    const int64_t t = d == 0 ? s : p_.time_steps - 1 - s;
    make_d_h(rows, d, s != p_.time_steps - 1);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      if (row_step(v_, t, row) == RowStep::kInactive) {
        pass_through(d, t, row);
      } else {
        add_output_gradient(d, t, row);
      }
    }
    if constexpr (!Cell::kReadsHidden) {
      if (projected()) project(rows, d);
    }
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const RowStep kind = row_step(v_, t, row);
      if (kind != RowStep::kInactive) update(d, s, t, row, kind, scratch);
      if (kind != RowStep::kReset) continue;
      // The state before the step was no function of anything.
      clear(d_sums_, d, row);
      clear(carry_h_, d, row);
      if (kStates == 2) clear(carry_c_, d, row);
    }
  }

  // The step of an inactive row: no gate gradients; d_h is handed on, and the carry of c stays where it is.
  void pass_through(int64_t d, int64_t t, int64_t row) const {
    clear(d_sums_, d, row);
    for_each_vector_of_row<Real>(p_.output_size, [&](int64_t unit, auto /*count*/) {
      V::load(d_h_.row(d, row) + unit).store(carry_h_.row(d, row) + unit);
    });
    clear(d_h_, d, row);
    const auto zero = [&](const SequenceView<void>& view, int64_t size) {
      if (!view) return;
      T* to = at<T>(view, t, row, d);
      for_each_vector_of_row<Real>(size, [&](int64_t i, auto count) { store<T>(to + i, V(0), count); });
    };
    zero(v_.d_gates, Cell::kGates * p_.hidden_size);
    zero(v_.d_gates_h, Cell::kGates * p_.hidden_size);
    zero(v_.d_projected, p_.output_size);
  }

  void add_output_gradient(int64_t d, int64_t t, int64_t row) const {
    for_each_vector_of_row<Real>(p_.output_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      V d_h = V::load(d_h_.row(d, row) + unit);
      if (v_.d_output) d_h = d_h + load<T>(at<T>(v_.d_output, t, row, d) + unit, count);
      d_h.store(d_h_.row(d, row) + unit);
      if (v_.d_projected) store<T>(at<T>(v_.d_projected, t, row, d) + unit, d_h, count);
    });
    if (projected()) clear(carry_h_, d, row);  // it belongs to the projected h, which has no direct part
  }

  // d_hidden = W_hr^T d_h.
  void project(Range rows, int64_t d) const {
    const Product<Real> projection = weights_.projection(d, d_h_.row(d, 0));
    const auto wanted = [](const auto& /*tile*/) { return true; };
    for_each_tile<Units::kColumns>(projection, rows, {0, weights_.hidden_blocks()}, wanted, [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.hidden_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        store_padded(where, column_of(tile, where, where.vector), d_hidden_.row(d, 0), hidden_stride_);
      });
    });
  }

  // Where a row's state before the step is; null: it is zero.
  const T* state_before(const SequenceView<const void>& states, const StateView<const void>& initial, int64_t d,
                        int64_t s, int64_t t, int64_t row) const {
    const int64_t before = d == 0 ? t - 1 : t + 1;
    if (s > 0 && row_step(v_, before, row) != RowStep::kInactive) return at<T>(states, before, row, d);
    return initial ? at<T>(initial, d, row) : nullptr;
  }

  // What the forward pass kept of one row and step.
  struct Row {
    int64_t d, t, index;
    const T* before[2] = {nullptr, nullptr};  // the states before the step; null: zeros
    const T* made = nullptr;                  // the last state as the cell made it
    const T* saved;
    const T* sums = nullptr;    // the recurrent gates before their norm
    const T* stays = nullptr;   // zoneout
    const Real* d_h = nullptr;  // the gradient of h
  };

  Row row_of(int64_t d, int64_t s, int64_t t, int64_t index, RowStep kind) const {
    Row row{.d = d, .t = t, .index = index, .saved = at<T>(v_.saved, t, index, d)};
    const T* extra = row.saved + Cell::kSaved * p_.hidden_size;
    row.made = kStates == 2 ? at<T>(v_.cells, t, index, d) : at<T>(v_.output, t, index, d);
    if (p_.zoneout) {
      row.stays = at<T>(v_.variant.zoneout, t, index, d);
      row.made = extra;
      extra += p_.hidden_size;
    }
    if (p_.normalized) row.sums = extra;
    if (kind != RowStep::kReset) {
      if (Cell::kReadsHidden) row.before[0] = state_before(v_.output, v_.h_0, d, s, t, index);
      if (kStates == 2) row.before[1] = state_before(v_.cells, v_.c_0, d, s, t, index);
    }
    row.d_h = (projected() ? d_hidden_ : d_h_).row(d, index);
    return row;
  }

  // The gradient of a state, and the part of it that zoneout leads to the state before.
  template <class Count>
  FUSED_RNN_INLINE V staying(const Row& row, int state, int64_t unit, Count count) const {
    return row.stays == nullptr ? V(0) : load<T>(row.stays + state * p_.hidden_size + unit, count);
  }
  template <class Count>
  FUSED_RNN_INLINE V gradient_of_c(const Row& row, int64_t unit, Count count) const {
    V d_c = V::load(carry_c_.row(row.d, row.index) + unit);
    if (v_.d_cells) d_c = d_c + load<T>(at<T>(v_.d_cells, row.t, row.index, row.d) + unit, count);
    return d_c;
  }
  template <class Count>
  FUSED_RNN_INLINE Pack<V, Cell::kSaved> saved_of(const Row& row, int64_t unit, Count count) const {
    Pack<V, Cell::kSaved> saved;
    for (int k = 0; k < Cell::kSaved; ++k) saved[k] = load<T>(row.saved + k * p_.hidden_size + unit, count);
    return saved;
  }

  // Adds to a sum over time, of row `k` of a buffer [rows, hidden_stride] of one row of the batch.
  FUSED_RNN_INLINE void add_to(const StateBuffer<Real>& buffer, const Row& row, int k, int64_t unit, V value) const {
    Real* to = buffer.row(row.d, row.index) + k * hidden_stride_ + unit;
    (V::load(to) + value).store(to);
  }

  void update(int64_t d, int64_t s, int64_t t, int64_t index, RowStep kind, const Scratch& scratch) const {
    const Row row = row_of(d, s, t, index, kind);
    if constexpr (has_normalized_c<Cell>) {
      if (p_.normalized) through_norm_of_c(row, scratch);
    }
    Moments<Real> moments[Cell::kNormGroups + 1];
    NormGradient<Real> gradients[Cell::kNormGroups + 1];
    if (p_.normalized) restore_hats(row, moments, scratch.hats);
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      const CellBackward<V, Cell> result = cell_gradient(row, unit, count, scratch);
      for (int g = 0; g < Cell::kGates; ++g) {
        store<T>(at<T>(v_.d_gates, t, index, d) + g * p_.hidden_size + unit, result.d_from_x[g], count);
        V d_from_h = result.d_from_h[g];
        if constexpr (Cell::kNormGroups > 0) {
          if (p_.normalized) {
            const V hat = V::load(scratch.hats + g * hidden_stride_ + unit);
            add_to(d_norm_, row, 2 * g, unit, d_from_h * hat);
            add_to(d_norm_, row, 2 * g + 1, unit, d_from_h);
            d_from_h = d_from_h * V::load(norm_.row(d, 2 * g) + unit);
            gradients[Cell::norm_group(g)].add(d_from_h, hat, count);
          }
        }
        first_lanes(d_from_h, count).store(d_sums_.row(d, index) + g * hidden_stride_ + unit);
        if (v_.d_gates_h && !p_.normalized)
          store<T>(at<T>(v_.d_gates_h, t, index, d) + g * p_.hidden_size + unit, d_from_h, count);
      }
      for (int k = 0; k < Cell::kUnitWeights; ++k) add_to(d_unit_weights_, row, k, unit, result.d_unit_weights[k]);
    });
    if (p_.normalized) through_norm_of_sums(row, moments, gradients, scratch.hats);
  }

  // The cell's backward of a few units; writes what is carried to the step before.
  template <class Count>
  FUSED_RNN_INLINE CellBackward<V, Cell> cell_gradient(const Row& row, int64_t unit, Count count,
                                                       const Scratch& scratch) const {
    Pack<V, kStates> previous, current, d_current, stays;
    for (int k = 0; k < kStates; ++k) {
      previous[k] = row.before[k] == nullptr ? V(0) : load<T>(row.before[k] + unit, count);
      current[k] = V(0);
      stays[k] = staying(row, k, unit, count);
    }
    current[kStates - 1] = load<T>(row.made + unit, count);
    d_current[0] = V::load(row.d_h + unit);
    if constexpr (kStates == 2) d_current[1] = gradient_of_c(row, unit, count);
    Pack<V, kStates> d_made;
    for (int k = 0; k < kStates; ++k) d_made[k] = d_current[k] * (V(1) - stays[k]);
    Pack<V, Cell::kUnitWeights> weights;
    for (int k = 0; k < Cell::kUnitWeights; ++k) weights[k] = V::load(unit_weights_.row(row.d, k) + unit);
    const Pack<V, Cell::kSaved> saved = saved_of(row, unit, count);
    CellBackward<V, Cell> result;
    if constexpr (has_normalized_c<Cell>) {
      if (p_.normalized) {
        result = Cell::gates_backward(saved, previous, V::load(scratch.tanh_c + unit), d_made[0],
                                      d_made[1] + V::load(scratch.d_c + unit));
      } else {
        result = cell_backward<Cell, V>(saved, previous, current, d_made, weights);
      }
    } else {
      result = cell_backward<Cell, V>(saved, previous, current, d_made, weights);
    }
    if (!projected()) (result.d_state[0] + d_current[0] * stays[0]).store(carry_h_.row(row.d, row.index) + unit);
    if constexpr (kStates == 2)
      (result.d_state[1] + d_current[1] * stays[1]).store(carry_c_.row(row.d, row.index) + unit);
    return result;
  }

  // The gradient of c that h has through the norm between them; leaves tanh(norm(c)) for the cell's backward.
  void through_norm_of_c(const Row& row, const Scratch& scratch) const
    requires(has_normalized_c<Cell>)
  {
    const int gain_row = 2 * Cell::kGates;
    Real* const c = scratch.d_c;
    Real* const g = scratch.hats;
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      load<T>(row.made + unit, count).store(c + unit);
    });
    const Moments<Real> moments = moments_of(c, p_.hidden_size, 1, hidden_stride_, [](int) { return true; });
    NormGradient<Real> gradient;
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      const V hat = moments.normalized(V::load(c + unit)), gain = V::load(norm_.row(row.d, gain_row) + unit);
      const V tanh_c = tanh(V::load(norm_.row(row.d, gain_row + 1) + unit) + gain * hat);
      const V d_h = V::load(row.d_h + unit) * (V(1) - staying(row, 0, unit, count));
      const V d_normalized = Cell::output_backward(saved_of(row, unit, count), tanh_c, d_h);
      add_to(d_norm_, row, gain_row, unit, d_normalized * hat);
      add_to(d_norm_, row, gain_row + 1, unit, d_normalized);
      gradient.add(d_normalized * gain, hat, count);
      tanh_c.store(scratch.tanh_c + unit);
      (d_normalized * gain).store(g + unit);
    });
    gradient.finish();
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto /*count*/) FUSED_RNN_INLINE_LAMBDA {
      gradient(moments, V::load(g + unit), moments.normalized(V::load(c + unit))).store(c + unit);
    });
  }

  // The recurrent gates as their norm left them, before gain and bias, from what they were before it.
  void restore_hats(const Row& row, Moments<Real>* moments, Real* hats) const {
    if constexpr (Cell::kNormGroups > 0) {
      const auto for_each_hat = [&](const auto& visit) {
        for (int g = 0; g < Cell::kGates; ++g) {
          for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
            visit(g, hats + g * hidden_stride_ + unit, row.sums + g * p_.hidden_size + unit, count);
          });
        }
      };
      for_each_hat([](int, Real* hat, const T* sum, auto count) { load<T>(sum, count).store(hat); });
      for (int group = 0; group < Cell::kNormGroups; ++group) {
        moments[group] = moments_of(hats, p_.hidden_size, Cell::kGates, hidden_stride_,
                                    [&](int gate) { return Cell::norm_group(gate) == group; });
      }
      for_each_hat(
          [&](int g, Real* hat, const T*, auto) { moments[Cell::norm_group(g)].normalized(V::load(hat)).store(hat); });
    }
  }

  // From the gradients of the normalized recurrent gates, times their gains, to those of the sums.
  void through_norm_of_sums(const Row& row, const Moments<Real>* moments, NormGradient<Real>* gradients,
                            const Real* hats) const {
    if constexpr (Cell::kNormGroups > 0) {
      for (int group = 0; group < Cell::kNormGroups; ++group) gradients[group].finish();
      for (int g = 0; g < Cell::kGates; ++g) {
        const int group = Cell::norm_group(g);
        Real* const d_sums = d_sums_.row(row.d, row.index) + g * hidden_stride_;
        T* const result = at<T>(v_.d_gates_h, row.t, row.index, row.d) + g * p_.hidden_size;
        for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
          const V hat = V::load(hats + g * hidden_stride_ + unit);
          const V d = first_lanes(gradients[group](moments[group], V::load(d_sums + unit), hat), count);
          d.store(d_sums + unit);
          store<T>(result + unit, d, count);
        });
      }
    }
  }

  void finish(Range rows, int64_t d) const {
    make_d_h(rows, d, p_.time_steps > 0);
    store_state<T>(d_h_, v_.d_h_0, p_.output_size, d, rows);
    if (kStates == 2) store_state<T>(carry_c_, v_.d_c_0, p_.hidden_size, d, rows);
    const auto store_sums = [&](const StateBuffer<Real>& from, const SequenceView<void>& to, int count) {
      for (int64_t row = rows.begin; to && row < rows.end; ++row) {
        for (int k = 0; k < count; ++k) {
          for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto n) FUSED_RNN_INLINE_LAMBDA {
            store<T>(at<T>(to, 0, row, d) + k * p_.hidden_size + unit,
                     V::load(from.row(d, row) + k * hidden_stride_ + unit), n);
          });
        }
      }
    };
    store_sums(d_unit_weights_, v_.d_unit_weights, Cell::kUnitWeights);
    store_sums(d_norm_, v_.d_norm, norm_rows(p_.cell));
  }

  const Problem& p_;
  const Views& v_;
  Barriers barriers_;
  int threads_;
  BackwardWeights<Cell, T> weights_;
  int64_t hidden_stride_, output_stride_;
  Real* scratch_ = nullptr;                        // [threads, kScratchRows, hidden_stride]
  StateBuffer<Real> d_sums_{};                     // [D, B, G, hidden_stride] of the step after
  StateBuffer<Real> d_h_{}, d_hidden_{};           // [D, B, ...] of h, and of h before its projection
  StateBuffer<Real> carry_h_{}, carry_c_{};        // [D, B, ...] handed to the step before
  StateBuffer<Real> unit_weights_{}, norm_{};      // [D, K or N, hidden_stride]
  StateBuffer<Real> d_unit_weights_{}, d_norm_{};  // [D, B, K or N, hidden_stride]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
