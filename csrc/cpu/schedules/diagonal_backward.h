// The CPU schedule of the backward pass of a diagonal cell: the forward one mirrored, from the last step to the first.
// See diagonal_units.h for its order.
#pragma once

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/pass/backward_pass.h"
#include "cpu/schedules/diagonal_units.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
  requires(recurrent_gates<Cell>() == 0)
class DiagonalBackward {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  using Units = DiagonalUnits<Cell, T>;
  static constexpr int kWeights = Cell::kUnitWeights, kCarried = Cell::kStates + kWeights;

 public:
  using Views = BackwardViews;
  using Element = T;
  static constexpr bool kRounds = kRoundsFactors<T>;

  static Tiling tiling(const Problem& problem) { return Units::tiling(problem); }

  DiagonalBackward(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem),
        v_(views),
        barriers_(plan, arena),
        ragged_(v_.lengths != nullptr || v_.resets),
        parameters_(problem, views.variant, arena),
        carried_(problem, kCarried, arena) {}

  void before_team() const { barriers_.reset(); }

  // What a thread does whenever it has walked through `together` steps, down to the one at position `begin`.
  struct Between {
    int64_t together;
    const void* context;
    void (*call)(const void* context, int thread, int64_t begin);
  };

  [[gnu::noinline]] void run(int thread, const Between& between) const {
    const Part part = barriers_.part_of_thread(thread, p_, v_);
    if constexpr (kWeights > 0) {
      if (thread == 0) parameters_.load();
      barriers_.wait_for_team();
    }
    const Range units = Units::of(part, p_);
    // What is used next, or was just read where it is now written, stays in the caches.
    const bool streams =
        between.context == nullptr && v_.d_gates.data != v_.saved.data && Units::streams(p_, Cell::kGates, v_.d_gates);
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) load_initial(d, part.rows, units);
    for (int64_t end = p_.time_steps; end > 0;) {
      const int64_t begin = (end - 1) / between.together * between.together;
      for (int64_t d = part.directions.begin; d < part.directions.end; ++d) {
        Units::for_each_group_of_rows(part, p_, [&](Range rows) {
          for (int64_t s = end - 1; s >= begin; --s) {
            if (streams) {
              step<StreamedVector<Real>>(d, s, rows, units);
            } else {
              step<WholeVector<Real>>(d, s, rows, units);
            }
          }
        });
      }
      between.call(between.context, thread, begin);
      end = begin;
    }
    for (int64_t d = part.directions.begin; d < part.directions.end; ++d) store_final(d, part.rows, units);
    if (streams) finish_streaming();
  }

  void run(int thread) const {
    run(thread, {std::max<int64_t>(p_.time_steps, 1), nullptr, [](const void*, int, int64_t) {}});
  }

  // Then everything that the threads have written before is there for all of them.
  void wait_for_team() const { barriers_.wait_for_team(); }

 private:
  void load_initial(int64_t d, Range rows, Range units) const {
    const BatchRows<const T> d_h_n = rows_at<T>(v_.d_h_n, d), d_c_n = rows_at<T>(v_.d_c_n, d);
    Units::for_each_vector(rows, units, [&](const auto& where) {
      for (int k = 0; k < kCarried; ++k) {
        const BatchRows<const T> given = k == 0 ? d_h_n : k < Cell::kStates ? d_c_n : BatchRows<const T>{};
        store_padded(where, given ? load_rows(where, given.from(first_of(k))) : V(0), carried_.of(d, k));
      }
    });
  }

  void store_final(int64_t d, Range rows, Range units) const {
    const BatchRows<T> d_h_0 = rows_at<T>(v_.d_h_0, d), d_c_0 = rows_at<T>(v_.d_c_0, d);
    const BatchRows<T> d_weights = rows_at<T>(v_.d_unit_weights, 0, d);
    Units::for_each_vector(rows, units, [&](const auto& where) {
      for (int k = 0; k < kCarried; ++k) {
        const BatchRows<T> to = k == 0              ? d_h_0
                                : k < Cell::kStates ? d_c_0.from(first_of(k))
                                                    : d_weights.from((k - Cell::kStates) * p_.hidden_size);
        store_rows(where, load_padded(where, carried_.of(d, k)), to);
      }
    });
  }

  // Where a state begins in a row of its tensor.
  int64_t first_of(int k) const { return k == 0 ? 0 : (k - 1) * p_.hidden_size; }

  template <class Whole>
  void step(int64_t d, int64_t s, Range rows, Range units) const {
    const Direction direction = direction_of(d, p_.heads);
    const int64_t t = time_at(s, direction, p_.time_steps);
    const BackwardPass<Cell, T, true> pass(p_, v_, parameters_.unit_weights(d), d, s, t);
    const BatchRows<const T> d_output = rows_at<T>(v_.d_output, t, d);
    const Access access{carried_at(d)};
    const auto update = [&](const auto& where, RowStep kind, bool begins) FUSED_RNN_INLINE_LAMBDA {
      auto d_h = load_padded(where, access.values[0]);
      if (d_output && kind != RowStep::kInactive) d_h = d_h + load_rows(where, d_output);
      pass(where, kind, begins, d_h, access);
    };
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const RowStep kind = ragged_ ? row_step(v_, t, row) : RowStep::kPlain;
      const bool begins = s == 0 || (ragged_ && fused_rnn::begins(v_, s, time_before(t, direction), row));
      const Next next = after(d, s, rows, row);
      if (kind == RowStep::kPlain) {
        for_each_vector_of_units<Whole, true>(row, units, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
          next.prefetch(where, pass.hidden_size);
          update(where, RowStep::kPlain, begins);
        });
      } else {
        for_each_vector_of_units<WholeVector<Real>, false>(
            row, units, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA { update(where, kind, begins); });
      }
    }
  }

  // What a row that comes later reads; null where it reads nothing, or there is none.
  struct Next {
    const T *saved = nullptr, *d_output = nullptr, *output = nullptr, *cells = nullptr;

    template <class Where>
    FUSED_RNN_INLINE void prefetch(const Where& where, int64_t hidden_size) const {
      prefetch_runs<Cell::kSaved>(where, saved, hidden_size);
      prefetch_runs<1>(where, d_output, hidden_size);
      if constexpr (Cell::kReadsHidden) prefetch_runs<1>(where, output, hidden_size);
      prefetch_runs<kCellStates<Cell>>(where, cells, hidden_size);
    }
  };

  Next after(int64_t d, int64_t s, Range rows, int64_t row) const {
    const auto [steps, later] = Units::later(rows, row, Cell::kSaved + 1, p_);
    const int64_t position = s - steps;
    if (position < 0) return {};
    const Direction direction = direction_of(d, p_.heads);
    const int64_t t = time_at(position, direction, p_.time_steps);
    const auto row_at = [&, later = later](const SequenceView<const void>& view, int64_t time) {
      return view ? at<T>(view, time, later, d) : nullptr;
    };
    // The state before the step; the one after it is at hand.
    const int64_t before = position > 0 ? time_before(t, direction) : t;
    return {row_at(v_.saved, t), row_at(v_.d_output, t), row_at(v_.output, before), row_at(v_.cells, before)};
  }

  using Carried = Pack<BatchRows<Real>, kCarried>;

  Carried carried_at(int64_t d) const {
    Carried values;
    for (int k = 0; k < kCarried; ++k) values[k] = carried_.of(d, k);
    return values;
  }

  // Where the pass finds the values of vectors of units.
  struct Access {
    Carried values;

    template <class Where>
    FUSED_RNN_INLINE auto carried(const Where& where, int k) const {
      return load_padded(where, values[k]);
    }
    template <class Where, class Rows>
    FUSED_RNN_INLINE void carry(const Where& where, int k, const Rows& d) const {
      store_padded(where, d, values[k]);
    }
    template <class Where, class Rows>
    FUSED_RNN_INLINE void add(const Where& where, int k, const Rows& d) const {
      const BatchRows<Real>& sums = values[Cell::kStates + k];
      store_padded(where, load_padded(where, sums) + d, sums);
    }
    // No gate reads h.
    template <class Where, class Rows>
    FUSED_RNN_INLINE void hand_on(const Where& /*where*/, int /*gate*/, const Rows& /*d*/) const {}
  };

  const Problem& p_;
  const Views& v_;
  Barriers barriers_;
  bool ragged_;  // there are lengths or resets
  UnitParameters<Cell, T> parameters_;
  CarriedValues<Real> carried_;  // gradients handed to the step before: of the states, and sums of unit weights'
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
