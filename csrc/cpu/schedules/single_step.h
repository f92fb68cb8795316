// The CPU schedule of a single step from x: every row of the weights is read once, where it lies, and multiplied by x
// and h as it passes. To pack weights that are used once would take longer than to use them.
//
// The update is the pass (forward_pass.h). A sum has one vector of partial sums, along the row, which are added up at
// its end. Threads share the units and meet nowhere.
#pragma once

#include <algorithm>
#include <utility>

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/gemm/micro_kernel.h"
#include "cpu/pass/forward_pass.h"
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

// Neighbouring elements of a row of weights, or of what it multiplies, as one multiplication takes them.
template <class T>
struct Neighbours {
  using V = Vec<RealOf<T>>;
  static constexpr int kTerms = V::kLanes;

  template <class Count>
  FUSED_RNN_INLINE static V load(const T* from, Count count) {
    return fused_rnn::load<T>(from, count);
  }
  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    return V(fused_rnn::multiply_add(weight.parts[0], value.parts[0], sum.parts[0]));
  }
};

#if defined(FUSED_RNN_BFLOAT16_DOT)
// bfloat16 in pairs. (Weights of float would be rounded at each step, which takes as long as to multiply them.)
template <>
struct Neighbours<PairedBFloat16> {
  using V = Vec<float>;
  static constexpr int kTerms = 2 * V::kLanes;

  FUSED_RNN_INLINE static V load(const PairedBFloat16* from, std::integral_constant<int, kTerms> /*count*/) {
    return bits_at(from);
  }
  [[gnu::noinline]] static V load(const PairedBFloat16* from, int count) {
    PairedBFloat16 buffer[kTerms] = {};
    std::copy_n(from, count, buffer);
    return bits_at(buffer);
  }
  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    return Terms<BFloat16Pair>::multiply_add(weight, value, sum);
  }
};
#endif

// sums[r][i] += matrix row i times vector r, lane by lane, for Count rows of the matrix and Rows vectors. Rows of the
// matrix from `present` on are taken for the one before.
template <class T, int Rows, int Count>
[[gnu::noinline]] void dot_products(const T* matrix, int64_t stride, int64_t present, const T* const* vectors,
                                    int64_t length, Vec<RealOf<T>> (*sums)[Vec<RealOf<T>>::kLanes]) {
  using V = Vec<RealOf<T>>;
  using Multiplied = Neighbours<T>;
  const T* rows[Count];
  for (int i = 0; i < Count; ++i) rows[i] = matrix + std::min<int64_t>(i, present - 1) * stride;
  V own[Rows][Count];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) own[r][i] = sums[r][i];
  }
  const auto multiply = [&](int64_t k, auto count) FUSED_RNN_INLINE_LAMBDA {
    V values[Rows];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) values[r] = Multiplied::load(vectors[r] + k, count);
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
      const V weight = in_register(Multiplied::load(rows[i] + k, count));
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) own[r][i] = Multiplied::multiply_add(weight, values[r], own[r][i]);
    }
  };
  int64_t k = 0;
  for (; k + Multiplied::kTerms <= length; k += Multiplied::kTerms)
    multiply(k, std::integral_constant<int, Multiplied::kTerms>{});
  if (k < length) multiply(k, static_cast<int>(length - k));
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) sums[r][i] = own[r][i];
  }
}

// A matrix and the vectors of some rows of the batch by which it is multiplied.
template <class T>
struct Term {
  const WeightView& matrix;
  const T* const* vectors;
  int64_t length;
};

// sums[r] = the sum over `count` terms of matrix rows [first, first + lanes) times vector r; `present` of these are
// there.
template <class T, int Rows>
[[gnu::noinline]] void sum_terms(const Term<T>* terms, int count, int64_t d, int64_t first, int64_t present,
                                 Vec<RealOf<T>>* sums) {
  using V = Vec<RealOf<T>>;
  constexpr int kLanes = V::kLanes;
  // As many sums as the registers hold.
  constexpr int kCount = Rows == 1 || kLanes == 1 ? kLanes : kLanes / 2;
  V lanes[kLanes / kCount][Rows][kLanes] = {};
  for (int term = 0; term < count; ++term) {
    const WeightView& w = terms[term].matrix;
    const T* matrix = static_cast<const T*>(w.data) + d * w.direction_stride + first * w.row_stride;
    for (int i = 0; i < kLanes / kCount; ++i) {
      const int64_t here = std::min<int64_t>(i * kCount, present - 1);
      dot_products<T, Rows, kCount>(matrix + here * w.row_stride, w.row_stride, present - here, terms[term].vectors,
                                    terms[term].length, lanes[i]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    V together[kLanes];
    for (int i = 0; i < kLanes; ++i) together[i] = lanes[i / kCount][r][i % kCount];
    sums[r] = sums_of_lanes(together);
  }
}

template <class Cell, class T>
class SingleStep {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  static constexpr int kLanes = V::kLanes, kRecurrent = recurrent_gates<Cell>();
  static constexpr int kTogether = 3;  // rows of the batch that share the loading of a weight
  // Multiplications that are worth one more thread: some 10 us where the weights come from L3. (A GEMM that uses them
  // again and again wants more of them for a thread, see run.cpp.)
  static constexpr double kStreamWorthOneThread = 1 << 18;

 public:
  using Views = ForwardViews;

  static Plan plan(const Problem& p, int threads) {
    const auto size = static_cast<double>(p.input_size + p.output_size);
    const double work = static_cast<double>(p.directions * p.cell.gates * p.hidden_size) * size *
                        std::max(1.0, static_cast<double>(p.batch) / 4);  // few rows wait for the weights
    const double most = static_cast<double>(std::min<int64_t>(threads, p.directions * block_count(p)));
    return {.unit_parts = static_cast<int>(std::clamp(work / kStreamWorthOneThread, 1.0, std::max(most, 1.0)))};
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
    for (; !ragged_ && row + kTogether <= p_.batch; row += kTogether)
      make_rows<kTogether>(d, unit, count, row, RowStep::kPlain);
    for (; row < p_.batch; ++row) {
      const RowStep kind = row_step_at(row);
      if (kind != RowStep::kInactive) {
        make_rows<1>(d, unit, count, row, kind);
      } else {
        const Pack<V, Cell::kGates> unused{};
        pass(d)(TileVector<1, Count>{0, 0, row, unit, count}, kind, Access{*this, d, unused, unused});
      }
    }
  }

  ForwardPass<Cell, T, false> pass(int64_t d) const { return {p_, v_, {}, d, 0}; }

  template <int Rows, class Count>
  void make_rows(int64_t d, int64_t unit, Count count, int64_t row, RowStep kind) const {
    const T *x[Rows], *h[Rows];
    for (int r = 0; r < Rows; ++r) {
      x[r] = at<T>(v_.x, 0, row + r, 0);
      h[r] = kRecurrent > 0 && kind == RowStep::kPlain && v_.h_0 ? at<T>(v_.h_0, d, row + r) : nullptr;
    }
    const Term<T> terms[] = {{v_.w_ih, x, p_.input_size}, {v_.w_hh, h, p_.output_size}};
    Pack<V, Cell::kGates> from_x[Rows], from_h[Rows];
    for (int g = 0; g < Cell::kGates; ++g) {
      const int64_t first = g * p_.hidden_size + unit;
      const bool reads_h = g < kRecurrent && h[0] != nullptr;
      V sums[Rows];
      // The cell adds the two where they have one gradient.
      sum_terms<T, Rows>(terms, !Cell::kSplit && reads_h ? 2 : 1, d, first, count, sums);
      for (int r = 0; r < Rows; ++r) from_x[r][g] = sums[r] + bias(v_.b_ih, d, first, count);
      if (g >= kRecurrent) continue;
      for (int r = 0; r < Rows; ++r) from_h[r][g] = bias(v_.b_hh, d, first, count);
      if (Cell::kSplit && reads_h) {
        sum_terms<T, Rows>(terms + 1, 1, d, first, count, sums);
        for (int r = 0; r < Rows; ++r) from_h[r][g] = from_h[r][g] + sums[r];
      }
    }
    const auto update = pass(d);
    for (int r = 0; r < Rows; ++r)
      update(TileVector<1, Count>{0, 0, row + r, unit, count}, kind, Access{*this, d, from_x[r], from_h[r]});
  }

  template <class Count>
  static V bias(const WeightView& b, int64_t d, int64_t first, Count count) {
    return b ? load<T>(static_cast<const T*>(b.data) + d * b.direction_stride + first, count) : V(0);
  }

  // Where the pass finds the values of a vector of units of one row.
  struct Access {
    const SingleStep& step;
    int64_t d;
    const Pack<V, Cell::kGates>&x, &h;  // the gates

    template <class Where>
    FUSED_RNN_INLINE V from_x(const Where& /*where*/, int g) const {
      return x[g];
    }
    template <class Where>
    FUSED_RNN_INLINE V from_h(const Where& /*where*/, int g) const {
      return h[g];
    }
    template <class Where>
    FUSED_RNN_INLINE V bias(const Where& /*where*/, int g) const {
      return h[g];  // of a reset row, which was not multiplied
    }
    template <class Where>
    FUSED_RNN_INLINE V before(const Where& where, int k) const {
      const BatchRows<const T> rows = rows_at<T>(k == 0 ? step.v_.h_0 : step.v_.c_0, d);
      return rows ? load_rows(where, rows.from(step.first_of(k))) : V(0);
    }
    template <class Where>
    FUSED_RNN_INLINE void keep(const Where& where, const Pack<V, Cell::kStates>& state) const {
      for (int k = 0; k < Cell::kStates; ++k)
        store_rows(where, state[k], rows_at<T>(k == 0 ? step.v_.h_n : step.v_.c_n, d).from(step.first_of(k)));
    }
    template <class Where>
    FUSED_RNN_INLINE void stay(const Where& where) const {
      Pack<V, Cell::kStates> state;
      for (int k = 0; k < Cell::kStates; ++k) state[k] = before(where, k);
      keep(where, state);
    }
  };

  // Where a state begins in a row of its tensor.
  FUSED_RNN_INLINE int64_t first_of(int k) const { return k == 0 ? 0 : (k - 1) * p_.hidden_size; }

  const Problem& p_;
  const ForwardViews& v_;
  int threads_;
  bool ragged_;  // there are lengths or resets
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
