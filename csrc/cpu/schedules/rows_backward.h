// The CPU schedule of the backward pass with layer norms: the row forward schedule mirrored, from the last step on.
//
// One step of a thread, for its rows:
//   GEMM      d_h = mask W_hh^T d_sums of the step after, of all rows
//   update    row by row: the norm of c, the first half of the pass (backward_pass.h), the norm of the sums; writes the
//             gate gradients and d_sums
// With a projection a second GEMM, with W_hr^T, stands between the two.
//
// Gradients of unit weights and norms are summed over time for each row; so they depend neither on the batch nor on the
// threads. The pass says what reset and inactive rows do.
#pragma once

#include <utility>

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/backward_pass.h"
#include "cpu/pass/norm.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/schedules/partition.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
  requires(Cell::kNormGroups > 0)
class RowBackward {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  using Units = typename BackwardWeights<Cell, T>::Units;
  static constexpr int kLanes = V::kLanes, kStates = Cell::kStates;

 public:
  using Views = BackwardViews;

  static Tiling tiling(const Problem& problem) {
    Tiling tiling = Units::tiling(problem.hidden_size, Cell::kGates);
    tiling.whole_rows = true;
    return tiling;
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
    d_norm_ = take(p_.batch, norm_rows(p_.cell) * hidden_stride_);
    scratch_ = arena.take<Real>(threads_ * kScratchRows * hidden_stride_);
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
  // Of one row.
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

  void initialize(Range rows, int64_t d) const {
    load_state<T>(v_.d_h_n, p_.output_size, carry_h_, d, rows);
    if (kStates == 2) load_state<T>(v_.d_c_n, p_.hidden_size, carry_c_, d, rows);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      // The GEMMs read the padding of the first two, where steps write zeros at most.
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
    const Direction direction = direction_of(d, p_.heads);
    const int64_t t = time_at(s, direction, p_.time_steps), before = time_before(t, direction);
    make_d_h(rows, d, s != p_.time_steps - 1);
    for (int64_t row = rows.begin; row < rows.end; ++row) complete_d_h(d, t, row);
    if constexpr (!Cell::kReadsHidden) {
      if (projected()) project(rows, d);
    }
    const Pass pass(p_, v_, parameters_.unit_weights(d), d, s, t);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const Row of_row{*this, scratch, d, t, row, row_step(v_, t, row), begins(v_, s, before, row)};
      if (of_row.kind == RowStep::kInactive) {
        pass_through(pass, of_row);
      } else {
        update(pass, of_row);
      }
      if (of_row.kind != RowStep::kReset) continue;
      of_row.for_each_unit([&](const auto& where) { pass.hand_nothing_on(where, of_row); });
    }
  }

  // The whole gradient of h_t: also from outside, which an inactive row has not. Of a projected h none is left to
  // carry, unless the row is inactive.
  void complete_d_h(int64_t d, int64_t t, int64_t row) const {
    const bool inactive = row_step(v_, t, row) == RowStep::kInactive, given = v_.d_output && !inactive;
    const bool is_projected = projected();
    for_each_vector_of_row<Real>(p_.output_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      V d_h = V::load(d_h_.row(d, row) + unit), carried(0);
      if (given) d_h = d_h + load<T>(at<T>(v_.d_output, t, row, d) + unit, count);
      if (is_projected) {
        if (inactive) std::swap(d_h, carried);
        carried.store(carry_h_.row(d, row) + unit);
        store<T>(at<T>(v_.d_projected, t, row, d) + unit, d_h, count);
      }
      d_h.store(d_h_.row(d, row) + unit);
    });
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

  using Pass = BackwardPass<Cell, T, true>;

  // Where the pass finds the values of a row.
  struct Row {
    const RowBackward& rows;
    const Scratch& scratch;
    int64_t d, t, index;
    RowStep kind;
    bool begins;

    template <class Where>
    FUSED_RNN_INLINE V carried(const Where& where, int k) const {
      return load_padded(where, (k == 0 ? rows.carry_h_ : rows.carry_c_).rows(d));
    }
    template <class Where>
    FUSED_RNN_INLINE void carry(const Where& where, int k, V value) const {
      if (k > 0 || !rows.projected()) store_padded(where, value, (k == 0 ? rows.carry_h_ : rows.carry_c_).rows(d));
    }
    template <class Where>
    FUSED_RNN_INLINE void hand_on(const Where& where, int gate, V d_sum) const {
      first_lanes(d_sum, where.count).store(d_sums(gate) + where.unit);
    }
    FUSED_RNN_INLINE Real* d_sums(int gate) const { return rows.d_sums_.row(d, index) + gate * rows.hidden_stride_; }
    template <class Where>
    FUSED_RNN_INLINE void add(const Where& where, int k, V value) const {
      add_to(rows.d_unit_weights_, k, where.unit, value);
    }
    // The gradient of h, before its projection if it has one.
    template <class Where>
    FUSED_RNN_INLINE V d_h(const Where& where) const {
      return load_padded(where, (rows.projected() ? rows.d_hidden_ : rows.d_h_).rows(d));
    }
    template <class Visit>
    FUSED_RNN_INLINE void for_each_unit(const Visit& visit) const {
      for_each_vector_of_row<Real>(rows.p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
        visit(TileVector<1, decltype(count)>{0, 0, index, unit, count});
      });
    }
    // Through the gain and bias of a norm, whose gradients it adds up: from the gradient of their result to that of
    // hat.
    FUSED_RNN_INLINE V through_gain(int norm, int64_t unit, V value, V hat) const {
      add_to(rows.d_norm_, 2 * norm, unit, value * hat);
      add_to(rows.d_norm_, 2 * norm + 1, unit, value);
      return value * rows.parameters_.gain(d, norm, unit);
    }

   private:
    FUSED_RNN_INLINE void add_to(const StateBuffer<Real>& sums, int k, int64_t unit, V value) const {
      Real* to = sums.row(d, index) + k * rows.hidden_stride_ + unit;
      (V::load(to) + value).store(to);
    }
  };

  void pass_through(const Pass& pass, const Row& row) const {
    row.for_each_unit([&](const auto& where) {
      pass.pass_through(where, row.d_h(where), row);
      for (int g = 0; g < Cell::kGates; ++g) store_rows(where, V(0), pass.d_gates_h.from(g * p_.hidden_size));
    });
  }

  void update(const Pass& pass, const Row& row) const {
    if constexpr (kHasNormalizedC<Cell>) through_norm_of_c(pass, row);
    Real* const hats = row.scratch.hats;
    Real* const d_sums = row.d_sums(0);
    const Pack<Moments<Real>, Cell::kNormGroups> moments = restore_hats(pass, row);
    Pack<NormGradient<Real>, Cell::kNormGroups> gradients{};
    row.for_each_unit([&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      const auto cell = [&](const auto& saved, const auto& before, [[maybe_unused]] const auto& after,
                            const auto& d_after) FUSED_RNN_INLINE_LAMBDA {
        if constexpr (kHasNormalizedC<Cell>) {
          return Cell::gates_backward(saved, before, V::load(row.scratch.tanh_c + where.unit), d_after[0],
                                      d_after[1] + V::load(row.scratch.d_c + where.unit));
        } else {
          return cell_backward<Cell, V>(saved, before, after, d_after, pass.weights.at(where));
        }
      };
      const auto before = pass.state_before(where, row.kind, row.begins);
      const CellBackward<V, Cell> result = pass.gradients(where, before, row.d_h(where), row, cell);
      for (int k = 0; k < Cell::kUnitWeights; ++k) row.add(where, k, result.d_unit_weights[k]);
      for (int g = 0; g < Cell::kGates; ++g) {
        store_rows(where, result.d_from_x[g], pass.d_gates.from(g * p_.hidden_size));
        const V hat = V::load(hats + g * hidden_stride_ + where.unit);
        const V d_hat = row.through_gain(g, where.unit, result.d_from_h[g], hat);
        gradients[norm_group<Cell>(g)].add(d_hat, hat, where.count);
        first_lanes(d_hat, where.count).store(d_sums + g * hidden_stride_ + where.unit);
      }
    });
    through_norm_of_sums(pass, row, moments, gradients);
  }

  // The gradient of c that h has through the norm between them; leaves tanh(norm(c)) for the cell's backward.
  void through_norm_of_c(const Pass& pass, const Row& row) const
    requires(kHasNormalizedC<Cell>)
  {
    constexpr int kNorm = UnitParameters<Cell, T>::kNormOfC;
    Real* const c = row.scratch.d_c;
    Real* const d_hats = row.scratch.hats;
    row.for_each_unit([&](const auto& where)
                          FUSED_RNN_INLINE_LAMBDA { load_rows(where, pass.made).store(c + where.unit); });
    const Moments<Real> moments = moments_of(c, p_.hidden_size);
    NormGradient<Real> gradient;
    row.for_each_unit([&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      const int64_t unit = where.unit;
      const V hat = moments.normalized(V::load(c + unit));
      const V tanh_c = tanh(parameters_.bias(row.d, kNorm, unit) + parameters_.gain(row.d, kNorm, unit) * hat);
      V d_h = row.d_h(where), d_stayed;
      if (pass.zoneout) pass.zoneout.split(where, 0, d_h, d_stayed);
      const V d_normalized = Cell::output_backward(pass.saved_of(where), tanh_c, d_h);
      const V d_hat = row.through_gain(kNorm, unit, d_normalized, hat);
      gradient.add(d_hat, hat, where.count);
      tanh_c.store(row.scratch.tanh_c + unit);
      d_hat.store(d_hats + unit);
    });
    gradient.finish();
    row.for_each_unit([&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      const int64_t unit = where.unit;
      gradient(moments, V::load(d_hats + unit), moments.normalized(V::load(c + unit))).store(c + unit);
    });
  }

  // Fills the hats from the recurrent gates before their norms; returns the moments of those.
  Pack<Moments<Real>, Cell::kNormGroups> restore_hats(const Pass& pass, const Row& row) const {
    const BatchRows<const T> sums = pass.saved.from((saved_values(p_) - Cell::kGates) * p_.hidden_size);
    Real* const hats = row.scratch.hats;
    for (int g = 0; g < Cell::kGates; ++g) {
      row.for_each_unit([&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        load_rows(where, sums.from(g * p_.hidden_size)).store(hats + g * hidden_stride_ + where.unit);
      });
    }
    const auto moments = moments_of_gates<Cell>(hats, p_.hidden_size, hidden_stride_);
    for (int g = 0; g < Cell::kGates; ++g) {
      row.for_each_unit([&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        Real* const hat = hats + g * hidden_stride_ + where.unit;
        moments[norm_group<Cell>(g)].normalized(V::load(hat)).store(hat);
      });
    }
    return moments;
  }

  // From the gradients of the hats, which stand in d_sums_, to those of the sums.
  void through_norm_of_sums(const Pass& pass, const Row& row, const Pack<Moments<Real>, Cell::kNormGroups>& moments,
                            Pack<NormGradient<Real>, Cell::kNormGroups>& gradients) const {
    const BatchRows<T> results = pass.d_gates_h;
    for (int group = 0; group < Cell::kNormGroups; ++group) gradients[group].finish();
    for (int g = 0; g < Cell::kGates; ++g) {
      const int group = norm_group<Cell>(g);
      Real* const d_sums = row.d_sums(g);
      row.for_each_unit([&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        const V hat = V::load(row.scratch.hats + g * hidden_stride_ + where.unit);
        const V d = first_lanes(gradients[group](moments[group], V::load(d_sums + where.unit), hat), where.count);
        d.store(d_sums + where.unit);
        store_rows(where, d, results.from(g * p_.hidden_size));
      });
    }
  }

  void finish(Range rows, int64_t d) const {
    make_d_h(rows, d, p_.time_steps > 0);
    store_state<T>(d_h_, v_.d_h_0, p_.output_size, d, rows);
    if (kStates == 2) store_state<T>(carry_c_, v_.d_c_0, p_.hidden_size, d, rows);
    store_sums<T>(d_unit_weights_, v_.d_unit_weights, Cell::kUnitWeights, p_.hidden_size, d, rows);
    store_sums<T>(d_norm_, v_.d_norm, norm_rows(p_.cell), p_.hidden_size, d, rows);
  }

  const Problem& p_;
  const Views& v_;
  Barriers barriers_;
  int threads_;
  BackwardWeights<Cell, T> weights_;
  UnitParameters<Cell, T> parameters_;
  int64_t hidden_stride_, output_stride_;
  Real* scratch_;                                  // [threads, kScratchRows, hidden_stride]
  StateBuffer<Real> d_sums_{};                     // [D, B, G, hidden_stride] of the step after
  StateBuffer<Real> d_h_{}, d_hidden_{};           // [D, B, ...] of h, and of h before its projection
  StateBuffer<Real> carry_h_{}, carry_c_{};        // [D, B, ...] handed to the step before
  StateBuffer<Real> d_unit_weights_{}, d_norm_{};  // [D, B, K or N, hidden_stride]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
