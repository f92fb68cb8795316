// The CPU schedule of the forward pass with layer norms (Ba et al. 2016), beside which there may be other variants.
//
// As in the forward sweep every thread walks through time over its directions and rows, but never shares units: a norm
// joins all of them, so a thread makes whole rows and waits for nobody. One step:
//   GEMM      sums = W_hh vector of all rows, where the vector is h, masked
//   update    row by row: norm of the sums, the pass (forward_pass.h) with the norm of c in the middle of it
// With a projection the update writes the unprojected h into `hidden_`, and a second GEMM makes h from it.
//
// The pass says what an inactive row does. A reset row becomes a plain one with a state of zero. If no row of a tile
// needs the recurrent GEMM, the tile skips it.
#pragma once

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/forward_pass.h"
#include "cpu/pass/norm.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/schedules/partition.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
  requires(Cell::kNormGroups > 0)
class RowForward {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  using Units = typename ForwardWeights<Cell, T>::Units;
  using Outputs = typename ForwardWeights<Cell, T>::Outputs;
  static constexpr int kLanes = V::kLanes, kStates = Cell::kStates;

 public:
  using Views = ForwardViews;

  static Tiling tiling(const Problem& problem) {
    Tiling tiling = Units::tiling(problem.hidden_size, 1);
    tiling.whole_rows = true;
    return tiling;
  }

  RowForward(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem),
        v_(views),
        weights_(problem, views, arena),
        barriers_(plan, arena),
        threads_(plan.threads()),
        parameters_(problem, views.variant, arena) {
    const int64_t rows = p_.directions * p_.batch;
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = projected() ? Outputs::padded(p_.output_size) : hidden_stride_;
    h_ = {arena.take<Real>(rows * output_stride_), p_.batch, output_stride_};
    vector_ =
        p_.recurrent_mask ? StateBuffer<Real>{arena.take<Real>(rows * output_stride_), p_.batch, output_stride_} : h_;
    if (kStates == 2) c_ = {arena.take<Real>(rows * hidden_stride_), p_.batch, hidden_stride_};
    sums_ = {arena.take<Real>(rows * Cell::kGates * hidden_stride_), p_.batch, Cell::kGates * hidden_stride_};
    made_ = arena.take<Real>(threads_ * kMadeRows * hidden_stride_);
    if (projected()) hidden_ = {arena.take<Real>(rows * hidden_stride_), p_.batch, hidden_stride_};
  }

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    weights_.pack(thread, threads_);
    if (thread == 0) parameters_.load();
    Real* const made = made_ + thread * kMadeRows * hidden_stride_;
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) load_initial(part.rows, d);
    barriers_.wait_for_team();  // packed weights and parameters are complete
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) {
      const Direction direction = direction_of(d, p_.heads);
      for (int64_t s = 0; s < p_.time_steps; ++s) step(part.rows, d, time_at(s, direction, p_.time_steps), made);
      store_state<T>(h_, v_.h_n, p_.output_size, d, part.rows);
      if (kStates == 2) store_state<T>(c_, v_.c_n, p_.hidden_size, d, part.rows);
    }
  }

 private:
  bool projected() const {
    if constexpr (Cell::kReadsHidden) return false;
    return p_.projected;
  }
  // What the cell made of one row, where h waits for the norm of c: its saved values and c.
  static constexpr int kMadeRows = kHasNormalizedC<Cell> ? Cell::kSaved + 1 : 0;

  bool is_inactive(int64_t t, int64_t row) const { return row_step(v_, t, row) == RowStep::kInactive; }

  void load_initial(Range rows, int64_t d) const {
    load_state<T>(v_.h_0, p_.output_size, h_, d, rows);
    if (kStates == 2) load_state<T>(v_.c_0, p_.hidden_size, c_, d, rows);
    if (!p_.recurrent_mask) return;
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for_each_vector_of_row<Real>(p_.output_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
        store_vector(d, row, unit, count, V::load(h_.row(d, row) + unit));
      });
    }
  }

  // h of a few units, for the next GEMM.
  template <class Count>
  FUSED_RNN_INLINE void store_vector(int64_t d, int64_t row, int64_t unit, Count count, V h) const {
    if (!p_.recurrent_mask) return;  // the vector is h
    (h * load<T>(at<T>(v_.variant.recurrent_mask, d, row) + unit, count)).store(vector_.row(d, row) + unit);
  }

  void step(Range rows, int64_t d, int64_t t, Real* made) const {
    const auto recurrent = weights_.recurrent().times(d, {vector_.row(d, 0), output_stride_}, p_.output_size);
    const auto wanted = [&](const auto& tile) {
      return any_row(tile, [&](int64_t row) { return row_step(v_, t, row) == RowStep::kPlain; });
    };
    const auto store_sums = [&](const auto& tile) {
      for_each_vector<Units::kVectors>(tile, p_.hidden_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        for (int g = 0; g < Cell::kGates; ++g) {
          store_padded(where, column_of<Cell::kGates>(tile, where, g), sums_.rows(d).from(g * hidden_stride_));
        }
      });
    };
    for_each_tile<Units::kColumns>(recurrent, rows, {0, weights_.recurrent().blocks()}, wanted, store_sums);
    const Pass pass(p_, v_, parameters_.unit_weights(d), d, t);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const RowStep kind = row_step(v_, t, row);
      if (kind == RowStep::kInactive) {
        pass_through(pass, {*this, d, t, row, {}});
        continue;
      }
      if (kind == RowStep::kReset) reset(d, row);
      update(pass, {*this, d, t, row, moments_of_gates<Cell>(sums_.row(d, row), p_.hidden_size, hidden_stride_)}, made);
    }
    if constexpr (!Cell::kReadsHidden) {
      if (projected()) project(rows, d, t);
    }
  }

  // Makes a reset row a plain one, whose update then takes no branch: its state is zero, and its sums are the bias.
  void reset(int64_t d, int64_t row) const {
    for (const StateBuffer<Real>* state : {&h_, &c_}) clear_row(*state, d, row);
    for_each_unit(row, [&](const auto& where) {
      constexpr int kBlock = Units::kVectors * kLanes;
      const Real* const bias = weights_.recurrent().bias(d, where.unit / kBlock) + where.unit % kBlock * Cell::kGates;
      for (int g = 0; g < Cell::kGates; ++g)
        V::load(bias + g * kLanes).store(sums_.row(d, row) + g * hidden_stride_ + where.unit);
    });
  }

  // The second stage of a step: h = W_hr hidden.
  void project(Range rows, int64_t d, int64_t t) const {
    const auto projection = weights_.projection().times(d, {hidden_.row(d, 0), hidden_stride_}, p_.hidden_size);
    const auto wanted = [&](const auto& tile) {
      return any_row(tile, [&](int64_t row) { return !is_inactive(t, row); });
    };
    for_each_tile<Outputs::kColumns>(
        projection, rows, {0, weights_.projection().blocks()}, wanted, [&](const auto& tile) {
          const auto alone = [](int64_t /*row*/) { return true; };
          for_each_vector<Outputs::kVectors>(
              tile, p_.output_size, alone, [&]<class Where>(const Where& where) FUSED_RNN_INLINE_LAMBDA {
                if constexpr (Where::kParts == 1) {
                  const bool inactive = is_inactive(t, where.row);
                  const V h = inactive ? V(0) : round_to<T>(column_of(tile, where));
                  store<T>(at<T>(v_.output, t, where.row, d) + where.unit, h, where.count);
                  if (inactive) return;  // its state stays
                  h.store(h_.row(d, where.row) + where.unit);
                  store_vector(d, where.row, where.unit, where.count, h);
                }
              });
        });
  }

  using Pass = ForwardPass<Cell, T, true>;

  // Where the pass finds the values of a row.
  struct Access {
    const RowForward& rows;
    int64_t d, t, row;
    Pack<Moments<Real>, Cell::kNormGroups> moments;

    template <class Where>
    FUSED_RNN_INLINE V from_x(const Where& where, int g) const {
      return load<T>(at<T>(rows.v_.gates, t, row, d) + g * rows.p_.hidden_size + where.unit, where.count);
    }
    template <class Where>
    FUSED_RNN_INLINE V sum(const Where& where, int g) const {
      return V::load(rows.sums_.row(d, row) + g * rows.hidden_stride_ + where.unit);
    }
    template <class Where>
    FUSED_RNN_INLINE V from_h(const Where& where, int g) const {
      return rows.affine(d, g, where, moments[norm_group<Cell>(g)].normalized(sum(where, g)));
    }
    template <class Where>
    FUSED_RNN_INLINE V bias(const Where& where, int g) const {
      return from_h(where, g);
    }
    template <class Where>
    FUSED_RNN_INLINE V before(const Where& where, int k) const {
      return V::load((k == 0 ? rows.h_ : rows.c_).row(d, row) + where.unit);
    }
    template <class Where>
    FUSED_RNN_INLINE void keep(const Where& where, const Pack<V, kStates>& state) const {
      state[0].store((rows.projected() ? rows.hidden_ : rows.h_).row(d, row) + where.unit);
      if (!rows.projected()) rows.store_vector(d, row, where.unit, where.count, state[0]);
      if constexpr (kStates == 2) state[1].store(rows.c_.row(d, row) + where.unit);
    }
    template <class Where>
    FUSED_RNN_INLINE void stay(const Where& where) const {
      if (rows.projected()) V(0).store(rows.hidden_.row(d, row) + where.unit);
    }
  };

  // bias + gain hat, of the norm of a gate or of c.
  template <class Where>
  FUSED_RNN_INLINE V affine(int64_t d, int norm, const Where& where, V hat) const {
    return parameters_.bias(d, norm, where.unit) + parameters_.gain(d, norm, where.unit) * hat;
  }

  template <class Visit>
  FUSED_RNN_INLINE void for_each_unit(int64_t row, const Visit& visit) const {
    for_each_vector_of_row<Real>(p_.hidden_size, [&](int64_t unit, auto count) FUSED_RNN_INLINE_LAMBDA {
      visit(TileVector<1, decltype(count)>{0, 0, row, unit, count});
    });
  }

  void pass_through(const Pass& pass, const Access& row) const {
    for_each_unit(row.row, [&](const auto& where) {
      pass.pass_through(where, row);
      save_sums(pass, where, [](int /*g*/) { return V(0); });
    });
  }

  void update(const Pass& pass, const Access& row, Real* made) const {
    if constexpr (!kHasNormalizedC<Cell>) {
      for_each_unit(row.row, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        pass(where, RowStep::kPlain, row);
        save_sums(pass, where, [&](int g) { return row.sum(where, g); });
      });
    } else {
      // The cell makes c of all units before h = o tanh(norm(c)) can be made of it.
      Real* const c = made + Cell::kSaved * hidden_stride_;
      for_each_unit(row.row, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        const CellForward<V, Cell> result =
            pass.cell(where, RowStep::kPlain, row, pass.state_before(where, RowStep::kPlain, row));
        for (int k = 0; k < Cell::kSaved; ++k) result.saved[k].store(made + k * hidden_stride_ + where.unit);
        result.state[1].store(c + where.unit);
      });
      const Moments<Real> moments = moments_of(c, p_.hidden_size);
      for_each_unit(row.row, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        CellForward<V, Cell> result;
        for (int k = 0; k < Cell::kSaved; ++k) result.saved[k] = V::load(made + k * hidden_stride_ + where.unit);
        result.state[1] = V::load(c + where.unit);
        const V normalized = affine(row.d, parameters_.kNormOfC, where, moments.normalized(result.state[1]));
        result.state[0] = Cell::output(result.saved, tanh(normalized));
        pass.complete(where, row, pass.state_before(where, RowStep::kPlain, row), result);
        save_sums(pass, where, [&](int g) { return row.sum(where, g); });
      });
    }
  }

  // The recurrent gates before their norms are the last of saved_values.
  template <class Where, class SumOf>
  FUSED_RNN_INLINE void save_sums(const Pass& pass, const Where& where, const SumOf& sum_of) const {
    if (!pass.results().saved) return;
    const int first = saved_values(p_) - Cell::kGates;
    for (int g = 0; g < Cell::kGates; ++g) pass.results().save(where, first + g, sum_of(g));
  }

  const Problem& p_;
  const Views& v_;
  ForwardWeights<Cell, T> weights_;
  Barriers barriers_;
  int threads_;
  UnitParameters<Cell, T> parameters_;
  int64_t hidden_stride_, output_stride_;
  Real* made_;                                                  // [threads, made rows, hidden_stride]
  StateBuffer<Real> h_{}, vector_{}, c_{}, sums_{}, hidden_{};  // [D, B, ...]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
