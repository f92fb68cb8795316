// A layer that makes single steps: packed weights, states and the two products of a step.
//
//   from_x = b_ih + W_ih x       kept for the steps ahead, in the layout of the tiles
//   from_h = b_hh + W_hh h       tile by tile, and then the pass (forward_pass.h), as in the forward sweep
//
// A diagonal cell has the pass alone in place of the second. Heads are to the products what directions are elsewhere:
// each has blocks of its own units alone. In the rows of h and of the other states they follow each other without gaps,
// so a vector beyond the last unit of one would reach into the next: of several heads it is loaded and stored in part.
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
  StepStates(const StepProblem& problem, const void* unit_weights)
      : p_(problem), head_size_(problem.hidden_size / problem.heads) {
    unit_stride_ = p_.hidden_size - head_size_ + Units::padded(head_size_);
    h_stride_ = p_.projected ? Outputs::padded(p_.output_size) : unit_stride_;
    states_ = zeroed([&](Arena& arena) { lay_out(arena); });
    if constexpr (Cell::kUnitWeights > 0) {
      unit_weights_memory_ =
          zeroed([&](Arena& arena) { unit_weights_ = arena.take<Real>(Cell::kUnitWeights * unit_stride_); });
      const auto* from = static_cast<const Real*>(unit_weights);
      for (int64_t first = 0; first < p_.hidden_size; first += head_size_) {
        for (int k = 0; k < Cell::kUnitWeights; ++k, from += head_size_)
          std::copy_n(from, head_size_, unit_weights_ + k * unit_stride_ + first);
      }
    }
  }

  StepStates(const StepStates& other)
      : p_(other.p_),
        head_size_(other.head_size_),
        h_stride_(other.h_stride_),
        unit_stride_(other.unit_stride_),
        unit_weights_(other.unit_weights_) {
    states_ = zeroed([&](Arena& arena) { lay_out(arena); });
    const auto copy = [&](const Real* from, int64_t stride, Real* to) {
      if (from != nullptr) std::copy_n(from, p_.batch * stride, to);
    };
    for (int i = 0; i < 2; ++i) copy(other.h_[i], h_stride_, h_[i]);
    copy(other.c_, c_stride(), c_);
  }

  BatchRows<Real> h_before(int64_t step) const { return {h_[step & 1], h_stride_}; }
  BatchRows<Real> h_after(int64_t step) const { return {h_[(step + 1) & 1], h_stride_}; }
  BatchRows<Real> hidden() const { return {hidden_, unit_stride_}; }

  // What the tiles of a head read and write at a step, from the head's first unit on.
  struct HeadStep {
    Real* kept;  // gates from x, of the step's place among those ahead
    BatchRows<Real> h, next, c;
    UnitWeights<Cell, Real> weights;
  };
  HeadStep head_step(int64_t head, int64_t step, int64_t place) const {
    const int64_t first = head * head_size_;
    const auto from = [&](Real* rows) { return rows == nullptr ? rows : rows + first; };
    return {kept_of(head) + place * p_.batch * kept_stride_,
            h_before(step).from(first),
            p_.projected ? hidden() : h_after(step).from(first),
            {from(c_), c_stride()},
            {from(unit_weights_), unit_stride_}};
  }
  // The gates from x of a head, at the first of the steps ahead.
  Real* kept_of(int64_t head) const { return first_row(kept_, head * Units::count(head_size_)); }
  // Where those of the first row lie from a block on: tile after tile, as a GEMM of one row makes them.
  static Real* first_row(Real* kept, int64_t block) { return kept + block * Units::kColumns * kLanes; }

  // Keeps the gates from x of a tile.
  template <class TileOf>
  [[gnu::noinline]] void keep(const TileOf& tile, Real* kept) const {
    for_each_vector<Units::kVectors>(tile, head_size_, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      for (int g = 0; g < Cell::kGates; ++g) {
        const auto value = column_of<Cell::kGates>(tile, where, g);
        for (int i = 0; i < where.kParts; ++i) V(value.parts[i]).store(gate_at(kept, tile, where, i, g));
      }
    });
  }

  // The pass of a tile of the gates from h.
  template <class TileOf>
  [[gnu::noinline]] void update_tile(const TileOf& tile, const HeadStep& at) const {
    const ForwardPass<Cell, Real, false> pass(at.weights);
    const Access<TileOf> access{*this, tile, at};
    for_each_vector<Units::kVectors>(tile, head_size_, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
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
  int64_t head_size_;                       // units of a head, H/N
  int64_t h_stride_ = 0, unit_stride_ = 0;  // padded sizes of one row of h, and of H units
  Real* unit_weights_ = nullptr;            // [K, unit_stride]

 private:
  void lay_out(Arena& arena) {
    kept_stride_ = p_.heads * Units::count(head_size_) * Units::kColumns * kLanes;
    kept_ = arena.take<Real>(steps_ahead(p_.batch) * p_.batch * kept_stride_);
    for (Real*& h : h_) h = arena.take<Real>(p_.batch * h_stride_);
    if (kCellStates<Cell> > 0) c_ = arena.take<Real>(p_.batch * c_stride());
    if (p_.projected) hidden_ = arena.take<Real>(p_.batch * unit_stride_);
  }

  // Where the input's part of one gate is kept.
  template <class TileOf, class Where>
  FUSED_RNN_INLINE Real* gate_at(Real* kept, const TileOf& tile, const Where& where, int part, int gate) const {
    const int64_t column = tile.block * Units::kColumns + where.vector_of(part) * Cell::kGates + gate;
    return kept + where.row_of(part) * kept_stride_ + column * kLanes;
  }

  // Where the pass finds the values of the vectors of a tile.
  template <class TileOf>
  struct Access {
    const StepStates& states;
    const TileOf& tile;
    const HeadStep& at;

    template <class Where>
    FUSED_RNN_INLINE auto from_x(const Where& where, int g) const {
      Vec<Real, Where::kParts> value;
      for (int i = 0; i < Where::kParts; ++i)
        value.parts[i] = V::load(states.gate_at(at.kept, tile, where, i, g)).parts[0];
      return value;
    }
    template <class Where>
    FUSED_RNN_INLINE auto from_h(const Where& where, int g) const {
      return column_of<kRecurrent>(tile, where, g);
    }
    template <class Where>
    FUSED_RNN_INLINE auto before(const Where& where, int k) const {
      return is_apart(where) ? load_padded(where, rows(at.h, k)) : load_rows(where, rows(at.h, k));
    }
    template <class Where, class States>
    FUSED_RNN_INLINE void keep(const Where& where, const States& state) const {
#pragma GCC unroll 4
      for (int k = 0; k < Cell::kStates; ++k) {
        is_apart(where) ? store_padded(where, state[k], rows(at.next, k))
                        : store_rows(where, state[k], rows(at.next, k));
      }
    }
    FUSED_RNN_INLINE BatchRows<Real> rows(const BatchRows<Real>& h, int k) const {
      return k == 0 ? h : at.c.from((k - 1) * states.unit_stride_);
    }
    // Whether whole vectors are the head's own; else the units of another follow without a gap.
    template <class Where>
    FUSED_RNN_INLINE bool is_apart(const Where& where) const {
      return kIsWhole<decltype(where.count), Real> || states.p_.heads == 1;
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
  Real* kept_ = nullptr;              // [steps ahead, B, heads, blocks, columns, lanes]
  int64_t kept_stride_ = 0;           // of a row
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
      const QuantizedRows w_hh = quantized(given.w_hh, Recurrent * p_.hidden_size, p_.output_size / p_.heads);
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
    const auto make = [&](auto& matrix, const Given& of, const void* bias, int groups, int64_t units, int64_t columns) {
      using Made = std::remove_reference_t<decltype(matrix)>;
      const auto vector = [&](const void* data) { return WeightView{data, groups * units, 1, 0}; };
      const WeightView w{of.matrix, groups * units * columns, columns, 1}, b = vector(bias), scales = vector(of.scales);
      const typename Made::Given all{w, b, scales, p_.heads, units, columns, false};
      memory_.push_back(zeroed([&](Arena& arena) { matrix = Made(all, arena); }));
      matrix.pack_part(0, 1);
    };
    make(from_x_, w_ih, given.b_ih, Gates, p_.hidden_size / p_.heads, p_.input_size);
    if constexpr (Recurrent > 0) {
      make(from_h_, w_hh, given.b_hh, Recurrent, p_.hidden_size / p_.heads, p_.output_size / p_.heads);
    }
    if (p_.projected) make(projection_, w_hr, nullptr, 1, p_.output_size, p_.hidden_size);
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
    const auto factors = weights_.factors(part, x_rows, count * p_.batch, p_.input_size);
    for_each_head(part, parts, [&](int64_t head, Range blocks) {
      Real* const kept = this->kept_of(head);
      multiply(weights_.from_x(), weights_.from_x().times(head, factors, p_.input_size), count * p_.batch, blocks, kept,
               [&](const auto& tile) {
                 if (tile.values != this->first_row(kept, tile.block)) this->keep(tile, kept);
               });
    });
  }

  void update(int64_t step, int64_t place, int part, int parts) override {
    for_each_head(part, parts, [&](int64_t head, Range blocks) {
      const auto at = this->head_step(head, step, place);
      if constexpr (kDiagonal) {
        using TileOf = Tile<Real, std::decay_t<decltype(weights_.from_x())>::Units::kColumns>;
        for (int64_t block = blocks.begin; block < blocks.end; ++block) {
          this->update_tile(TileOf{nullptr, 0, block, static_cast<int>(p_.batch), 1}, at);
        }
      } else {
        const int64_t size = p_.projected ? p_.output_size : this->head_size_;
        multiply(weights_.from_h(), weights_.from_h().times(head, weights_.factors(part, at.h, p_.batch, size), size),
                 p_.batch, blocks, nullptr, [&](const auto& tile) { this->update_tile(tile, at); });
      }
    });
  }

  void project(int64_t step, int part, int parts) override {
    if constexpr (!Cell::kReadsHidden) {
      if (!p_.projected) return;
      const auto& matrix = weights_.projection();
      const auto factors = weights_.factors(part, this->hidden(), p_.batch, p_.hidden_size);
      multiply(matrix, matrix.times(0, factors, p_.hidden_size), p_.batch, part_of({0, matrix.blocks()}, parts, part),
               nullptr, [&](const auto& tile) { this->store_projected(tile, step); });
    }
  }

  int64_t weight_bytes() const override { return weights_.bytes(); }

 private:
  PackedStep(const PackedStep& other) = default;

  // Calls visit(head, blocks) for the part's share of the blocks of all heads, as many of W_ih as of W_hh.
  template <class Visit>
  void for_each_head(int part, int parts, const Visit& visit) const {
    const int64_t blocks = weights_.from_x().blocks();
    const Range own = part_of({0, p_.heads * blocks}, parts, part);
    for (int64_t head = 0; head < p_.heads; ++head) {
      const Range here{std::max<int64_t>(own.begin - head * blocks, 0), std::min(own.end - head * blocks, blocks)};
      if (here.begin < here.end) visit(head, here);
    }
  }

  // Hands each tile of some blocks of bias + matrix rows, of so many rows, to `use`. The results of a single row lie in
  // `place`, if it is not null.
  template <class Matrix, class Product, class Use>
  static void multiply(const Matrix& /*matrix*/, const Product& product, int64_t count, Range blocks, Real* place,
                       const Use& use) {
    for_each_step_tile<Matrix::Units::kColumns>(product, count, blocks, place, use);
  }

  StepWeights<Cell::kGates, recurrent_gates<Cell>(), T> weights_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
