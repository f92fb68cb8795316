// A layer that makes single steps: packed weights, states and the two products of a step.
//
//   from_x = b_ih + W_ih x       kept for the block of units, in the layout of the tiles
//   from_h = b_hh + W_hh h       tile by tile, and then the pass (forward_pass.h), as in the forward sweep
//
// Weights may be stored as bfloat16, or as int8 with one scale for each row of the matrix: the sums of a tile are
// multiplied by it.
#pragma once

#include <algorithm>
#include <cmath>
#include <new>
#include <type_traits>
#include <vector>

#include "cells/cell.h"
#include "cpu/gemm/block.h"
#include "cpu/gemm/pack_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/forward_pass.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/stepping.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// One matrix [Groups * units, size] with an optional bias, packed in blocks of units.
template <class W, int Groups>
class StepMatrix {
  using Real = RealOf<W>;
  using V = Vec<Real>;
  static constexpr int kLanes = V::kLanes;
  static constexpr bool kScaled = std::is_same_v<W, Int8>;

 public:
  using Units = Block<Groups, Real>;
  static constexpr int kBlockValues = Units::kColumns * kLanes;  // of one reduction index

  StepMatrix() = default;
  StepMatrix(int64_t units, int64_t size, Arena& arena) : units_(units), size_(size), blocks_(Units::count(units)) {
    weights_ = arena.take<W>(blocks_ * size_ * kBlockValues);
    bias_ = arena.take<Real>(blocks_ * kBlockValues);
    if (kScaled) scale_ = arena.take<Real>(blocks_ * kBlockValues);
  }

  int64_t blocks() const { return blocks_; }
  int64_t bytes() const { return blocks_ * size_ * kBlockValues * static_cast<int64_t>(sizeof(W)); }

  // `block` is scratch memory for size * kBlockValues values.
  void pack(const Real* matrix, const Real* bias, Real* block) {
    for (int64_t i = 0; i < blocks_; ++i) {
      pack_block<Groups, Units::kVectors>(
          PackSource<Real>{matrix, units_, units_ * size_, size_, 1, 0, 1, size_, size_}, i, block);
      store_block(i, block);
      Real* to = bias_ + i * kBlockValues;
      for (int v = 0; v < kBlockValues; ++v) to[v] = 0;
      if (bias == nullptr) continue;
      pack_block<Groups, Units::kVectors>(PackSource<Real>{bias, units_, units_, 1, 1, 0, 0, 1, 1}, i, to);
    }
  }

  Gemm<W> times(const Real* rows, int64_t row_stride) const {
    return {weights_, kScaled ? nullptr : bias_, size_ * kBlockValues, rows, row_stride, size_};
  }

  // The tile of bias + matrix row from a tile of the GEMM; `scaled` is memory for it.
  template <class TileOf>
  TileOf finish(const TileOf& tile, Real* scaled) const {
    if constexpr (!kScaled) return tile;
    const int64_t first = tile.block * kBlockValues, values = tile.blocks * kBlockValues;
    for (int64_t i = 0; i < tile.rows * values; i += kLanes) {
      const int64_t at = first + i % values;
      multiply_add(V::load(tile.values + i), V::load(scale_ + at), V::load(bias_ + at)).store(scaled + i);
    }
    return {scaled, tile.row, tile.block, tile.rows, tile.blocks};
  }

  // A tile's memory for `finish`.
  struct Scaled {
    alignas(64) Real values[kScaled ? MicroKernels<W, Units::kColumns>::kMostValues : 1];
  };

 private:
  void store_block(int64_t index, const Real* block) {
    W* to = weights_ + index * size_ * kBlockValues;
    if constexpr (kScaled) {
      Real* scale = scale_ + index * kBlockValues;
      for (int v = 0; v < kBlockValues; ++v) {
        Real largest = 0;
        for (int64_t k = 0; k < size_; ++k) {
          const Real size = std::abs(block[k * kBlockValues + v]);
          if (!(size <= largest)) largest = size;  // so a NaN stays
        }
        scale[v] = largest / 127;
        const Real inverse = largest > 0 && std::isfinite(largest) ? 127 / largest : 0;
        for (int64_t k = 0; k < size_; ++k) {
          to[k * kBlockValues + v].value = static_cast<int8_t>(std::lrint(block[k * kBlockValues + v] * inverse));
        }
      }
    } else {
      for (int64_t at = 0; at < size_ * kBlockValues; at += kLanes) Storage<W>::store(to + at, V::load(block + at));
    }
  }

  int64_t units_ = 0, size_ = 0, blocks_ = 0;
  W* weights_ = nullptr;   // [blocks][size][columns][lanes]
  Real* bias_ = nullptr;   // [blocks][columns][lanes]
  Real* scale_ = nullptr;  // likewise
};

// The states of a layer, and what its tiles do to them: the same for every type of the weights.
template <class Cell, class Real>
class StepStates : public StepLayer {
  using V = Vec<Real>;
  using Units = Block<Cell::kGates, Real>;
  using Outputs = Block<1, Real>;
  static constexpr int kLanes = V::kLanes;

 public:
  StepStates(StepStates&&) = delete;
  StepStates& operator=(const StepStates&) = delete;
  StepStates& operator=(StepStates&&) = delete;
  ~StepStates() override = default;

  void* h(int64_t step) override { return h_[step & 1]; }
  void* c() override { return c_; }
  int64_t h_stride() const override { return h_stride_; }
  int64_t c_stride() const override { return c_stride_; }

 protected:
  explicit StepStates(const StepProblem& problem) : p_(problem) {
    c_stride_ = Units::padded(p_.hidden_size);
    h_stride_ = p_.projected ? Outputs::padded(p_.output_size) : c_stride_;
    states_ = zeroed([&](Arena& arena) { lay_out(arena); });
  }

  StepStates(const StepStates& other)
      : p_(other.p_), h_stride_(other.h_stride_), c_stride_(other.c_stride_), unit_weights_(other.unit_weights_) {
    states_ = zeroed([&](Arena& arena) { lay_out(arena); });
    const auto copy = [&](const Real* from, int64_t stride, Real* to) {
      if (from != nullptr) std::copy_n(from, p_.batch * stride, to);
    };
    for (int i = 0; i < 2; ++i) copy(other.h_[i], h_stride_, h_[i]);
    copy(other.c_, c_stride_, c_);
  }

  struct Release {
    void operator()(char* memory) const { ::operator delete(memory, std::align_val_t{Arena::kAlignment}); }
  };
  using Memory = std::unique_ptr<char, Release>;

  // Memory for all that `lay_out` takes of an arena.
  template <class LayOut>
  static Memory zeroed(const LayOut& lay_out) {
    Arena counter(nullptr);
    lay_out(counter);
    Memory memory(static_cast<char*>(::operator new(counter.used(), std::align_val_t{Arena::kAlignment})));
    std::memset(memory.get(), 0, counter.used());
    Arena arena(memory.get());
    lay_out(arena);
    return memory;
  }

  BatchRows<Real> h_before(int64_t step) const { return {h_[step & 1], h_stride_}; }
  BatchRows<Real> h_after(int64_t step) const { return {h_[(step + 1) & 1], h_stride_}; }
  BatchRows<Real> hidden() const { return {hidden_, c_stride_}; }

  // Keeps the gates from x of a tile.
  template <class TileOf>
  [[gnu::noinline]] void keep(const TileOf& tile) const {
    for_each_vector<Units::kVectors>(tile, p_.hidden_size, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
      for (int g = 0; g < Cell::kGates; ++g) {
        const auto value = column_of<Cell::kGates>(tile, where, g);
        for (int i = 0; i < where.kParts; ++i) V(value.parts[i]).store(kept(tile, where, i, g));
      }
    });
  }

  // The pass of a tile of the gates from h.
  template <class TileOf>
  [[gnu::noinline]] void update_tile(const TileOf& tile, int64_t step) const {
    const ForwardPass<Cell, Real, false> pass(UnitWeights<Cell, Real>{unit_weights_, c_stride_});
    const Access<TileOf> access{*this, tile, h_before(step), p_.projected ? hidden() : h_after(step)};
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
  int64_t h_stride_ = 0, c_stride_ = 0;  // padded sizes of one row of h, and of c and hidden
  Real* unit_weights_ = nullptr;         // [K, c_stride]

 private:
  void lay_out(Arena& arena) {
    kept_ = arena.take<Real>(p_.batch * Units::count(p_.hidden_size) * Units::kColumns * kLanes);
    for (Real*& h : h_) h = arena.take<Real>(p_.batch * h_stride_);
    if (Cell::kStates == 2) c_ = arena.take<Real>(p_.batch * c_stride_);
    if (p_.projected) hidden_ = arena.take<Real>(p_.batch * c_stride_);
  }

  // Where the input's part of one gate is kept.
  template <class TileOf, class Where>
  FUSED_RNN_INLINE Real* kept(const TileOf& tile, const Where& where, int part, int gate) const {
    const int64_t first = where.row_of(part) * Units::count(p_.hidden_size) + tile.block;
    return kept_ + (first * Units::kColumns + where.vector_of(part) * Cell::kGates + gate) * kLanes;
  }

  // Where the pass finds the values of the vectors of a tile.
  template <class TileOf>
  struct Access {
    const StepStates& states;
    const TileOf& tile;
    BatchRows<Real> h, next;

    template <class Where>
    FUSED_RNN_INLINE auto from_x(const Where& where, int g) const {
      Vec<Real, Where::kParts> value;
      for (int i = 0; i < Where::kParts; ++i) value.parts[i] = V::load(states.kept(tile, where, i, g)).parts[0];
      return value;
    }
    template <class Where>
    FUSED_RNN_INLINE auto from_h(const Where& where, int g) const {
      return column_of<Cell::kGates>(tile, where, g);
    }
    template <class Where>
    FUSED_RNN_INLINE auto before(const Where& where, int k) const {
      return load_padded(where, k == 0 ? h : BatchRows<Real>{states.c_, states.c_stride_});
    }
    template <class Where, class States>
    FUSED_RNN_INLINE void keep(const Where& where, const States& state) const {
      store_padded(where, state[0], next);
      if constexpr (Cell::kStates == 2) store_padded(where, state[1], BatchRows<Real>{states.c_, states.c_stride_});
    }
    // There are no lengths and no resets.
    template <class Where>
    FUSED_RNN_INLINE V bias(const Where& /*where*/, int /*gate*/) const {
      return V(0);
    }
    template <class Where>
    FUSED_RNN_INLINE void stay(const Where& /*where*/) const {}
  };

  Memory states_;           // of all that follows
  Real* kept_ = nullptr;    // [B, blocks, columns, lanes]
  Real* h_[2] = {};         // [B, h_stride]
  Real* c_ = nullptr;       // [B, c_stride]
  Real* hidden_ = nullptr;  // [B, c_stride] h before its projection
};

template <class Cell, class W>
class PackedStep final : public StepStates<Cell, RealOf<W>> {
  using Real = RealOf<W>;
  using States = StepStates<Cell, Real>;
  using Matrix = StepMatrix<W, Cell::kGates>;
  using Projection = StepMatrix<W, 1>;
  using States::p_, States::c_stride_, States::h_stride_, States::unit_weights_;

 public:
  PackedStep(const StepProblem& problem, const StepParameters& parameters) : States(problem) {
    weights_ = States::zeroed([&](Arena& arena) { lay_out_weights(arena); });
    pack(parameters);
  }

  PackedStep(PackedStep&&) = delete;
  PackedStep& operator=(const PackedStep&) = delete;
  PackedStep& operator=(PackedStep&&) = delete;
  ~PackedStep() override = default;

  std::unique_ptr<StepLayer> clone() const override { return std::unique_ptr<StepLayer>(new PackedStep(*this)); }

  void update(int64_t step, const void* x, int64_t x_stride, int part, int parts) override {
    const Range blocks = part_of({0, from_x_.blocks()}, parts, part);
    const BatchRows<Real> h = this->h_before(step);
    multiply(from_x_, static_cast<const Real*>(x), x_stride, blocks, [&](const auto& tile) { this->keep(tile); });
    multiply(from_h_, h.data, h.stride, blocks, [&](const auto& tile) { this->update_tile(tile, step); });
  }

  void project(int64_t step, int part, int parts) override {
    if constexpr (!Cell::kReadsHidden) {
      if (!p_.projected) return;
      const Range blocks = part_of({0, projection_.blocks()}, parts, part);
      multiply(projection_, this->hidden().data, c_stride_, blocks,
               [&](const auto& tile) { this->store_projected(tile, step); });
    }
  }

  int64_t weight_bytes() const override { return from_x_.bytes() + from_h_.bytes() + projection_.bytes(); }

 private:
  PackedStep(const PackedStep& other)
      : States(other), from_x_(other.from_x_), from_h_(other.from_h_), projection_(other.projection_) {}

  // Hands each tile of bias + matrix rows to `use`.
  template <class MatrixOf, class Use>
  void multiply(const MatrixOf& matrix, const Real* rows, int64_t stride, Range blocks, const Use& use) const {
    typename MatrixOf::Scaled scaled;
    for_each_tile<MatrixOf::Units::kColumns>(
        matrix.times(rows, stride), {0, p_.batch}, blocks, [](const auto& /*tile*/) { return true; },
        [&](const auto& tile) { use(matrix.finish(tile, scaled.values)); });
  }

  void lay_out_weights(Arena& arena) {
    from_x_ = Matrix(p_.hidden_size, p_.input_size, arena);
    from_h_ = Matrix(p_.hidden_size, p_.output_size, arena);
    if (p_.projected) projection_ = Projection(p_.output_size, p_.hidden_size, arena);
    if (Cell::kUnitWeights > 0) unit_weights_ = arena.take<Real>(Cell::kUnitWeights * c_stride_);
  }

  void pack(const StepParameters& given) {
    const auto real = [](const void* data) { return static_cast<const Real*>(data); };
    const int64_t longest = std::max({p_.input_size, p_.output_size, p_.hidden_size});
    std::vector<Real> block(static_cast<size_t>(longest * std::max(Matrix::kBlockValues, Projection::kBlockValues)));
    from_x_.pack(real(given.w_ih), real(given.b_ih), block.data());
    from_h_.pack(real(given.w_hh), real(given.b_hh), block.data());
    if (p_.projected) projection_.pack(real(given.w_hr), nullptr, block.data());
    for (int k = 0; k < Cell::kUnitWeights; ++k) {
      std::memcpy(unit_weights_ + k * c_stride_, real(given.unit_weights) + k * p_.hidden_size,
                  static_cast<size_t>(p_.hidden_size) * sizeof(Real));
    }
  }

  typename States::Memory weights_;  // of the matrices and unit_weights_; null in a clone, which reads those of another
  Matrix from_x_, from_h_;
  Projection projection_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
