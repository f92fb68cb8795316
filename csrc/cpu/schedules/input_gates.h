// The input projection W_ih x + b_ih of a few steps at a time, made by each thread for its own rows and units just
// before the steps that use it: it stays in that thread's cache, where a buffer of all steps would pass through memory.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/schedules/partition.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// The pre-activations of one step that are already there, of some rows and blocks of units.
template <class Real, int Columns>
struct GateRows {
  const Real* values = nullptr;  // [blocks][block_stride], of which each row takes [columns][lanes]; null: none
  int64_t block_stride = 0;
  int64_t first_block = 0, first_row = 0;

  explicit operator bool() const { return values != nullptr; }

  // One gate of `Gates` for the vectors that an update works on.
  template <int Gates, class TileOf, class Where>
  FUSED_RNN_INLINE auto load(const TileOf& tile, const Where& where, int gate) const {
    constexpr int kVectors = Columns / Gates;
    Vec<Real, Where::kParts> result;
#pragma GCC unroll 8
    for (int i = 0; i < Where::kParts; ++i) {
      const int vector = where.vector_of(i);
      const Real* block = values + (tile.block + vector / kVectors - first_block) * block_stride;
      const int64_t at = (where.row_of(i) - first_row) * Columns + vector % kVectors * Gates;
      result.parts[i] = Vec<Real>::load(block + at * Vec<Real>::kLanes + gate * Vec<Real>::kLanes).parts[0];
    }
    return result;
  }
};

template <class T, class Weights>
class InputGatesOf {
  using Real = RealOf<T>;
  using Row = RowOf<T>;
  using Units = typename Weights::Units;
  static constexpr int kLanes = Vec<Real>::kLanes;
  static constexpr int64_t kRow = Units::kColumns * kLanes;
  static constexpr int64_t kBytes = 256 * 1024;  // of x and gates of one thread: a part of its L2
  static constexpr int64_t kLeastRows = 32;      // so many multiplications are worth the loading of a weight

 public:
  using Made = GateRows<Real, Units::kColumns>;

  InputGatesOf(const Problem& problem, const ForwardViews& views, const Plan& plan, Arena& arena)
      : p_(problem), v_(views), plan_(plan), steps_(problem.time_steps) {
    if (!made()) return;
    x_stride_ = factor_stride<T>(p_.input_size);
    const int64_t rows = (p_.batch + plan.row_parts - 1) / plan.row_parts;
    const int64_t blocks = (Units::count(p_.hidden_size) + plan.unit_parts - 1) / plan.unit_parts;
    const int64_t row_bytes = x_stride_ * int64_t{sizeof(Row)} + blocks * kRow * int64_t{sizeof(Real)};
    const int64_t most_rows = std::max<int64_t>(kBytes / row_bytes, kLeastRows);
    steps_ = std::max<int64_t>(std::min(p_.time_steps, most_rows / std::max<int64_t>(rows, 1)), 1);
    x_size_ = steps_ * x_stride_;
    gates_size_ = steps_ * blocks * kRow;
    const int64_t all_rows = plan.direction_parts * plan.unit_parts * p_.batch;  // however the threads share them
    x_ = arena.take<Row>(all_rows * x_size_);
    gates_ = arena.take<Real>(all_rows * gates_size_);
  }

  // Steps that are made at once; all where the gates are given.
  int64_t steps() const { return steps_; }

  // Makes the gates of steps [begin, begin + count) of a direction.
  void make(int thread, const Part& part, int64_t d, int64_t begin, int64_t count, const Weights& weights) const {
    if (!made()) return;
    const Range blocks = blocks_of(part);
    const int64_t rows = part.rows.size();
    const Direction direction = direction_of(d, p_.heads);
    const Factors<Row> x = rows_of_x(thread, part, direction, begin, count);
    Real* gates = gates_ + first_row(thread, part) * gates_size_;
    const auto wanted = [&](const auto& tile) {
      return v_.lengths == nullptr || any_row(tile, [&](int64_t index) {
               const int64_t t = time_at(begin + index / rows, direction, p_.time_steps);
               return row_step(v_, t, part.rows.begin + index % rows) != RowStep::kInactive;
             });
    };
    const auto kept = [&](int64_t row, int64_t block) {
      return gates + ((block - blocks.begin) * count * rows + row) * kRow;
    };
    // The results of a single block lie as they are kept.
    const auto place = [&](int64_t row, int64_t block, int count_of_blocks) -> Real* {
      return count_of_blocks == 1 ? kept(row, block) : nullptr;
    };
    const auto keep = [&](const auto& tile) {
      if (tile.blocks == 1) return;
      for (int b = 0; b < tile.blocks; ++b) {
        for (int r = 0; r < tile.rows; ++r) {
          std::copy_n(tile.at(r, b * Units::kColumns), kRow, kept(tile.row + r, tile.block + b));
        }
      }
    };
    for_each_tile<Units::kColumns>(weights.times(d, x, p_.input_size), {0, count * rows}, blocks, wanted, keep, false,
                                   place);
  }

  // Those of the index-th of the `count` steps made last.
  Made of_step(int thread, const Part& part, int64_t index, int64_t count) const {
    if (!made()) return {};
    const int64_t rows = part.rows.size();
    return {gates_ + first_row(thread, part) * gates_size_ + index * rows * kRow, count * rows * kRow,
            blocks_of(part).begin, part.rows.begin};
  }

 private:
  // [count * rows, stride], the steps one after the other: where they lie, if they are as the GEMM takes them and at
  // equal distances; else a copy.
  Factors<Row> rows_of_x(int thread, const Part& part, Direction direction, int64_t begin, int64_t count) const {
    const int64_t rows = part.rows.size();
    if constexpr (std::is_same_v<T, Row>) {
      const int64_t step = time_after<int64_t>(0, direction) * v_.x.time_stride, row = v_.x.row_stride;
      const bool whole = p_.input_size % Terms<WeightOf<T>>::kCount == 0;
      if (whole && v_.lengths == nullptr && (rows == 1 || count == 1 || step == rows * row)) {
        return {at<T>(v_.x, time_at(begin, direction, p_.time_steps), part.rows.begin, 0), rows == 1 ? step : row};
      }
    }
    Row* x = x_ + first_row(thread, part) * x_size_;
    for (int64_t s = 0; s < count; ++s) {
      const int64_t t = time_at(begin + s, direction, p_.time_steps);
      for (int64_t row = 0; row < rows; ++row) copy(t, part.rows.begin + row, x + (s * rows + row) * x_stride_);
    }
    return {x, x_stride_};
  }

  bool made() const { return p_.input_size > 0; }

  // Of a thread's own rows in the buffers of all.
  int64_t first_row(int thread, const Part& part) const {
    const int64_t direction_part = thread / (plan_.row_parts * plan_.unit_parts);
    return (direction_part * plan_.unit_parts + part.unit_part) * p_.batch + part.rows.begin;
  }

  Range blocks_of(const Part& part) const { return part.blocks_of(Units::count(p_.hidden_size)); }

  // Inactive steps have zeros for x, whatever lies there.
  void copy(int64_t t, int64_t row, Row* to) const {
    if (row_step(v_, t, row) != RowStep::kInactive) {
      return make_factors<T>(at<T>(v_.x, t, row, 0), p_.input_size, to);
    }
    std::memset(static_cast<void*>(to), 0, static_cast<size_t>(x_stride_) * sizeof(Row));
  }

  const Problem& p_;
  const ForwardViews& v_;
  Plan plan_;
  int64_t steps_;
  int64_t x_stride_ = 0, x_size_ = 0, gates_size_ = 0;  // elements: of a row of x; of a row in the buffers
  Row* x_ = nullptr;                                    // [threads][steps][rows][x_stride]
  Real* gates_ = nullptr;                               // [threads][blocks][steps][rows][columns][lanes]
};
template <class Cell, class T>
using InputGates = InputGatesOf<T, InputWeights<Cell, T>>;

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
