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
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/kept_row.h"
#include "cpu/pass/norm.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/schedules/partition.h"
#include "cpu/simd/vec_math.h"

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
      : p_(problem),
        v_(views),
        barriers_(plan, arena),
        threads_(plan.threads()),
        weights_(problem, views, arena),
        parameters_(problem, views.variant, arena) {
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
    if (Cell::kUnitWeights > 0) d_unit_weights_ = take(p_.batch, Cell::kUnitWeights * hidden_stride_);
    if (normalized()) {
      d_norm_ = take(p_.batch, norm_rows(p_.cell) * hidden_stride_);
      scratch_ = arena.take<Real>(threads_ * kScratchRows * hidden_stride_);
    }
  }

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    weights_.pack(thread, threads_);
    if (thread == 0) parameters_.load();
    const Scratch scratch = scratch_of(thread);
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) initialize(part.rows, d);
    barriers_.wait_for_team();  // packed weights and parameters are complete
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) {
      for (int64_t s = p_.time_steps - 1; s >= 0; --s) step(part.rows, d, s, scratch);
      finish(part.rows, d);
    }
  }

 private:
  // Of one row with norms; null without.
  struct Scratch {
    Real* hats;    // [G, hidden_stride] the recurrent gates as their norm left them, before gain and bias
    Real* tanh_c;  // [hidden_stride] tanh(norm(c))
    Real* d_c;     // [hidden_stride] the gradient of c through h
  };
  static constexpr int kScratchRows = Cell::kGates + 2;

  Scratch scratch_of(int thread) const {
    if (scratch_ == nullptr) return {};
    Real* const hats = scratch_ + thread * kScratchRows * hidden_stride_;
    return {hats, hats + Cell::kGates * hidden_stride_, hats + (Cell::kGates + 1) * hidden_stride_};
  }

  bool projected() const {
    if constexpr (Cell::kReadsHidden) return false;
    return p_.projected;
  }

  bool normalized() const { return Cell::kNormGroups > 0 && p_.normalized; }

  void initialize(Range rows, int64_t d) const {
    load_state<T>(v_.d_h_n, p_.output_size, carry_h_, d, rows);
    if (kStates == 2) load_state<T>(v_.d_c_n, p_.hidden_size, carry_c_, d, rows);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      // The products read the padding of the first two, where steps write zeros at most.
      for (const StateBuffer<Real>* zeroed : {&d_sums_, &d_h_, &d_unit_weights_, &d_norm_}) clear_row(*zeroed, d, row);
    }
  }

  // d_h = what was carried + mask W_hh^T d_sums, which are `present` where a step came after.
  void make_d_h(Range rows, int64_t d, bool present) const {
    const auto recurrent = weights_.recurrent(d, d_sums_.row(d, 0), present);
    const auto wanted = [](const auto& /*tile*/) { return true; };
    for_each_tile<Units::kColumns>(recurrent, rows, {0, weights_.output_blocks()}, wanted, [&](const auto& tile) {
      const auto alone = [](int64_t /*row*/) { return true; };
      for_each_vector<Units::kVectors>(
          tile, p_.output_size, alone, [&]<class Where>(const Where& where) FUSED_RNN_INLINE_LAMBDA {
            if constexpr (Where::kParts == 1) {
              V d_h = column_of(tile, where);
              if (p_.recurrent_mask)
                d_h = d_h * load<T>(at<T>(v_.variant.recurrent_mask, d, where.row) + where.unit, where.count);
              d_h = d_h + V::load(carry_h_.row(d, where.row) + where.unit);
              store_factors(where, d_h, d_h_.rows(d));
            }
          });
    });
  }

  void step(Range rows, int64_t d, int64_t s, const Scratch& scratch) const {
    const int64_t t = time_at(s, d, p_.time_steps);
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
      if (kind != RowStep::kInactive) update(d, s, t, row, scratch);
      if (kind != RowStep::kReset) continue;
      // The state before the step was no function of anything.
      for (const StateBuffer<Real>* handed : {&d_sums_, &carry_h_, &carry_c_}) clear_row(*handed, d, row);
    }
  }

  // The step of an inactive row: no gate gradients; d_h is handed on, and the carry of c stays where it is.
  void pass_through(int64_t d, int64_t t, int64_t row) const {
    clear_row(d_sums_, d, row);
    for_each_vector_of_row<Real>(p_.output_size, [&](int64_t unit, auto /*count*/) {
      V::load(d_h_.row(d, row) + unit).store(carry_h_.row(d, row) + unit);
    });
    store_zeros<T>(v_.d_gates, t, row, d, Cell::kGates * p_.hidden_size);
    store_zeros<T>(v_.d_gates_h, t, row, d, Cell::kGates * p_.hidden_size);
    store_zeros<T>(v_.d_projected, t, row, d, p_.output_size);
  }

  void add_output_gradient(int64_t d, int64_t t, int64_t row) const {
    for_each_vector_of_row<Real>(p_.output_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      V d_h = V::load(d_h_.row(d, row) + unit);
      if (v_.d_output) d_h = d_h + load<T>(at<T>(v_.d_output, t, row, d) + unit, count);
      d_h.store(d_h_.row(d, row) + unit);
      if (v_.d_projected) store<T>(at<T>(v_.d_projected, t, row, d) + unit, d_h, count);
    });
    if (projected()) clear_row(carry_h_, d, row);  // it belongs to the projected h, which has no direct part
  }

  // d_hidden = W_hr^T d_h.
  void project(Range rows, int64_t d) const {
    const auto projection = weights_.projection(d, d_h_.row(d, 0));
    const auto wanted = [](const auto& /*tile*/) { return true; };
    for_each_tile<Units::kColumns>(projection, rows, {0, weights_.hidden_blocks()}, wanted, [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.hidden_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        store_padded(where, column_of(tile, where), d_hidden_.rows(d));
      });
    });
  }

  struct Row : KeptRow<T> {
    const Real* d_h;  // the gradient of h, before its projection if it has one
  };

  // The gradient of a state in the two parts that zoneout makes of it: what the cell made, and what stayed.
  struct Parted {
    V made, stayed;
  };
  template <class Count>
  FUSED_RNN_INLINE Parted parted(const Row& row, int state, int64_t unit, Count count, V d) const {
    if (row.stays == nullptr) return {d, V(0)};
    const V part = load<T>(row.stays + state * p_.hidden_size + unit, count);
    return {d * (V(1) - part), d * part};
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

  // Through the gain and bias of a norm, whose gradients it adds up: from the gradient of their result to that of hat.
  FUSED_RNN_INLINE V through_gain(const Row& row, int norm, int64_t unit, V d, V hat) const {
    add_to(d_norm_, row, 2 * norm, unit, d * hat);
    add_to(d_norm_, row, 2 * norm + 1, unit, d);
    return d * parameters_.gain(row.d, norm, unit);
  }

  // Adds to a sum over time, of row `k` of a buffer [rows, hidden_stride] of one row of the batch.
  FUSED_RNN_INLINE void add_to(const StateBuffer<Real>& buffer, const Row& row, int k, int64_t unit, V value) const {
    Real* to = buffer.row(row.d, row.index) + k * hidden_stride_ + unit;
    (V::load(to) + value).store(to);
  }

  void update(int64_t d, int64_t s, int64_t t, int64_t index, const Scratch& scratch) const {
    const Row row{kept_row<Cell, T>(p_, v_, d, s, t, index), (projected() ? d_hidden_ : d_h_).row(d, index)};
    if constexpr (kHasNormalizedC<Cell>) {
      if (p_.normalized) through_norm_of_c(row, scratch);
    }
    Pack<Moments<Real>, Cell::kNormGroups> moments{};
    Pack<NormGradient<Real>, Cell::kNormGroups> gradients{};
    if (normalized()) moments = restore_hats(row, scratch.hats);
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      const CellBackward<V, Cell> result = cell_gradient(row, unit, count, scratch);
      for (int g = 0; g < Cell::kGates; ++g) {
        store<T>(at<T>(v_.d_gates, t, index, d) + g * p_.hidden_size + unit, result.d_from_x[g], count);
        V d_from_h = result.d_from_h[g];
        if (normalized()) {
          const V hat = V::load(scratch.hats + g * hidden_stride_ + unit);
          d_from_h = through_gain(row, g, unit, d_from_h, hat);
          gradients[norm_group<Cell>(g)].add(d_from_h, hat, count);
        }
        first_lanes(d_from_h, count).store(d_sums_.row(d, index) + g * hidden_stride_ + unit);
        if (v_.d_gates_h && !normalized())
          store<T>(at<T>(v_.d_gates_h, t, index, d) + g * p_.hidden_size + unit, d_from_h, count);
      }
      for (int k = 0; k < Cell::kUnitWeights; ++k) add_to(d_unit_weights_, row, k, unit, result.d_unit_weights[k]);
    });
    if (normalized()) through_norm_of_sums(row, moments, gradients, scratch.hats);
  }

  // The cell's backward of a few units; writes what is carried to the step before.
  template <class Count>
  FUSED_RNN_INLINE CellBackward<V, Cell> cell_gradient(const Row& row, int64_t unit, Count count,
                                                       const Scratch& scratch) const {
    Pack<V, kStates> previous, current{}, d_made;
    Parted parts[kStates];
    for (int k = 0; k < kStates; ++k) {
      previous[k] = row.before[k] == nullptr ? V(0) : load<T>(row.before[k] + unit, count);
      parts[k] = parted(row, k, unit, count, k == 0 ? V::load(row.d_h + unit) : gradient_of_c(row, unit, count));
      d_made[k] = parts[k].made;
    }
    current[kStates - 1] = load<T>(row.made + unit, count);
    const Pack<V, Cell::kSaved> saved = saved_of(row, unit, count);
    const auto cell = [&]() FUSED_RNN_INLINE_LAMBDA {
      if constexpr (kHasNormalizedC<Cell>) {
        if (p_.normalized)
          return Cell::gates_backward(saved, previous, V::load(scratch.tanh_c + unit), d_made[0],
                                      d_made[1] + V::load(scratch.d_c + unit));
      }
      return cell_backward<Cell, V>(saved, previous, current, d_made, parameters_.unit_weights(row.d, unit));
    };
    const CellBackward<V, Cell> result = cell();
    if (!projected()) (result.d_state[0] + parts[0].stayed).store(carry_h_.row(row.d, row.index) + unit);
    if constexpr (kStates == 2) (result.d_state[1] + parts[1].stayed).store(carry_c_.row(row.d, row.index) + unit);
    return result;
  }

  // The gradient of c that h has through the norm between them; leaves tanh(norm(c)) for the cell's backward.
  void through_norm_of_c(const Row& row, const Scratch& scratch) const
    requires(kHasNormalizedC<Cell>)
  {
    constexpr int kNorm = UnitParameters<Cell, T>::kNormOfC;
    Real* const c = scratch.d_c;
    Real* const g = scratch.hats;
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      load<T>(row.made + unit, count).store(c + unit);
    });
    const Moments<Real> moments = moments_of(c, p_.hidden_size);
    NormGradient<Real> gradient;
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      const V hat = moments.normalized(V::load(c + unit));
      const V tanh_c = tanh(parameters_.bias(row.d, kNorm, unit) + parameters_.gain(row.d, kNorm, unit) * hat);
      const V d_h = parted(row, 0, unit, count, V::load(row.d_h + unit)).made;
      const V d_normalized = Cell::output_backward(saved_of(row, unit, count), tanh_c, d_h);
      const V d_hat = through_gain(row, kNorm, unit, d_normalized, hat);
      gradient.add(d_hat, hat, count);
      tanh_c.store(scratch.tanh_c + unit);
      d_hat.store(g + unit);
    });
    gradient.finish();
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto /*count*/) FUSED_RNN_INLINE_LAMBDA {
      gradient(moments, V::load(g + unit), moments.normalized(V::load(c + unit))).store(c + unit);
    });
  }

  // Fills `hats` from the recurrent gates before their norms; returns the moments of those.
  Pack<Moments<Real>, Cell::kNormGroups> restore_hats(const Row& row, Real* hats) const {
    const auto for_each_hat = [&](const auto& visit) {
      for (int g = 0; g < Cell::kGates; ++g) {
        for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
          visit(g, hats + g * hidden_stride_ + unit, row.sums + g * p_.hidden_size + unit, count);
        });
      }
    };
    for_each_hat([](int, Real* hat, const T* sum, auto count) { load<T>(sum, count).store(hat); });
    const auto moments = moments_of_gates<Cell>(hats, p_.hidden_size, hidden_stride_);
    for_each_hat(
        [&](int g, Real* hat, const T*, auto) { moments[norm_group<Cell>(g)].normalized(V::load(hat)).store(hat); });
    return moments;
  }

  // From the gradients of the hats, which stand in d_sums_, to those of the sums.
  void through_norm_of_sums(const Row& row, const Pack<Moments<Real>, Cell::kNormGroups>& moments,
                            Pack<NormGradient<Real>, Cell::kNormGroups>& gradients, const Real* hats) const {
    for (int group = 0; group < Cell::kNormGroups; ++group) gradients[group].finish();
    for (int g = 0; g < Cell::kGates; ++g) {
      const int group = norm_group<Cell>(g);
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
  UnitParameters<Cell, T> parameters_;
  int64_t hidden_stride_, output_stride_;
  Real* scratch_ = nullptr;                        // [threads, kScratchRows, hidden_stride]
  StateBuffer<Real> d_sums_{};                     // [D, B, G, hidden_stride] of the step after
  StateBuffer<Real> d_h_{}, d_hidden_{};           // [D, B, ...] of h, and of h before its projection
  StateBuffer<Real> carry_h_{}, carry_c_{};        // [D, B, ...] handed to the step before
  StateBuffer<Real> d_unit_weights_{}, d_norm_{};  // [D, B, K or N, hidden_stride]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
