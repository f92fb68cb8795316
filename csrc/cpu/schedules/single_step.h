// The CPU schedule of a single step from x: every row of the weights is read once, where it lies, and multiplied by x
// and h as it passes. To pack weights that are used once would take longer than to use them.
//
// A sum has one vector of partial sums, along the row, which are added up at its end. Threads share the units and meet
// nowhere.
#pragma once

#include <algorithm>
#include <utility>

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/gemm/micro_kernel.h"
#include "cpu/pass/step_results.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/plan.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Sums of neighbours at distance S: the lower S of each 2 S lanes from a, the upper from b.
template <int S, class Lanes, int... I>
FUSED_RNN_INLINE Lanes add_neighbours(Lanes a, Lanes b, std::integer_sequence<int, I...>) {
  constexpr int kLanes = sizeof...(I);
  return __builtin_shufflevector(a, b, (I % (2 * S) < S ? I : I - S + kLanes)...) +
         __builtin_shufflevector(a, b, (I % (2 * S) < S ? I + S : I + kLanes)...);
}

// Lane i of the result is the sum of the lanes of sums[i].
template <int S = 1, class V, int Count>
FUSED_RNN_INLINE V sums_of_lanes(const V (&sums)[Count]) {
  if constexpr (Count == 1) {
    return sums[0];
  } else {
    V half[Count / 2];
#pragma GCC unroll 8
    for (int i = 0; i < Count / 2; ++i) {
      half[i] = V(add_neighbours<S>(sums[2 * i].parts[0], sums[2 * i + 1].parts[0],
                                    std::make_integer_sequence<int, V::kLanes>{}));
    }
    return sums_of_lanes<2 * S>(half);
  }
}

// sums[r][i] += matrix row i times vector r, lane by lane, for Count rows of the matrix and Rows vectors. Rows of the
// matrix from `present` on are taken for the one before.
template <class T, int Rows, int Count>
[[gnu::noinline]] void dot_products(const T* matrix, int64_t stride, int64_t present, const T* const* vectors,
                                    int64_t length, Vec<RealOf<T>> (*sums)[Vec<RealOf<T>>::kLanes]) {
  using V = Vec<RealOf<T>>;
  const T* rows[Count];
  for (int i = 0; i < Count; ++i) rows[i] = matrix + std::min<int64_t>(i, present - 1) * stride;
  V own[Rows][Count];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) own[r][i] = sums[r][i];
  }
  for (int64_t k = 0; k < length; k += V::kLanes) {
    visit_lanes<RealOf<T>>(length - k, [&](auto lanes) FUSED_RNN_INLINE_LAMBDA {
      V values[Rows];
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) values[r] = load<T>(vectors[r] + k, lanes);
#pragma GCC unroll 16
      for (int i = 0; i < Count; ++i) {
        const V weight = in_register(load<T>(rows[i] + k, lanes));
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) own[r][i] = multiply_add(weight, values[r], own[r][i]);
      }
    });
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) sums[r][i] = own[r][i];
  }
}

template <class Cell, class T>
class SingleStep {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kTogether = 3;                 // rows of the batch that share the loading of a weight
  static constexpr double kWorthOneThread = 1 << 18;  // multiplications: some 10 us from the third cache

 public:
  using Views = ForwardViews;

  static Plan plan(const Problem& p, int threads) {
    const auto size = static_cast<double>(p.input_size + p.output_size);
    const double work = static_cast<double>(p.directions * p.cell.gates * p.hidden_size) * size *
                        std::max(1.0, static_cast<double>(p.batch) / 4);  // few rows wait for the weights
    const double most = static_cast<double>(std::min<int64_t>(threads, p.directions * block_count(p)));
    return {.unit_parts = static_cast<int>(std::clamp(work / kWorthOneThread, 1.0, std::max(most, 1.0)))};
  }

  SingleStep(const Problem& problem, const Views& views, const Plan& plan, Arena& /*arena*/)
      : p_(problem), v_(views), threads_(plan.threads()), ragged_(v_.lengths != nullptr || v_.resets) {}

  void before_team() const {}

  void run(int thread) const {
    const int64_t blocks = block_count(p_);
    const Range own = part_of({0, p_.directions * blocks}, threads_, thread);
    for (int64_t i = own.begin; i < own.end; ++i) {
      const int64_t unit = i % blocks * kLanes;
      visit_lanes<Real>(p_.hidden_size - unit, [&](auto count) { make_units(i / blocks, unit, count); });
    }
  }

 private:
  static int64_t block_count(const Problem& p) { return (p.hidden_size + kLanes - 1) / kLanes; }

  RowStep row_step_at(int64_t row) const { return ragged_ ? row_step(v_, 0, row) : RowStep::kPlain; }

  // A vector of units for all rows of the batch.
  template <class Count>
  void make_units(int64_t d, int64_t unit, Count count) const {
    int64_t row = 0;
    for (; !ragged_ && row + kTogether <= p_.batch; row += kTogether) make_rows<kTogether>(d, unit, count, row, true);
    for (; row < p_.batch; ++row) {
      const RowStep kind = row_step_at(row);
      if (kind == RowStep::kInactive) {
        pass_through(d, unit, count, row);
      } else {
        make_rows<1>(d, unit, count, row, kind == RowStep::kPlain);
      }
    }
  }

  template <int Rows, class Count>
  void make_rows(int64_t d, int64_t unit, Count count, int64_t row, bool plain) const {
    const T *x[Rows], *h[Rows];
    for (int r = 0; r < Rows; ++r) {
      x[r] = at<T>(v_.x, 0, row + r, 0);
      h[r] = plain && v_.h_0 ? at<T>(v_.h_0, d, row + r) : nullptr;
    }
    Pack<V, Cell::kGates> from_x[Rows], from_h[Rows];
    for (int g = 0; g < Cell::kGates; ++g) {
      const int64_t first = g * p_.hidden_size + unit;
      V sums[Rows][kLanes] = {};
      multiply<Rows>(v_.w_ih, d, first, count, x, p_.input_size, sums);
      // The cell adds the two where they have one gradient.
      if (!Cell::kSplit && h[0] != nullptr) multiply<Rows>(v_.w_hh, d, first, count, h, p_.output_size, sums);
      for (int r = 0; r < Rows; ++r) from_x[r][g] = sums_of_lanes(sums[r]) + bias(v_.b_ih, d, first, count);
      for (int r = 0; r < Rows; ++r) from_h[r][g] = bias(v_.b_hh, d, first, count);
      if (Cell::kSplit && h[0] != nullptr) {
        V apart[Rows][kLanes] = {};
        multiply<Rows>(v_.w_hh, d, first, count, h, p_.output_size, apart);
        for (int r = 0; r < Rows; ++r) from_h[r][g] = from_h[r][g] + sums_of_lanes(apart[r]);
      }
    }
    for (int r = 0; r < Rows; ++r) update(d, unit, count, row + r, plain, from_x[r], from_h[r]);
  }

  // sums[r] += rows [first, first + kLanes) of a matrix times vector r.
  template <int Rows>
  void multiply(const WeightView& w, int64_t d, int64_t first, int64_t present, const T* const* vectors, int64_t length,
                V (*sums)[kLanes]) const {
    // As many sums as the registers hold.
    constexpr int kCount = Rows == 1 || kLanes == 1 ? kLanes : kLanes / 2;
    const T* matrix = static_cast<const T*>(w.data) + d * w.direction_stride + first * w.row_stride;
    V part[Rows][kLanes];
    for (int i = 0; i < kLanes; i += kCount) {
      for (int r = 0; r < Rows; ++r) std::copy_n(sums[r] + i, kCount, part[r]);
      const int64_t here = std::min<int64_t>(i, present - 1);
      dot_products<T, Rows, kCount>(matrix + here * w.row_stride, w.row_stride, present - here, vectors, length, part);
      for (int r = 0; r < Rows; ++r) std::copy_n(part[r], kCount, sums[r] + i);
    }
  }

  template <class Count>
  static V bias(const WeightView& b, int64_t d, int64_t first, Count count) {
    return b ? load<T>(static_cast<const T*>(b.data) + d * b.direction_stride + first, count) : V(0);
  }

  template <class Count>
  V state_of(const StateView<const void>& state, int64_t d, int64_t row, int64_t unit, Count count) const {
    return state ? load<T>(at<T>(state, d, row) + unit, count) : V(0);
  }

  template <class Count>
  void update(int64_t d, int64_t unit, Count count, int64_t row, bool plain, const Pack<V, Cell::kGates>& from_x,
              const Pack<V, Cell::kGates>& from_h) const {
    Pack<V, Cell::kStates> state;
    for (int k = 0; k < Cell::kStates; ++k) {
      state[k] = plain ? state_of(k == 0 ? v_.h_0 : v_.c_0, d, row, unit, count) : V(0);
    }
    CellForward<V, Cell> result = Cell::forward(from_x, from_h, state);
    result.state[0] = round_to<T>(result.state[0]);
    const TileVector<1, Count> where{0, 0, row, unit, count};
    StepResults<T>(v_, p_, false, d, 0).store(where, result);
    store_state(where, d, result.state);
  }

  // The state stays, and the results are zero.
  template <class Count>
  void pass_through(int64_t d, int64_t unit, Count count, int64_t row) const {
    const TileVector<1, Count> where{0, 0, row, unit, count};
    Pack<V, Cell::kStates> state;
    for (int k = 0; k < Cell::kStates; ++k) state[k] = state_of(k == 0 ? v_.h_0 : v_.c_0, d, row, unit, count);
    StepResults<T>(v_, p_, false, d, 0).store(where, CellForward<V, Cell>{});
    store_state(where, d, state);
  }

  template <class Where>
  void store_state(const Where& where, int64_t d, const Pack<V, Cell::kStates>& state) const {
    for (int k = 0; k < Cell::kStates; ++k) store_rows(where, state[k], rows_at<T>(k == 0 ? v_.h_n : v_.c_n, d));
  }

  const Problem& p_;
  const ForwardViews& v_;
  int threads_;
  bool ragged_;  // there are lengths or resets
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
