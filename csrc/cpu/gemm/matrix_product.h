// GEMMs of one matrix with several others, for what surrounds a recurrence: input projections and the gradients of
// weights.
//
// The same packed blocks and register tiles as the recurrent GEMM, over panels that stay in L2: a block of B
// [kPanelDepth, 32 columns] and the rows of A [kRows, kPanelDepth]. A is read in place if its rows are contiguous and
// have the type of the tiles. Else a panel is transposed and converted, once for all factors. The threads partition the
// longer side of the results; they need no barrier.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/gemm/block.h"
#include "cpu/gemm/matrices.h"
#include "cpu/gemm/pack_weights.h"
#include "cpu/gemm/tile_vectors.h"
#include "cpu/runtime/arena.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class T>
class MatrixMultiplier {
  using Real = RealOf<T>;
  using Weight = WeightOf<T>;  // of packed B
  using Row = RowOf<T>;        // of A
  using V = Vec<Real>;
  using Columns = Block<1, Real>;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kTerms = Terms<Weight>::kCount;      // of one multiplication
  static constexpr int64_t kRows = 128;                     // of a panel of A
  static constexpr int64_t kStride = kPanelDepth + kLanes;  // of its rows, which so lie in different sets of the caches
  static constexpr int64_t kBlocks = 1024 / 32;             // of a panel of B, which may be of several factors
  static constexpr int64_t kLongChunk = 2 * kChunk;         // there is no step after it that would carry its error on
  static constexpr int kSums = 4;                           // vectors of rows that are summed at once

 public:
  MatrixMultiplier(const MatrixProduct& work, int threads, Arena& arena) : p_(work), threads_(threads) {
    int64_t columns = 0;
    factors_.reserve(p_.factors.size());
    for (const RightFactor& factor : p_.factors) {
      const int64_t count = Columns::count(factor.columns);
      factors_.push_back({&factor, {blocks_, blocks_ + count}});
      blocks_ += count, columns += factor.columns;
    }
    share_rows_ = p_.rows >= columns;
    as_it_lies_ = std::is_same_v<T, Row> && p_.a.column_stride == 1 && p_.indices == nullptr && p_.depth % kTerms == 0;
    b_size_ = multiplications<Weight>(kPanelDepth) * Columns::kUnits * (blocks_ < kBlocks ? blocks_ : kBlocks);
    b_ = arena.take<Weight>(threads * b_size_);
    if (!as_it_lies_) a_ = arena.take<Row>(threads * kRows * kStride);
    bias_ = arena.take<Real>(threads * kBlocks * Columns::kUnits);
  }

  void run(int thread) const {
    const Range all{0, blocks_};
    const Range own_rows = share_rows_ ? rows_of(thread) : Range{0, p_.rows};
    const Range own_blocks = share_rows_ ? all : part_of(all, threads_, thread);
    if (own_rows.size() == 0 || (own_blocks.size() == 0 && blocks_ > 0)) return;
    int64_t first = own_blocks.begin;
    do {  // once, too, where there are only sums
      const Range some{first, std::min(first + kBlocks, own_blocks.end)};
      const int64_t panels = (p_.depth + kPanelDepth - 1) / kPanelDepth;
      int64_t panel = 0;
      do {  // once, too, where the reduction is empty
        const Range indices = panel_of(panel, std::max<int64_t>(panels, 1));
        for_each_factor(some,
                        [&](const Factor& factor, Range blocks) { pack_b(thread, some, factor, blocks, indices); });
        for (int64_t row = own_rows.begin; row < own_rows.end; row += kRows) {
          const Range rows{row, std::min(row + kRows, own_rows.end)};
          if (first == 0 && !p_.sums.empty()) sum_rows(rows, indices);
          multiply(thread, rows, some, indices);
        }
      } while (++panel < panels);
      first += kBlocks;
    } while (first < own_blocks.end);
  }

 private:
  struct Factor {
    const RightFactor* given;
    Range blocks;  // of all the factors' blocks, one after the other
  };

  // A part of the rows: of those that are not zeros, as many as any other.
  Range rows_of(int thread) const {
    if (p_.nonzero_rows == nullptr) return part_of({0, p_.rows}, threads_, thread);
    int64_t nonzero = 0;
    for (int64_t row = 0; row < p_.rows; ++row) nonzero += p_.nonzero_rows[row];
    const Range own = part_of({0, nonzero}, threads_, thread);
    const auto row_after = [&](int64_t count) {
      int64_t row = 0;
      for (; count > 0; ++row) count -= p_.nonzero_rows[row];
      return row;
    };
    return {row_after(own.begin), thread == threads_ - 1 ? p_.rows : row_after(own.end)};
  }

  // A range of K, divided between two multiplications.
  Range panel_of(int64_t panel, int64_t panels) const {
    const Range some = part_of({0, multiplications<Weight>(p_.depth)}, panels, panel);
    return {some.begin * kTerms, std::min(some.end * kTerms, p_.depth)};
  }
  bool is_last(Range indices) const { return indices.end == p_.depth; }

  int64_t index_of(int64_t k) const { return p_.indices == nullptr ? k : p_.indices[k]; }

  const T* a_at(int64_t row, int64_t k) const {
    return static_cast<const T*>(p_.a.data) + row * p_.a.row_stride + index_of(k) * p_.a.column_stride;
  }

  // Calls visit(factor, those of some blocks that are its own).
  template <class Visit>
  void for_each_factor(Range some, const Visit& visit) const {
    for (const Factor& factor : factors_) {
      const Range own{std::max(some.begin, factor.blocks.begin), std::min(some.end, factor.blocks.end)};
      if (own.begin < own.end) visit(factor, own);
    }
  }

  // Where a block of a panel that begins with block `first` lies.
  Weight* b_of(int thread, int64_t first, int64_t block, int64_t depth) const {
    return b_ + thread * b_size_ + (block - first) * Columns::kUnits * multiplications<Weight>(depth);
  }
  Real* bias_of(int thread, int64_t first, int64_t block) const {
    return bias_ + (thread * kBlocks + block - first) * Columns::kUnits;
  }

  void pack_b(int thread, Range some, const Factor& factor, Range blocks, Range indices) const {
    const RightFactor& f = *factor.given;
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t own = block - factor.blocks.begin;
      pack_rows(f, own, indices, b_of(thread, some.begin, block, indices.size()));
      if (f.bias == nullptr || indices.begin > 0) continue;
      const PackSource<T> bias{static_cast<const T*>(f.bias), f.columns, 0, 1, 1, 0, 0, 1, 1};
      pack_block<1, Columns::kVectors>(bias, own, bias_of(thread, some.begin, block));
    }
  }

  // Some rows of a block of B.
  void pack_rows(const RightFactor& f, int64_t block, Range indices, Weight* to) const {
    if (f.b_rows == nullptr && p_.indices == nullptr) {
      const T* data = static_cast<const T*>(f.b.data) + indices.begin * f.b.row_stride;
      const PackSource<T> source{data,           f.columns,     0, f.b.column_stride, 1, 0, f.b.row_stride,
                                 indices.size(), indices.size()};
      return pack_block<1, Columns::kVectors>(source, block, to);
    }
    for (int vector = 0; vector < Columns::kVectors; ++vector) {
      const int64_t column = (block * Columns::kVectors + vector) * kLanes;
      Weight* out = to + vector * kLanes;
      visit_lanes<Real>(f.columns - column, [&](auto count) {
        for (int64_t k = indices.begin; k < indices.end; k += kTerms, out += Columns::kUnits) {
          V rows[kTerms];
          for (int i = 0; i < kTerms; ++i) rows[i] = load_row(f, k + i, indices.end, column, count);
          Terms<Weight>::pack(rows, out);
        }
      });
      if (f.columns > column) continue;
      const V zeros[kTerms] = {};
      for (int64_t k = indices.begin; k < indices.end; k += kTerms, out += Columns::kUnits)
        Terms<Weight>::pack(zeros, out);
    }
  }

  // A vector of a row of B from some column on; zeros from `end` on.
  template <class Count>
  FUSED_RNN_INLINE V load_row(const RightFactor& f, int64_t k, int64_t end, int64_t column, Count count) const {
    if (k >= end) return V(0);
    const int64_t row = index_of(k);
    const T* from = f.b_rows != nullptr ? static_cast<const T*>(f.b_rows[row])
                                        : static_cast<const T*>(f.b.data) + row * f.b.row_stride;
    if (from == nullptr) return V(0);
    const V value = load<T>(from + column, count);
    if (f.b_masks == nullptr) return value;
    return round_to<T>(value * load<T>(static_cast<const T*>(f.b_masks[row]) + column, count));
  }

  // A panel of A times a panel of B.
  void multiply(int thread, Range rows, Range some, Range indices) const {
    if (factors_.empty()) return;
    const int64_t k = indices.begin, depth = indices.size();
    const BatchRows<const Row> a = left_rows(thread, rows, indices);
    for_each_factor(some, [&](const Factor& factor, Range blocks) {
      const RightFactor& f = *factor.given;
      const bool first = k == 0 && !f.add;
      const int64_t column = (blocks.begin - factor.blocks.begin) * Columns::kUnits;
      const int64_t corner = rows.begin * f.columns + column;
      const BatchRows<Real> c = corner_of<Real>(f.c, corner, f.columns);
      const BatchRows<T> rounded = corner_of<T>(is_last(indices) ? f.rounded : nullptr, corner, f.columns);
      const Gemm<Weight> gemm{b_of(thread, some.begin, blocks.begin, depth),
                              f.bias != nullptr && k == 0 ? bias_of(thread, some.begin, blocks.begin) : nullptr,
                              multiplications<Weight>(depth) * Columns::kUnits,
                              a.data,
                              a.stride,
                              depth,
                              kLongChunk};
      const auto prepare = [&](const auto& tile) {
        if (c) prefetch_tile<Columns::kVectors, true>(tile, 1, 0, c);
        if (rounded) prefetch_tile<Columns::kVectors, true>(tile, 1, 0, rounded);
        return p_.nonzero_rows == nullptr ||
               any_row(tile, [&](int64_t row) { return p_.nonzero_rows[rows.begin + row] != 0; });
      };
      const auto update = [&](const auto& tile) {
        for_each_vector<Columns::kVectors>(tile, f.columns - column, kNoRow,
                                           [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
                                             auto value = column_of(tile, where);
                                             if (!first) value = value + load_rows(where, c);
                                             if (rounded) return store_rows(where, value, rounded);
                                             store_rows(where, value, c);
                                           });
      };
      for_each_tile<Columns::kColumns>(gemm, {0, rows.size()}, {0, blocks.size()}, prepare, update);
    });
  }

  // A panel of A as the tiles take it: where it lies, or a copy filled up with zeros to whole multiplications.
  BatchRows<const Row> left_rows(int thread, Range rows, Range indices) const {
    if constexpr (std::is_same_v<T, Row>) {
      if (as_it_lies_) return {a_at(rows.begin, indices.begin), p_.a.row_stride};
    }
    Row* packed = a_ + thread * kRows * kStride;
    for (int64_t k = indices.begin; k < indices.end; k += kLanes) {
      const int count = static_cast<int>(std::min<int64_t>(indices.end - k, kLanes));
      Row* to = packed + k - indices.begin;
      if (p_.indices == nullptr) {
        pack_vector(a_at(rows.begin, k), p_.a.column_stride, count, p_.a.row_stride, rows.size(), to, kStride);
      } else {
        pack_transposed<T>([&](int lane) { return a_at(rows.begin, k + lane); }, count, p_.a.row_stride, rows.size(),
                           to, kStride);
      }
    }
    return {packed, kStride};
  }

  // Null where `first` is.
  template <class Element>
  static BatchRows<Element> corner_of(void* first, int64_t corner, int64_t columns) {
    if (first == nullptr) return {};
    return {static_cast<Element*>(first) + corner, columns};
  }

  // Of a panel, which this brings into L2.
  void sum_rows(Range rows, Range indices) const {
    int64_t row = rows.begin;
    for (; row + kSums * kLanes <= rows.end; row += kSums * kLanes) {
      sum_vectors<kSums>(row, WholeVector<Real>{}, indices);
    }
    for (; row < rows.end; row += kLanes) {
      visit_lanes<Real>(rows.end - row, [&](auto count) { sum_vectors<1>(row, count, indices); });
    }
  }

  // Chunks of reduction indices, then their sums, as in the GEMMs.
  template <int Vectors, class Count>
  void sum_vectors(int64_t row, Count count, Range indices) const {
    const bool add = indices.begin > 0 || p_.add_sums;
    V totals[Vectors];
    for (int i = 0; i < Vectors; ++i) {
      totals[i] = add ? load<Real>(static_cast<const Real*>(p_.sums[0].sums) + row + i * kLanes, count) : V(0);
    }
    for (int64_t begin = indices.begin; begin < indices.end; begin += kChunk) {
      V parts[Vectors];
      for (V& part : parts) part = V(0);
      const int64_t end = std::min(begin + kChunk, indices.end);
      for (int64_t k = begin; k < end; ++k) {
        const T* from = a_at(row, k);
        for (int i = 0; i < Vectors; ++i) parts[i] = parts[i] + load<T>(from + i * kLanes, count);
      }
      for (int i = 0; i < Vectors; ++i) totals[i] = totals[i] + parts[i];
    }
    for (const RowSums& to : p_.sums) {
      const bool round = is_last(indices) && to.rounded != nullptr;
      for (int i = 0; i < Vectors; ++i) {
        if (round) {
          store<T>(static_cast<T*>(to.rounded) + row + i * kLanes, totals[i], count);
        } else {
          store<Real>(static_cast<Real*>(to.sums) + row + i * kLanes, totals[i], count);
        }
      }
    }
  }

  const MatrixProduct& p_;
  int threads_;
  std::vector<Factor> factors_;
  int64_t blocks_ = 0;  // of all factors
  bool share_rows_;
  bool as_it_lies_;  // A is taken
  int64_t b_size_;
  Weight* b_;         // [threads][blocks][depth][columns][lanes]
  Row* a_ = nullptr;  // [threads][kRows][kStride]
  Real* bias_;        // [threads][blocks][columns][lanes]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
