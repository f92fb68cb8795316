// The weights of one layer in packed form, as the products of the forward and of the backward pass read them.
#pragma once

#include "core/views.h"
#include "cpu/gemm/block.h"
#include "cpu/gemm/kept_weights.h"
#include "cpu/runtime/arena.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// A matrix of gates, W [D, G*H, columns] with b [D, G*H], in blocks of hidden units with all their gates.
template <class Cell, class T>
class GateWeights {
  using Real = RealOf<T>;
  using Weight = WeightOf<T>;

 public:
  using Units = Block<Cell::kGates, Real>;

  GateWeights(const WeightView& w, const WeightView& b, const Problem& problem, int64_t columns, Arena& arena)
      : w_(w),
        b_(b),
        hidden_size_(problem.hidden_size),
        columns_(columns),
        unit_blocks_(Units::count(hidden_size_)),
        block_stride_(multiplications<Weight>(columns) * kRow) {
    if (columns == 0) return;
    packed_ = arena.take<Weight>(problem.directions * unit_blocks_ * block_stride_);
    bias_ = arena.take<Real>(problem.directions * unit_blocks_ * kRow);
    if (problem.keeps_weights) copy_ = arena.take<T>(problem.directions * copy_stride());
  }

  void pack(int64_t d, int64_t block) const {
    if (columns_ == 0) return;
    const int64_t at = d * unit_blocks_ + block;
    T* copy = copy_ == nullptr ? nullptr : copy_ + d * copy_stride();
    pack_changed_block<Cell::kGates, Units::kVectors>(source(w_, d, columns_), block, packed_ + at * block_stride_,
                                                      copy);
    Real* bias = bias_ + at * kRow;
    if (b_) return pack_block<Cell::kGates, Units::kVectors>(source(b_, d, 1), block, bias);
    for (int column = 0; column < Units::kColumns; ++column) Vec<Real>(0).store(bias + column * kLanes);
  }

  // b + W rows; `length` is that of the rows, or 0 where they are zeros.
  Gemm<Weight> times(int64_t d, const RowOf<T>* rows, int64_t row_stride, int64_t length) const {
    return {packed_ + d * unit_blocks_ * block_stride_, bias(d, 0), block_stride_, rows, row_stride, length};
  }

  // b of a block, [columns][lanes].
  const Real* bias(int64_t d, int64_t block) const { return bias_ + (d * unit_blocks_ + block) * kRow; }

 private:
  static constexpr int kLanes = Vec<Real>::kLanes;
  static constexpr int64_t kRow = Units::kColumns * kLanes;

  int64_t copy_stride() const { return Cell::kGates * hidden_size_ * columns_; }

  PackSource<T> source(const WeightView& w, int64_t d, int64_t columns) const {
    return {static_cast<const T*>(w.data) + d * w.direction_stride,
            hidden_size_,
            hidden_size_ * w.row_stride,
            w.row_stride,
            1,
            0,
            w.column_stride,
            columns,
            columns};
  }

  const WeightView &w_, &b_;
  int64_t hidden_size_, columns_, unit_blocks_;
  int64_t block_stride_;      // packed elements of one block
  Weight* packed_ = nullptr;  // [D, blocks, columns of W, columns, lanes]
  Real* bias_ = nullptr;      // [D, blocks, columns, lanes]
  T* copy_ = nullptr;         // [D, G*H, columns of W] of what is packed; null: nothing outlives the pass
};

// W_hh with b_hh in blocks of hidden units, W_ih with b_ih likewise where the pass makes the gates, and W_hr in blocks
// of projected outputs. A schedule makes them the first in its workspace, since those that are kept have to lie where
// another pass, of another plan and batch, finds them.
template <class Cell, class T>
class ForwardWeights {
  using Real = RealOf<T>;
  using Weight = WeightOf<T>;
  using Row = RowOf<T>;

 public:
  using Units = Block<Cell::kGates, Real>;
  using Outputs = Block<1, Real>;

  ForwardWeights(const Problem& problem, const ForwardViews& views, Arena& arena)
      : p_(problem),
        v_(views),
        unit_blocks_(Units::count(p_.hidden_size)),
        recurrent_(v_.w_hh, v_.b_hh, p_, p_.output_size, arena),
        input_(v_.w_ih, v_.b_ih, p_, p_.input_size, arena) {
    if (!p_.projected) return;
    output_blocks_ = Outputs::count(p_.output_size);
    projection_stride_ = multiplications<Weight>(p_.hidden_size) * Outputs::kColumns * kLanes;
    projection_ = arena.take<Weight>(p_.directions * output_blocks_ * projection_stride_);
    if (p_.keeps_weights) copy_ = arena.take<T>(p_.directions * p_.output_size * p_.hidden_size);
  }

  int64_t unit_blocks() const { return unit_blocks_; }
  int64_t output_blocks() const { return output_blocks_; }

  // One thread's part of the packing.
  void pack(int thread, int threads) const {
    const Range own = part_of({0, p_.directions * unit_blocks_}, threads, thread);
    for (int64_t i = own.begin; i < own.end; ++i) {
      recurrent_.pack(i / unit_blocks_, i % unit_blocks_);
      input_.pack(i / unit_blocks_, i % unit_blocks_);
    }
    if (!p_.projected) return;
    const Range own_outputs = part_of({0, p_.directions * output_blocks_}, threads, thread);
    for (int64_t i = own_outputs.begin; i < own_outputs.end; ++i) {
      const WeightView& w = v_.w_hr;
      const int64_t d = i / output_blocks_;
      const PackSource<T> source{static_cast<const T*>(w.data) + d * w.direction_stride,
                                 p_.output_size,
                                 0,
                                 w.row_stride,
                                 1,
                                 0,
                                 w.column_stride,
                                 p_.hidden_size,
                                 p_.hidden_size};
      T* copy = copy_ == nullptr ? nullptr : copy_ + d * p_.output_size * p_.hidden_size;
      pack_changed_block<1, Outputs::kVectors>(source, i % output_blocks_, projection_ + i * projection_stride_, copy);
    }
  }

  const GateWeights<Cell, T>& recurrent() const { return recurrent_; }  // b_hh + W_hh h
  const GateWeights<Cell, T>& input() const { return input_; }          // b_ih + W_ih x

  // W_hr rows.
  Gemm<Weight> projection(int64_t d, const Row* rows, int64_t row_stride) const {
    return {projection_ + d * output_blocks_ * projection_stride_,
            nullptr,
            projection_stride_,
            rows,
            row_stride,
            p_.hidden_size};
  }

 private:
  static constexpr int kLanes = Vec<Real>::kLanes;

  const Problem& p_;
  const ForwardViews& v_;
  int64_t unit_blocks_, output_blocks_ = 0;
  GateWeights<Cell, T> recurrent_, input_;
  int64_t projection_stride_ = 0;  // packed elements of one block
  Weight* projection_ = nullptr;   // [D, output blocks, H, columns, lanes]
  T* copy_ = nullptr;              // [D, P, H] of what is packed there, or null
};

// The transposed weights: blocks of outputs (recurrent), and blocks of hidden units (projection).
template <class Cell, class T>
class BackwardWeights {
  using Real = RealOf<T>;
  using Weight = WeightOf<T>;
  using Row = RowOf<T>;

 public:
  using Units = Block<1, Real>;  // one column per vector of units

  BackwardWeights(const Problem& problem, const BackwardViews& views, Arena& arena) : p_(problem), v_(views) {
    output_blocks_ = Units::count(p_.output_size);
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = Units::padded(p_.output_size);
    block_stride_ = multiplications<Weight>(Cell::kGates * hidden_stride_) * Units::kUnits;
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
                                 Cell::kGates,
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

  // W_hh^T rows, rows [G * padded H]; `present` where they are not all zeros.
  Gemm<Weight> recurrent(int64_t d, const Row* rows, bool present) const {
    const int64_t size = Cell::kGates * hidden_stride_;
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
  Weight* packed_;                // [D, output blocks, G * hidden_stride, columns, lanes]
  Weight* projection_ = nullptr;  // [D, hidden blocks, output_stride, columns, lanes]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
