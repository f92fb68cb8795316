// A layer that makes single steps: packed weights, states and the two products of a step.
//
//   from_x = b_ih + W_ih x       kept for the steps ahead, in the layout of the tiles
//   from_h = b_hh + W_hh h       tile by tile, and then the pass (forward_pass.h), as in the forward sweep
//
// A diagonal cell has the pass alone in place of the second.
//
// Weights may be kept as bfloat16, or as int8 with one scale for each row of the matrix. The products take them as
// those of a layer do: by the same multiplications, from the same quantized or rounded rows.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cells/cell.h"
#include "cpu/gemm/factor_rows.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/forward_pass.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/stepping.h"
#include "cpu/schedules/zeroed_memory.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// The rows of a matrix in int8, with a scale for each, by the rule of factor_rows.h.
class QuantizedRows {
 public:
  QuantizedRows(const float* matrix, int64_t rows, int64_t columns)
      : values_(static_cast<size_t>(rows * columns)), scales_(static_cast<size_t>(rows)) {
    std::vector<Int8> row(static_cast<size_t>(quantized_stride(columns)));
    for (int64_t i = 0; i < rows; ++i) {
      quantize_row<Int8Quad>(matrix + i * columns, columns, row.data());
      std::copy_n(row.data(), columns, values_.data() + i * columns);
      std::memcpy(&scales_[static_cast<size_t>(i)], row.data() + multiplications<Int8Quad>(columns) * 4, sizeof(float));
    }
  }

  const Int8* values() const { return values_.data(); }
  const float* scales() const { return scales_.data(); }

 private:
  std::vector<Int8> values_;
  std::vector<float> scales_;
};

// The states of a layer, and what its tiles do to them: the same for every type of the weights.
template <class Cell, class Real>
class StepStates : public StepLayer {
  using V = Vec<Real>;
  using Units = Block<Cell::kGates, Real, kVectorsOfCell<Cell>>;
  using Outputs = Block<1, Real>;
  static constexpr int kLanes = V::kLanes, kRecurrent = recurrent_gates<Cell>();

 public:
  StepStates(StepStates&&) = delete;
  StepStates& operator=(const StepStates&) = delete;
  StepStates& operator=(StepStates&&) = delete;
  ~StepStates() override = default;

  void* h(int64_t step) override { return h_[step & 1]; }
  void* c(int k) override { return kCellStates<Cell> > 0 ? c_ + k * unit_stride_ : nullptr; }
  int64_t h_stride() const override { return h_stride_; }
  int64_t c_stride() const override { return kCellStates<Cell> * unit_stride_; }

 protected:
  StepStates(const StepProblem& problem, const void* unit_weights) : p_(problem) {
    unit_stride_ = Units::padded(p_.hidden_size);
    h_stride_ = p_.projected ? Outputs::padded(p_.output_size) : unit_stride_;
    states_ = zeroed([&](Arena& arena) { lay_out(arena); });
    if constexpr (Cell::kUnitWeights > 0) {
      unit_weights_memory_ =
          zeroed([&](Arena& arena) { unit_weights_ = arena.take<Real>(Cell::kUnitWeights * unit_stride_); });
      for (int k = 0; k < Cell::kUnitWeights; ++k) {
        std::memcpy(unit_weights_ + k * unit_stride_, static_cast<const Real*>(unit_weights) + k * p_.hidden_size,
                    static_cast<size_t>(p_.hidden_size) * sizeof(Real));
      }
    }
  }

  StepStates(const StepStates& other)
      : p_(other.p_), h_stride_(other.h_stride_), unit_stride_(other.unit_stride_), unit_weights_(other.unit_weights_) {
    states_ = zeroed([&](Arena& arena) { lay_out(arena); });
    const auto copy = [&](const Real* from, int64_t stride, Real* to) {
      if (from != nullptr) std::copy_n(from, p_.batch * stride, to);
    };
    for (int i = 0; i < 2; ++i) copy(other.h_[i], h_stride_, h_[i]);
    copy(other.c_, c_stride(), c_);
  }

  BatchRows<Real> h_before(int64_t step) const { return {h_[step & 1], h_stride_}; }
  BatchRows<Real> h_after(int64_t step) const { return {h_[(step + 1) & 1], h_stride_}; }
  FUSED_RNN_INLINE BatchRows<Real> cells(int k) const { return {c_ + (k - 1) * unit_stride_, c_stride()}; }
  BatchRows<Real> hidden() const { return {hidden_, unit_stride_}; }

  // Where the gates from x of the first row are kept, from a block on: tile after tile, as a product of one row makes
  // them.
  Real* kept_row(int64_t block = 0) const { return kept_ + block * Units::kColumns * kLanes; }

  // Keeps the gates from x of a tile.
  template <class TileOf>
  [[gnu::noinline]] void keep(const TileOf& tile) const {
    for_each_vector<Units::kVectors>(tile, p_.hidden_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      for (int g = 0; g < Cell::kGates; ++g) {
        const auto value = column_of<Cell::kGates>(tile, where, g);
        for (int i = 0; i < where.kParts; ++i) V(value.parts[i]).store(kept(tile, where, 0, i, g));
      }
    });
  }

  // The pass of a tile of the gates from h, at a step and its place among those ahead.
  template <class TileOf>
  [[gnu::noinline]] void update_tile(const TileOf& tile, int64_t step, int64_t place) const {
    const ForwardPass<Cell, Real, false> pass(UnitWeights<Cell, Real>{unit_weights_, unit_stride_});
    const Access<TileOf> access{*this, tile, place, h_before(step), p_.projected ? hidden() : h_after(step)};
    for_each_vector<Units::kVectors>(tile, p_.hidden_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      pass(where, RowStep::kPlain, access);
    });
  }

  // h from a tile of its projection.
  template <class TileOf>
  [[gnu::noinline]] void store_projected(const TileOf& tile, int64_t step) const {
    for_each_vector<Outputs::kVectors>(tile, p_.output_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      store_padded(where, column_of(tile, where), h_after(step));
    });
  }

  StepProblem p_;
  int64_t h_stride_ = 0, unit_stride_ = 0;  // padded sizes of one row of h, and of H units
  Real* unit_weights_ = nullptr;            // [K, unit_stride]

 private:
  void lay_out(Arena& arena) {
    kept_ =
        arena.take<Real>(steps_ahead(p_.batch) * p_.batch * Units::count(p_.hidden_size) * Units::kColumns * kLanes);
    for (Real*& h : h_) h = arena.take<Real>(p_.batch * h_stride_);
    if (kCellStates<Cell> > 0) c_ = arena.take<Real>(p_.batch * c_stride());
    if (p_.projected) hidden_ = arena.take<Real>(p_.batch * unit_stride_);
  }

  // Where the input's part of one gate is kept, of the step at `place`.
  template <class TileOf, class Where>
  FUSED_RNN_INLINE Real* kept(const TileOf& tile, const Where& where, int64_t place, int part, int gate) const {
    const int64_t first = (place * p_.batch + where.row_of(part)) * Units::count(p_.hidden_size) + tile.block;
    return kept_ + (first * Units::kColumns + where.vector_of(part) * Cell::kGates + gate) * kLanes;
  }

  // Where the pass finds the values of the vectors of a tile.
  template <class TileOf>
  struct Access {
    const StepStates& states;
    const TileOf& tile;
    int64_t place;
    BatchRows<Real> h, next;

    template <class Where>
    FUSED_RNN_INLINE auto from_x(const Where& where, int g) const {
      Vec<Real, Where::kParts> value;
      for (int i = 0; i < Where::kParts; ++i) value.parts[i] = V::load(states.kept(tile, where, place, i, g)).parts[0];
      return value;
    }
    template <class Where>
    FUSED_RNN_INLINE auto from_h(const Where& where, int g) const {
      return column_of<kRecurrent>(tile, where, g);
    }
    template <class Where>
    FUSED_RNN_INLINE auto before(const Where& where, int k) const {
      return load_padded(where, k == 0 ? h : states.cells(k));
    }
    template <class Where, class States>
    FUSED_RNN_INLINE void keep(const Where& where, const States& state) const {
      store_padded(where, state[0], next);
#pragma GCC unroll 4
      for (int k = 1; k < Cell::kStates; ++k) store_padded(where, state[k], states.cells(k));
    }
    // There are no lengths and no resets.
    template <class Where>
    FUSED_RNN_INLINE V bias(const Where& /*where*/, int /*gate*/) const {
      return V(0);
    }
    template <class Where>
    FUSED_RNN_INLINE void stay(const Where& /*where*/) const {}
  };

  ZeroedMemory unit_weights_memory_;  // none in a clone, which reads that of another
  ZeroedMemory states_;               // of all that follows
  Real* kept_ = nullptr;              // [steps ahead, B, blocks, columns, lanes]
  Real* h_[2] = {};                   // [B, h_stride]
  Real* c_ = nullptr;                 // [B, E, unit_stride]
  Real* hidden_ = nullptr;            // [B, unit_stride] h before its projection
};

// The packed weights of a layer, and the rows that its products read: the same for all cells of these numbers of gates.
template <int Gates, int Recurrent, class T>
class StepWeights {
  using Real = RealOf<T>;
  template <int Columns>
  using MatrixOf = PackedMatrix<Columns, T, vectors_of_gates(Gates, Recurrent)>;
  struct Nothing {
    static int64_t bytes() { return 0; }
  };

 public:
  [[gnu::noinline]] StepWeights(const StepProblem& problem, const StepParameters& given) : p_(problem) {
    rows_memory_ = zeroed([&](Arena& arena) { lay_out_rows(arena); });
    const MatrixElement<T>* const none = nullptr;
    if constexpr (kQuantized<T>) {
      const auto quantized = [](const void* data, int64_t rows, int64_t columns) {
        return QuantizedRows(static_cast<const float*>(data), data == nullptr ? 0 : rows, columns);
      };
      const QuantizedRows w_ih = quantized(given.w_ih, Gates * p_.hidden_size, p_.input_size);
      const QuantizedRows w_hh = quantized(given.w_hh, Recurrent * p_.hidden_size, p_.output_size);
      const QuantizedRows w_hr = quantized(given.w_hr, p_.output_size, p_.hidden_size);
      pack(given, {w_ih.values(), w_ih.scales()}, {w_hh.values(), w_hh.scales()}, {w_hr.values(), w_hr.scales()});
    } else {
      pack(given, {given.w_ih, none}, {given.w_hh, none}, {given.w_hr, none});
    }
  }

  // Of a clone: the same packed weights, and rows of its own.
  [[gnu::noinline]] StepWeights(const StepWeights& other)
      : p_(other.p_), from_x_(other.from_x_), from_h_(other.from_h_), projection_(other.projection_) {
    rows_memory_ = zeroed([&](Arena& arena) { lay_out_rows(arena); });
  }

  StepWeights(StepWeights&&) = delete;
  StepWeights& operator=(const StepWeights&) = delete;
  StepWeights& operator=(StepWeights&&) = delete;
  [[gnu::noinline]] ~StepWeights() = default;

  const auto& from_x() const { return from_x_; }
  const auto& from_h() const { return from_h_; }
  const auto& projection() const { return projection_; }
  int64_t bytes() const { return from_x_.bytes() + from_h_.bytes() + projection_.bytes(); }

  // So many rows as factors, at most those of the steps ahead, for one part until it asks again.
  template <class Element>
  Factors<RowOf<T>> factors(int part, const BatchRows<Element>& rows, int64_t count, int64_t size) const {
    return rows_.of(part, {0, count}, {rows.data, rows.stride}, size);
  }

 private:
  void lay_out_rows(Arena& arena) {
    const int64_t longest = std::max({p_.input_size, p_.output_size, p_.hidden_size});
    rows_ = FactorRows<T, Real>(steps_ahead(p_.batch) * p_.batch, longest, p_.threads, arena);
  }

  struct Given {
    const void *matrix, *scales;  // scales: null where there are none
  };

  void pack(const StepParameters& given, const Given& w_ih, const Given& w_hh, const Given& w_hr) {
    const auto make = [&](auto& matrix, const Given& of, const void* bias, int64_t units, int64_t columns) {
      using Made = std::remove_reference_t<decltype(matrix)>;
      const auto vector = [](const void* data) { return WeightView{data, 0, 1, 0}; };
      const WeightView w{of.matrix, 0, columns, 1}, b = vector(bias), scales = vector(of.scales);
      const typename Made::Given all{w, b, scales, 1, units, columns, false};
      memory_.push_back(zeroed([&](Arena& arena) { matrix = Made(all, arena); }));
      for (int64_t block = 0; block < matrix.blocks(); ++block) matrix.pack(0, block);
    };
    make(from_x_, w_ih, given.b_ih, p_.hidden_size, p_.input_size);
    if constexpr (Recurrent > 0) make(from_h_, w_hh, given.b_hh, p_.hidden_size, p_.output_size);
    if (p_.projected) make(projection_, w_hr, nullptr, p_.output_size, p_.hidden_size);
  }

  StepProblem p_;
  std::vector<ZeroedMemory> memory_;  // of what is packed; none in a clone, which reads that of another
  ZeroedMemory rows_memory_;
  MatrixOf<Gates> from_x_;
  std::conditional_t<Recurrent == 0, Nothing, MatrixOf<Recurrent>> from_h_;
  PackedMatrix<1, T> projection_;
  FactorRows<T, Real> rows_;
};

template <class Cell, class T>
class PackedStep final : public StepStates<Cell, RealOf<T>> {
  using Real = RealOf<T>;
  using States = StepStates<Cell, Real>;
  static constexpr bool kDiagonal = recurrent_gates<Cell>() == 0;
  using States::p_;

 public:
  PackedStep(const StepProblem& problem, const StepParameters& parameters)
      : States(problem, parameters.unit_weights), weights_(problem, parameters) {}

  PackedStep(PackedStep&&) = delete;
  PackedStep& operator=(const PackedStep&) = delete;
  PackedStep& operator=(PackedStep&&) = delete;
  ~PackedStep() override = default;

  std::unique_ptr<StepLayer> clone() const override { return std::unique_ptr<StepLayer>(new PackedStep(*this)); }

  void take(const void* x, int64_t x_stride, int64_t count, int part, int parts) override {
    const BatchRows<const Real> x_rows{static_cast<const Real*>(x), x_stride};
    multiply(weights_.from_x(), x_rows, count * p_.batch, p_.input_size, part, parts, this->kept_row(),
             [&](const auto& tile) {
               if (tile.values != this->kept_row(tile.block)) this->keep(tile);
             });
  }

  void update(int64_t step, int64_t place, int part, int parts) override {
    if constexpr (kDiagonal) {
      using TileOf = Tile<Real, std::decay_t<decltype(weights_.from_x())>::Units::kColumns>;
      const Range blocks = part_of({0, weights_.from_x().blocks()}, parts, part);
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        this->update_tile(TileOf{nullptr, 0, block, static_cast<int>(p_.batch), 1}, step, place);
      }
    } else {
      multiply(weights_.from_h(), this->h_before(step), p_.batch, p_.output_size, part, parts, nullptr,
               [&](const auto& tile) { this->update_tile(tile, step, place); });
    }
  }

  void project(int64_t step, int part, int parts) override {
    if constexpr (!Cell::kReadsHidden) {
      if (!p_.projected) return;
      multiply(weights_.projection(), this->hidden(), p_.batch, p_.hidden_size, part, parts, nullptr,
               [&](const auto& tile) { this->store_projected(tile, step); });
    }
  }

  int64_t weight_bytes() const override { return weights_.bytes(); }

 private:
  PackedStep(const PackedStep& other) = default;

  // Hands each tile of bias + matrix rows, of so many rows and the part's share of units, to `use`. The results of a
  // single row lie in `place`, if it is not null.
  template <class Matrix, class Element, class Use>
  void multiply(const Matrix& matrix, const BatchRows<Element>& rows, int64_t count, int64_t size, int part, int parts,
                Real* place, const Use& use) const {
    for_each_step_tile<Matrix::Units::kColumns>(matrix.times(0, weights_.factors(part, rows, count, size), size), count,
                                                part_of({0, matrix.blocks()}, parts, part), place, use);
  }

  StepWeights<Cell::kGates, recurrent_gates<Cell>(), T> weights_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
