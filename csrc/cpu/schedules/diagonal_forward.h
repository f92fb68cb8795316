// The CPU schedule of the forward pass of a diagonal cell: no GEMM of h, no barrier. See diagonal_units.h for its
// order.
//
// Where the gates are not given, a thread makes those of a few steps (input_gates.h), then walks through these steps.
#pragma once

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/pass/forward_pass.h"
#include "cpu/schedules/diagonal_units.h"
#include "cpu/schedules/input_gates.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
  requires(recurrent_gates<Cell>() == 0)
class DiagonalForward {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  using Units = DiagonalUnits<Cell, T>;

 public:
  using Views = ForwardViews;
  static constexpr bool kRounds = kRoundsFactors<T>;

  static Tiling tiling(const Problem& problem) { return Units::tiling(problem); }

  DiagonalForward(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem),
        v_(views),
        weights_({v_.w_ih, v_.b_ih, v_.scales.w_ih, p_.directions, p_.hidden_size, p_.input_size, p_.keeps_weights},
                 arena),
        barriers_(plan, arena),
        threads_(plan.threads()),
        ragged_(v_.lengths != nullptr || v_.resets),
        streams_(Units::streams(p_, Cell::kStates + (v_.saved ? saved_values(p_) : 0), v_.output, v_.cells, v_.saved)),
        input_(problem, views, plan, arena),
        parameters_(problem, views.variant, arena),
        states_(problem, Cell::kStates, arena) {}

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    prepare(thread);
    const Range units = Units::of(part, p_);
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) {
      load_initial(d, part.rows, units);
      for (int64_t s = 0; s < p_.time_steps; s += input_.steps()) {
        const int64_t count = std::min(input_.steps(), p_.time_steps - s);
        input_.make(thread, part, d, s, count, weights_);
        Units::for_each_group_of_rows(part, p_, [&](Range rows) {
          for (int64_t i = 0; i < count; ++i) {
            const GatesMade made = input_.of_step(thread, part, i, count);
            if (streams_) {
              step<StreamedVector<Real>>(d, s + i, rows, units, made);
            } else {
              step<WholeVector<Real>>(d, s + i, rows, units, made);
            }
          }
        });
      }
      store_final(d, part.rows, units);
    }
    if (streams_) finish_streaming();
  }

 private:
  using GatesMade = typename InputGates<Cell, T>::Made;

  // What all threads read; nothing else keeps one waiting for another.
  void prepare(int thread) const {
    if (p_.input_size == 0 && Cell::kUnitWeights == 0) return;
    weights_.pack_part(thread, threads_);
    if (thread == 0) parameters_.load();
    barriers_.wait_for_team();
  }

  void load_initial(int64_t d, Range rows, Range units) const {
    const BatchRows<const T> h_0 = rows_at<T>(v_.h_0, d), c_0 = rows_at<T>(v_.c_0, d);
    Units::for_each_vector(rows, units, [&](const auto& where) {
      for (int k = 0; k < Cell::kStates; ++k) {
        const BatchRows<const T>& given = k == 0 ? h_0 : c_0;
        store_padded(where, given ? load_rows(where, given.from(first_of(k))) : V(0), states_.of(d, k));
      }
    });
  }

  void store_final(int64_t d, Range rows, Range units) const {
    const BatchRows<T> h_n = rows_at<T>(v_.h_n, d), c_n = rows_at<T>(v_.c_n, d);
    Units::for_each_vector(rows, units, [&](const auto& where) {
      for (int k = 0; k < Cell::kStates; ++k)
        store_rows(where, load_padded(where, states_.of(d, k)), (k == 0 ? h_n : c_n).from(first_of(k)));
    });
  }

  // Where a state begins in a row of its tensor.
  int64_t first_of(int k) const { return k == 0 ? 0 : (k - 1) * p_.hidden_size; }

  template <class Whole>
  void step(int64_t d, int64_t s, Range rows, Range units, const GatesMade& made) const {
    const int64_t t = time_at(s, direction_of(d, p_.heads), p_.time_steps);
    const ForwardPass<Cell, T, true> pass(p_, v_, parameters_.unit_weights(d), d, t);
    const Access access{p_.hidden_size, made, rows_at<T>(v_.gates, t, d), states_of(d)};
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const RowStep kind = ragged_ ? row_step(v_, t, row) : RowStep::kPlain;
      const T* const next = gates_after(d, s, rows, row);
      if (kind == RowStep::kPlain) {
        for_each_vector_of_units<Whole, true>(row, units, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
          prefetch_runs<Cell::kGates>(where, next, access.hidden_size);
          pass(where, RowStep::kPlain, access);
        });
      } else {
        for_each_vector_of_units<WholeVector<Real>, false>(
            row, units, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA { pass(where, kind, access); });
      }
    }
  }

  // The gates of a row that comes later; null where there are none.
  const T* gates_after(int64_t d, int64_t s, Range rows, int64_t row) const {
    const auto [steps, later] = Units::later(rows, row, Cell::kGates, p_);
    if (!v_.gates || s + steps >= p_.time_steps) return nullptr;
    return at<T>(v_.gates, time_at(s + steps, direction_of(d, p_.heads), p_.time_steps), later, d);
  }

  using States = Pack<BatchRows<Real>, Cell::kStates>;

  States states_of(int64_t d) const {
    States states;
    for (int k = 0; k < Cell::kStates; ++k) states[k] = states_.of(d, k);
    return states;
  }

  // Where the pass finds the values of vectors of units.
  struct Access {
    int64_t hidden_size;
    GatesMade made;
    BatchRows<const T> gates;  // null where they are made
    States states;

    template <class Where>
    FUSED_RNN_INLINE auto from_x(const Where& where, int g) const {
      return made ? made.template load<Cell::kGates>(AllBlocks{}, where, g)
                  : load_rows(where, gates.from(g * hidden_size));
    }
    template <class Where>
    FUSED_RNN_INLINE auto before(const Where& where, int k) const {
      return load_padded(where, states[k]);
    }
    template <class Where, class Values>
    FUSED_RNN_INLINE void keep(const Where& where, const Values& state) const {
#pragma GCC unroll 4
      for (int k = 0; k < Cell::kStates; ++k) store_padded(where, state[k], states[k]);
    }
    // The states are where they were.
    template <class Where>
    FUSED_RNN_INLINE void stay(const Where& /*where*/) const {}
    // No gate reads h.
    template <class Where>
    FUSED_RNN_INLINE auto from_h(const Where& /*where*/, int /*gate*/) const {
      return Vec<Real, Where::kParts>(0);
    }
    template <class Where>
    FUSED_RNN_INLINE V bias(const Where& /*where*/, int /*gate*/) const {
      return V(0);
    }
  };

  const Problem& p_;
  const Views& v_;
  InputWeights<Cell, T> weights_;
  Barriers barriers_;
  int threads_;
  bool ragged_;   // there are lengths or resets
  bool streams_;  // results go past the caches
  InputGates<Cell, T> input_;
  UnitParameters<Cell, T> parameters_;
  CarriedValues<Real> states_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
