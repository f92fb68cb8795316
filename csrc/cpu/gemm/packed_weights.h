// The weights of one layer in packed form, as the products of the forward and of the backward pass read them.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/gemm/block.h"
#include "cpu/gemm/factor_rows.h"
#include "cpu/gemm/kept_weights.h"
#include "cpu/runtime/arena.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// A matrix with an optional bias, W [D, Groups * units, columns] with b [D, Groups * units], in blocks of units. The
// weights of a quantized layer have scales, [D, Groups * units], and corrections of their sums (terms.h).
template <int Groups, class T, int Vectors = vectors_per_block(Groups)>
class PackedMatrix {
  using Real = RealOf<T>;
  using Weight = WeightOf<T>;
  using Element = MatrixElement<T>;

 public:
  using Units = Block<Groups, Real, Vectors>;

  struct Given {
    const WeightView &w, &b, &scales;
    int64_t directions, units, columns;
    bool kept;  // where a later pass finds them
  };

  PackedMatrix() = default;
  PackedMatrix(const Given& given, Arena& arena)
      : w_(given.w),
        b_(given.b),
        scales_(given.scales),
        directions_(given.directions),
        units_(given.units),
        columns_(given.columns),
        blocks_(Units::count(given.units)),
        block_stride_(multiplications<Weight>(given.columns) * kRow),
        plane_(given.directions * blocks_ * kRow) {
    if (columns_ == 0) return;
    packed_ = arena.take<Weight>(given.directions * blocks_ * block_stride_);
    bias_ = arena.take<Real>((kQuantized<T> ? 3 : 1) * plane_);
    if (given.kept) copy_ = arena.take<Element>(given.directions * copy_stride());
  }

  int64_t blocks() const { return blocks_; }
  int64_t bytes() const { return directions_ * blocks_ * block_stride_ * static_cast<int64_t>(sizeof(Weight)); }

  void pack(int64_t d, int64_t block) const {
    if (columns_ == 0) return;
    const int64_t at = d * blocks_ + block;
    Weight* packed = packed_ + at * block_stride_;
    Element* copy = copy_ == nullptr ? nullptr : copy_ + d * copy_stride();
    const bool changed =
        pack_changed_block<Groups, Units::kVectors>(source<Element>(w_, d, columns_), block, packed, copy);
    Real* bias = bias_ + at * kRow;
    pack_vectors(b_, d, block, bias);
    if constexpr (kQuantized<T>) {
      pack_vectors(scales_, d, block, bias + plane_);
      if (changed) correct(packed, bias + 2 * plane_);
    }
  }

  // One thread's part of all blocks.
  void pack_part(int thread, int threads) const {
    const Range own = part_of({0, directions_ * blocks_}, threads, thread);
    for (int64_t i = own.begin; i < own.end; ++i) pack(i / blocks_, i % blocks_);
  }

  // b + W rows; `length` is that of the rows, or 0 where they are zeros.
  Gemm<Weight> times(int64_t d, const Factors<RowOf<T>>& rows, int64_t length) const {
    if (columns_ == 0) {  // nothing is packed: zeros
      return {.weights = nullptr,
              .bias = nullptr,
              .block_stride = 0,
              .rows = rows.data,
              .row_stride = rows.stride,
              .length = 0};
    }
    return {.weights = packed_ + d * blocks_ * block_stride_,
            .bias = bias(d, 0),
            .block_stride = block_stride_,
            .rows = rows.data,
            .row_stride = rows.stride,
            .length = length,
            .planes = plane_};
  }

  // b of a block, [columns][lanes].
  const Real* bias(int64_t d, int64_t block) const { return bias_ + (d * blocks_ + block) * kRow; }

 private:
  static constexpr int kLanes = Vec<Real>::kLanes;
  static constexpr int64_t kRow = Units::kColumns * kLanes;

  int64_t copy_stride() const { return Groups * units_ * columns_; }

  template <class Of>
  PackSource<Of> source(const WeightView& w, int64_t d, int64_t columns) const {
    return {static_cast<const Of*>(w.data) + d * w.direction_stride,
            units_,
            units_ * w.row_stride,
            w.row_stride,
            1,
            0,
            w.column_stride,
            columns,
            columns};
  }

  // One number for each row of the matrix; zeros where there are none.
  void pack_vectors(const WeightView& w, int64_t d, int64_t block, Real* to) const {
    if (w) return pack_block<Groups, Units::kVectors>(source<T>(w, d, 1), block, to);
    for (int column = 0; column < Units::kColumns; ++column) Vec<Real>(0).store(to + column * kLanes);
  }

  // What the offset of the factors adds to sums, negative.
  void correct(const Weight* packed, Real* to) const {
    using Multiplied = Terms<Weight>;
    RowOf<T> offsets[Multiplied::kCount];
    for (RowOf<T>& offset : offsets) offset.value = static_cast<int8_t>(Multiplied::kOffset);
    for (int column = 0; column < Units::kColumns; ++column) {
      Vec<Real> sum(0);
      for (int64_t k = 0; k < multiplications<Weight>(columns_); ++k) {
        const Vec<Real> weight = Multiplied::weight(packed + (k * Units::kColumns + column) * kLanes);
        sum = Multiplied::multiply_add(weight, Multiplied::value(offsets), sum);
      }
      Multiplied::negative(sum).store(to + column * kLanes);
    }
  }

  WeightView w_, b_, scales_;
  int64_t directions_ = 0, units_ = 0, columns_ = 0, blocks_ = 0;
  int64_t block_stride_ = 0;  // packed elements of one block
  int64_t plane_ = 0;         // of all biases
  Weight* packed_ = nullptr;  // [D, blocks, columns of W, columns, lanes]
  Real* bias_ = nullptr;      // [planes, D, blocks, columns, lanes]
  Element* copy_ = nullptr;   // [D, Groups * units, columns of W] of what is packed; null: nothing outlives the pass
};

// W_ih and W_hh of a cell have the same blocks of units: where a tile of one has the gates from h, those from x lie in
// the blocks of the other.
constexpr int vectors_of_gates(int gates, int recurrent) {
  return vectors_per_block(recurrent > 0 ? recurrent : gates);
}
template <class Cell>
inline constexpr int kVectorsOfCell = vectors_of_gates(Cell::kGates, recurrent_gates<Cell>());
template <class Cell, class T>
using InputWeights = PackedMatrix<Cell::kGates, T, kVectorsOfCell<Cell>>;
template <class Cell, class T>
using RecurrentWeights = PackedMatrix<recurrent_gates<Cell>(), T, kVectorsOfCell<Cell>>;

// W_hh with b_hh in blocks of hidden units, W_ih with b_ih likewise where the pass makes the gates, and W_hr in blocks
// of projected outputs. A schedule makes them the first in its workspace, since those that are kept have to lie where
// another pass, of another plan and batch, finds them.
template <int Gates, int Recurrent, class T>
class ForwardWeightsOf {
  using RecurrentMatrix = PackedMatrix<Recurrent, T, vectors_of_gates(Gates, Recurrent)>;
  using InputMatrix = PackedMatrix<Gates, T, vectors_of_gates(Gates, Recurrent)>;

 public:
  using Units = typename RecurrentMatrix::Units;
  using Outputs = typename PackedMatrix<1, T>::Units;

  ForwardWeightsOf(const Problem& p, const ForwardViews& v, Arena& arena)
      : directions_(p.directions),
        recurrent_({v.w_hh, v.b_hh, v.scales.w_hh, p.directions, p.hidden_size, p.output_size, p.keeps_weights}, arena),
        input_({v.w_ih, v.b_ih, v.scales.w_ih, p.directions, p.hidden_size, p.input_size, p.keeps_weights}, arena) {
    if (!p.projected) return;
    projection_ = {{v.w_hr, kNone, v.scales.w_hr, p.directions, p.output_size, p.hidden_size, p.keeps_weights}, arena};
  }

  // One thread's part of the packing.
  void pack(int thread, int threads) const {
    const auto for_own = [&](int64_t blocks, const auto& pack_one) {
      if (blocks == 0) return;
      const Range own = part_of({0, directions_ * blocks}, threads, thread);
      for (int64_t i = own.begin; i < own.end; ++i) pack_one(i / blocks, i % blocks);
    };
    for_own(recurrent_.blocks(), [&](int64_t d, int64_t block) {
      recurrent_.pack(d, block);
      input_.pack(d, block);
    });
    for_own(projection_.blocks(), [&](int64_t d, int64_t block) { projection_.pack(d, block); });
  }

  const RecurrentMatrix& recurrent() const { return recurrent_; }       // b_hh + W_hh h
  const InputMatrix& input() const { return input_; }                   // b_ih + W_ih x
  const PackedMatrix<1, T>& projection() const { return projection_; }  // W_hr h

 private:
  static constexpr WeightView kNone{};

  int64_t directions_;
  RecurrentMatrix recurrent_;
  InputMatrix input_;
  PackedMatrix<1, T> projection_;
};
template <class Cell, class T>
using ForwardWeights = ForwardWeightsOf<Cell::kGates, recurrent_gates<Cell>(), T>;

// The transposed weights: blocks of outputs (recurrent), and blocks of hidden units (projection).
template <int Recurrent, class T>
class BackwardWeightsOf {
  using Real = RealOf<T>;
  using Weight = WeightOf<T>;
  using Row = RowOf<T>;

 public:
  using Units = Block<1, Real>;  // one column per vector of units

  BackwardWeightsOf(const Problem& problem, const BackwardViews& views, Arena& arena) : p_(problem), v_(views) {
    output_blocks_ = Units::count(p_.output_size);
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = Units::padded(p_.output_size);
    block_stride_ = multiplications<Weight>(Recurrent * hidden_stride_) * Units::kUnits;
    packed_ = arena.take<Weight>(p_.directions * output_blocks_ * block_stride_);
    if (!p_.projected) return;
    hidden_blocks_ = Units::count(p_.hidden_size);
    projection_stride_ = multiplications<Weight>(output_stride_) * Units::kUnits;
    projection_ = arena.take<Weight>(p_.directions * hidden_blocks_ * projection_stride_);
  }

  int64_t output_blocks() const { return output_blocks_; }
  int64_t hidden_blocks() const { return hidden_blocks_; }

  void pack(int thread, int threads) const {
    const Range own = part_of({0, p_.directions * output_blocks_}, threads, thread);
    for (int64_t i = own.begin; i < own.end; ++i) {
      const WeightView& w = v_.w_hh;
      const PackSource<T> source{static_cast<const T*>(w.data) + i / output_blocks_ * w.direction_stride,
                                 p_.output_size,
                                 0,
                                 w.column_stride,
                                 Recurrent,
                                 p_.hidden_size * w.row_stride,
                                 w.row_stride,
                                 p_.hidden_size,
                                 hidden_stride_};
      pack_block<1, Units::kVectors>(source, i % output_blocks_, packed_ + i * block_stride_);
    }
    if (!p_.projected) return;
    const Range own_hidden = part_of({0, p_.directions * hidden_blocks_}, threads, thread);
    for (int64_t i = own_hidden.begin; i < own_hidden.end; ++i) {
      const WeightView& w = v_.w_hr;
      const PackSource<T> source{static_cast<const T*>(w.data) + i / hidden_blocks_ * w.direction_stride,
                                 p_.hidden_size,
                                 0,
                                 w.column_stride,
                                 1,
                                 0,
                                 w.row_stride,
                                 p_.output_size,
                                 output_stride_};
      pack_block<1, Units::kVectors>(source, i % hidden_blocks_, projection_ + i * projection_stride_);
    }
  }

  // W_hh^T rows, rows [R * padded H]; `present` where they are not all zeros.
  Gemm<Weight> recurrent(int64_t d, const Row* rows, bool present) const {
    const int64_t size = Recurrent * hidden_stride_;
    return {packed_ + d * output_blocks_ * block_stride_, nullptr, block_stride_, rows, size, present ? size : 0};
  }

  // W_hr^T rows, rows [padded P].
  Gemm<Weight> projection(int64_t d, const Row* rows) const {
    return {projection_ + d * hidden_blocks_ * projection_stride_,
            nullptr,
            projection_stride_,
            rows,
            output_stride_,
            output_stride_};
  }

 private:
  const Problem& p_;
  const BackwardViews& v_;
  int64_t output_blocks_, hidden_blocks_ = 0;
  int64_t block_stride_, projection_stride_ = 0;  // packed elements of one block
  int64_t hidden_stride_, output_stride_;
  Weight* packed_;                // [D, output blocks, R * hidden_stride, columns, lanes]
  Weight* projection_ = nullptr;  // [D, hidden blocks, output_stride, columns, lanes]
};
template <class Cell, class T>
using BackwardWeights = BackwardWeightsOf<recurrent_gates<Cell>(), T>;

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
