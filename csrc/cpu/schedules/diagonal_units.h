// What the schedules of diagonal cells share: the units of a thread, and the order in which it comes to them.
//
// No unit of such a cell sees another, so that threads meet nowhere. A thread takes some rows at a time through all
// steps, as many as keep their states in its caches. Of a step it takes row after row, and of a row vector after
// vector: so each buffer is walked through in the order in which it lies. Meanwhile it asks for what comes later, and
// results that the caches would not keep go past them.
#pragma once

#include <algorithm>

#include "cells/cell.h"
#include "core/time.h"
#include "cpu/gemm/packed_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/pass/state_buffer.h"
#include "cpu/schedules/partition.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// The values that each unit carries from step to step: `count` runs of padded units for each row.
template <class Real>
class CarriedValues {
  using V = Vec<Real>;

 public:
  CarriedValues(const Problem& p, int count, Arena& arena)
      : stride_((p.hidden_size + V::kLanes - 1) / V::kLanes * V::kLanes),
        rows_{arena.take<Real>(p.directions * p.batch * count * stride_), p.batch, count * stride_} {}

  BatchRows<Real> of(int64_t d, int k) const { return rows_.rows(d).from(k * stride_); }

 private:
  int64_t stride_;
  StateBuffer<Real> rows_;
};

// Where the vectors of a row lie in blocks of gates: `TileVector::vector` counts from the first block.
struct AllBlocks {
  int64_t block = 0;
};

// Asks for one vector of units, or more, in `Count` runs of `stride` elements of a row that comes later.
template <int Count, class Where, class T>
FUSED_RNN_INLINE void prefetch_runs(const Where& where, const T* row, int64_t stride) {
#pragma GCC unroll 8
  for (int k = 0; k < Count; ++k) {
#pragma GCC unroll 8
    for (int i = 0; i < Where::kParts; ++i) __builtin_prefetch(row + k * stride + where.unit_of(i));
  }
}

// Calls visit(TileVector) for units of a row, two vectors at a time where `Pairs` and as long as there are two.
template <class Whole, bool Pairs, class Visit>
FUSED_RNN_INLINE void for_each_vector_of_units(int64_t row, Range units, const Visit& visit) {
  constexpr int kLanes = Whole::value;
  int64_t unit = units.begin;
  const auto vector = [&] { return static_cast<int>(unit / kLanes); };
  if constexpr (Pairs) {
    for (; unit + kUpdateParts * kLanes <= units.end; unit += kUpdateParts * kLanes)
      visit(TileVector<kUpdateParts, Whole, true>{0, vector(), row, unit, {}});
  }
  for (; unit + kLanes <= units.end; unit += kLanes) visit(TileVector<1, Whole>{0, vector(), row, unit, {}});
  if (unit < units.end) visit(TileVector<1, int>{0, vector(), row, unit, static_cast<int>(units.end - unit)});
}

template <class Cell, class T>
class DiagonalUnits {
  using Real = RealOf<T>;

 public:
  using Blocks = typename InputWeights<Cell, T>::Units;

  // A step has no GEMM, and so no reduction.
  static Tiling tiling(const Problem& problem) { return Blocks::tiling(problem.hidden_size, 0); }

  static Range of(const Part& part, const Problem& p) {
    const Range blocks = part.blocks_of(Blocks::count(p.hidden_size));
    return {blocks.begin * Blocks::kUnits, std::min(blocks.end * Blocks::kUnits, p.hidden_size)};
  }

  // Whether all the results, of `values` for each unit and step, are many enough to go past the caches and lie in whole
  // vectors.
  template <class... Views>
  static bool streams(const Problem& p, int64_t values, const Views&... results) {
    const auto fits = [](const SequenceView<void>& view) {
      constexpr int64_t kLanes = Vec<Real>::kLanes;
      return view.time_stride % kLanes == 0 && view.row_stride % kLanes == 0 && view.direction_stride % kLanes == 0 &&
             reinterpret_cast<uintptr_t>(view.data) % (kLanes * sizeof(T)) == 0;
    };
    const int64_t units = p.time_steps * p.batch * p.directions * p.hidden_size;
    return units * values * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes &&
           p.hidden_size % Vec<Real>::kLanes == 0 && (fits(results) && ...);
  }

  // A row that comes after another of those that are taken together, so many steps later.
  struct Later {
    int64_t steps, row;
  };

  // The one that is far enough away for memory to have answered, where each row has `runs` runs of units to be read.
  static Later later(Range rows, int64_t row, int runs, const Problem& p) {
    const int64_t bytes = runs * p.hidden_size * static_cast<int64_t>(sizeof(T));
    const int64_t index = row - rows.begin + std::max<int64_t>(kAheadBytes / std::max<int64_t>(bytes, 1), 1);
    return {index / rows.size(), rows.begin + index % rows.size()};
  }

  // Calls visit(rows) for some rows of a part at a time.
  template <class Visit>
  static void for_each_group_of_rows(const Part& part, const Problem& p, const Visit& visit) {
    const int64_t row_bytes = Cell::kStates * of(part, p).size() * static_cast<int64_t>(sizeof(Real));
    const int64_t together = std::max<int64_t>(kCarriedBytes / std::max<int64_t>(row_bytes, 1), 1);
    for (int64_t row = part.rows.begin; row < part.rows.end; row += together)
      visit(Range{row, std::min(row + together, part.rows.end)});
  }

  // Calls visit(where) for the units of all rows, one vector at a time.
  template <class Visit>
  static void for_each_vector(Range rows, Range units, const Visit& visit) {
    for (int64_t row = rows.begin; row < rows.end; ++row)
      for_each_vector_of_units<WholeVector<Real>, false>(row, units, visit);
  }

 private:
  // One thread of an EPYC (Zen 4), MinGRU, float32, beside other work, 2026-11-30. A page ahead instead of a row takes
  // 0.90 of the time of a training forward pass in memory (H = 256, B = 128). Streaming takes 0.34 of it in L3 (H =
  // 512, B = 32), and 1.2 of it where results fit L2.
  static constexpr int64_t kAheadBytes = 4096;
  static constexpr int64_t kCarriedBytes = 128 * 1024;  // of the rows that are taken together: a part of L2
  static constexpr int64_t kStreamedBytes = 4 << 20;    // a core's share of L3
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
