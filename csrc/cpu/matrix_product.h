// The products of a matrix with others, for what surrounds a recurrence: input projections and the gradients of
// weights.
//
// The same packed blocks and register tiles as the recurrent product, over panels that stay in the second cache: a
// block of B [kPanelDepth, 32 columns] and the rows of A [kRows, kPanelDepth]. A is read where it lies if its rows are
// contiguous, else a panel is transposed, once for all factors; the way to it through the caches takes longer than the
// transposing. Threads share the longer side of the results and meet nowhere.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/arena.h"
#include "cpu/matrices.h"
#include "cpu/pack_weights.h"
#include "cpu/share.h"
#include "cpu/tile_vectors.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Real>
class MatrixMultiplier {
  using V = Vec<Real>;
  using Columns = Block<1, Real>;
  static constexpr int kLanes = V::kLanes;
  static constexpr int64_t kRows = 128;                     // of a panel of A
  static constexpr int64_t kStride = kPanelDepth + kLanes;  // of its rows, which so lie in different sets of the caches
  static constexpr int64_t kBlocks = 1024 / 32;             // of a panel of B, which may be of several factors
  static constexpr int64_t kTerms = 2 * kChunk;  // of a sum: there is no step after it that would carry its error on
  static constexpr int kSums = 4;                // vectors of rows that are summed at once

 public:
  MatrixMultiplier(const MatrixProduct& product, int threads, Arena& arena) : p_(product), threads_(threads) {
    int64_t columns = 0;
    factors_.reserve(p_.factors.size());
    for (const RightFactor& factor : p_.factors) {
      const int64_t count = Columns::count(factor.columns);
      factors_.push_back({&factor, {blocks_, blocks_ + count}});
      blocks_ += count, columns += factor.columns;
    }
    share_rows_ = p_.rows >= columns;
    b_size_ = kPanelDepth * Columns::kUnits * (blocks_ < kBlocks ? blocks_ : kBlocks);
    b_ = arena.take<Real>(threads * b_size_);
    if (p_.a.column_stride != 1) a_ = arena.take<Real>(threads * kRows * kStride);
    bias_ = arena.take<Real>(threads * kBlocks * Columns::kUnits);
  }

  void run(int thread) const {
    const Range all{0, blocks_};
    const Range own_rows = share_rows_ ? part_of({0, p_.rows}, threads_, thread) : Range{0, p_.rows};
    const Range own_blocks = share_rows_ ? all : part_of(all, threads_, thread);
    if (own_rows.size() == 0 || (own_blocks.size() == 0 && blocks_ > 0)) return;
    int64_t first = own_blocks.begin;
    do {  // once, too, where there are only sums
      const Range some{first, std::min(first + kBlocks, own_blocks.end)};
      const int64_t panels = (p_.depth + kPanelDepth - 1) / kPanelDepth;
      int64_t panel = 0;
      do {  // once, too, where the reduction is empty
        const Range terms = part_of({0, p_.depth}, std::max<int64_t>(panels, 1), panel);
        const int64_t k = terms.begin, depth = terms.size();
        for_each_factor(some,
                        [&](const Factor& factor, Range blocks) { pack_b(thread, some, factor, blocks, k, depth); });
        for (int64_t row = own_rows.begin; row < own_rows.end; row += kRows) {
          const Range rows{row, std::min(row + kRows, own_rows.end)};
          if (first == 0 && !p_.sums.empty()) sum_rows(rows, k, depth);
          multiply(thread, rows, some, k, depth);
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

  const Real* a_at(int64_t row, int64_t k) const {
    return static_cast<const Real*>(p_.a.data) + row * p_.a.row_stride + k * p_.a.column_stride;
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
  Real* b_of(int thread, int64_t first, int64_t block, int64_t depth) const {
    return b_ + thread * b_size_ + (block - first) * Columns::kUnits * depth;
  }
  Real* bias_of(int thread, int64_t first, int64_t block) const {
    return bias_ + (thread * kBlocks + block - first) * Columns::kUnits;
  }

  void pack_b(int thread, Range some, const Factor& factor, Range blocks, int64_t k, int64_t depth) const {
    const RightFactor& f = *factor.given;
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t own = block - factor.blocks.begin;
      pack_rows(f, own, {k, k + depth}, b_of(thread, some.begin, block, depth));
      if (f.bias == nullptr || k > 0) continue;
      const PackSource<Real> bias{static_cast<const Real*>(f.bias), f.columns, 0, 1, 1, 0, 0, 1, 1};
      pack_block<1, Columns::kVectors>(bias, own, bias_of(thread, some.begin, block));
    }
  }

  // Some rows of a block of B, from wherever they lie.
  void pack_rows(const RightFactor& f, int64_t block, Range rows, Real* to) const {
    int64_t begin = 0;
    for (const MatrixRows& run : f.b) {
      const Range own{std::max(rows.begin, begin), std::min(rows.end, begin + run.count)};
      if (own.begin < own.end) {
        const auto* data = static_cast<const Real*>(run.view.data);
        const int64_t size = data == nullptr ? 0 : own.size();
        if (data != nullptr) data += (own.begin - begin) * run.view.row_stride;
        const PackSource<Real> source{data, f.columns, 0, run.view.column_stride, 1, 0, run.view.row_stride,
                                      size, own.size()};
        pack_block<1, Columns::kVectors>(source, block, to + (own.begin - rows.begin) * Columns::kUnits);
      }
      begin += run.count;
    }
  }

  // A panel of A times a panel of B.
  void multiply(int thread, Range rows, Range some, int64_t k, int64_t depth) const {
    if (factors_.empty()) return;
    const Real* a = a_at(rows.begin, k);
    int64_t a_stride = p_.a.row_stride;
    if (p_.a.column_stride != 1) {
      Real* packed = a_ + thread * kRows * kStride;
      for (int64_t i = 0; i < depth; i += kLanes) {
        const int count = static_cast<int>(depth - i < kLanes ? depth - i : kLanes);
        pack_vector(a + i * p_.a.column_stride, p_.a.column_stride, count, p_.a.row_stride, rows.size(), packed + i,
                    kStride);
      }
      a = packed, a_stride = kStride;
    }
    for_each_factor(some, [&](const Factor& factor, Range blocks) {
      const RightFactor& f = *factor.given;
      const bool first = k == 0 && !f.add;
      const int64_t column = (blocks.begin - factor.blocks.begin) * Columns::kUnits;
      const BatchRows<Real> c{static_cast<Real*>(f.c) + rows.begin * f.columns + column, f.columns};
      const Product<Real> product{b_of(thread, some.begin, blocks.begin, depth),
                                  f.bias != nullptr && k == 0 ? bias_of(thread, some.begin, blocks.begin) : nullptr,
                                  depth * Columns::kUnits,
                                  a,
                                  a_stride,
                                  depth,
                                  kTerms};
      const auto announce = [&](const auto& tile) {
        prefetch_tile<Columns::kVectors, true>(tile, 1, 0, c);
        return true;
      };
      const auto update = [&](const auto& tile) {
        for_each_vector<Columns::kVectors>(tile, f.columns - column, kNoRow,
                                           [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
                                             auto value = column_of(tile, where);
                                             if (!first) value = value + load_rows(where, c);
                                             store_rows(where, value, c);
                                           });
      };
      for_each_tile<Columns::kColumns>(product, {0, rows.size()}, {0, blocks.size()}, announce, update);
    });
  }

  // Of a panel, which comes near on the way.
  void sum_rows(Range rows, int64_t k, int64_t depth) const {
    int64_t row = rows.begin;
    for (; row + kSums * kLanes <= rows.end; row += kSums * kLanes) {
      sum_vectors<kSums>(row, WholeVector<Real>{}, k, depth);
    }
    for (; row < rows.end; row += kLanes) {
      visit_lanes<Real>(rows.end - row, [&](auto count) { sum_vectors<1>(row, count, k, depth); });
    }
  }

  // Chunks of terms, then their sums, as the products do.
  template <int Vectors, class Count>
  void sum_vectors(int64_t row, Count count, int64_t k, int64_t depth) const {
    const bool add = k > 0 || p_.add_sums;
    V totals[Vectors];
    for (int i = 0; i < Vectors; ++i) {
      totals[i] = add ? load<Real>(static_cast<const Real*>(p_.sums[0]) + row + i * kLanes, count) : V(0);
    }
    const Real* a = a_at(row, k);
    for (int64_t begin = 0; begin < depth; begin += kChunk) {
      V parts[Vectors];
      for (V& part : parts) part = V(0);
      const int64_t end = std::min(begin + kChunk, depth);
      for (int64_t term = begin; term < end; ++term) {
        const Real* from = a + term * p_.a.column_stride;
        for (int i = 0; i < Vectors; ++i) parts[i] = parts[i] + load<Real>(from + i * kLanes, count);
      }
      for (int i = 0; i < Vectors; ++i) totals[i] = totals[i] + parts[i];
    }
    for (void* sums : p_.sums) {
      for (int i = 0; i < Vectors; ++i) store<Real>(static_cast<Real*>(sums) + row + i * kLanes, totals[i], count);
    }
  }

  const MatrixProduct& p_;
  int threads_;
  std::vector<Factor> factors_;
  int64_t blocks_ = 0;  // of all factors
  bool share_rows_;
  int64_t b_size_;
  Real* b_;            // [threads][blocks][depth][columns][lanes]
  Real* a_ = nullptr;  // [threads][kRows][kStride]
  Real* bias_;         // [threads][blocks][columns][lanes]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
