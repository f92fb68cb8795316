// The product of two matrices, for what surrounds a recurrence: input projections and the gradients of weights.
//
// The same packed blocks and register tiles as the recurrent product, over panels that stay in the caches: a block of B
// [kDepth, 32 columns] in L1, the rows of A [kRows, kDepth] in L2. A is read where it lies if its rows are contiguous,
// else it is transposed on the way. Threads share the longer side of C and meet nowhere.
#pragma once

#include <algorithm>

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
  static constexpr int64_t kDepth = 512;               // of a panel, along the reduction
  static constexpr int64_t kRows = 128;                // of a panel of A
  static constexpr int64_t kStride = kDepth + kLanes;  // of its rows, which so lie in different sets of the caches
  static constexpr int64_t kBlocks = 1024 / 32;        // of a panel of B
  static constexpr int64_t kTerms = 2 * kChunk;  // of a sum: there is no step after it that would carry its error on

 public:
  MatrixMultiplier(const MatrixProduct& product, int threads, Arena& arena) : p_(product), threads_(threads) {
    const int64_t blocks = Columns::count(p_.columns);
    share_rows_ = p_.rows >= p_.columns;
    b_size_ = kDepth * Columns::kUnits * (blocks < kBlocks ? blocks : kBlocks);
    b_ = arena.take<Real>(threads * b_size_);
    if (p_.a.column_stride != 1) a_ = arena.take<Real>(threads * kRows * kStride);
    bias_ = arena.take<Real>(threads * kBlocks * Columns::kUnits);
  }

  void run(int thread) const {
    const Range blocks{0, Columns::count(p_.columns)};
    const Range own_rows = share_rows_ ? part_of({0, p_.rows}, threads_, thread) : Range{0, p_.rows};
    const Range own_blocks = share_rows_ ? blocks : part_of(blocks, threads_, thread);
    if (own_rows.size() == 0) return;
    for (int64_t first = own_blocks.begin; first < own_blocks.end; first += kBlocks) {
      const Range some{first, first + kBlocks < own_blocks.end ? first + kBlocks : own_blocks.end};
      int64_t k = 0;
      do {  // once, too, where the reduction is empty
        const int64_t depth = p_.depth - k < kDepth ? p_.depth - k : kDepth;
        pack_b(thread, some, k, depth);
        for (int64_t row = own_rows.begin; row < own_rows.end; row += kRows) {
          const Range rows{row, row + kRows < own_rows.end ? row + kRows : own_rows.end};
          multiply(thread, rows, some, k, depth);
        }
        k += kDepth;
      } while (k < p_.depth);
    }
  }

 private:
  Real* b_of(int thread) const { return b_ + thread * b_size_; }
  Real* bias_of(int thread) const { return bias_ + thread * kBlocks * Columns::kUnits; }

  void pack_b(int thread, Range blocks, int64_t k, int64_t depth) const {
    const auto* data = static_cast<const Real*>(p_.b.data) + k * p_.b.row_stride;
    const PackSource<Real> source{data, p_.columns, 0, p_.b.column_stride, 1, 0, p_.b.row_stride, depth, depth};
    const PackSource<Real> bias{static_cast<const Real*>(p_.bias), p_.columns, 0, 1, 1, 0, 0, 1, 1};
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t at = (block - blocks.begin) * Columns::kUnits;
      pack_block<1, Columns::kVectors>(source, block, b_of(thread) + at * depth);
      if (p_.bias != nullptr && k == 0) pack_block<1, Columns::kVectors>(bias, block, bias_of(thread) + at);
    }
  }

  void multiply(int thread, Range rows, Range blocks, int64_t k, int64_t depth) const {
    const bool first = k == 0 && !p_.add;
    const auto* a = static_cast<const Real*>(p_.a.data) + rows.begin * p_.a.row_stride + k * p_.a.column_stride;
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
    Real* c = static_cast<Real*>(p_.c) + rows.begin * p_.columns + blocks.begin * Columns::kUnits;
    const int64_t columns = p_.columns - blocks.begin * Columns::kUnits;
    const Real* bias = p_.bias != nullptr && k == 0 ? bias_of(thread) : nullptr;
    const Product<Real> product{b_of(thread), bias, depth * Columns::kUnits, a, a_stride, depth, kTerms};
    const auto row_of = [&](int64_t row) FUSED_RNN_INLINE_LAMBDA { return c + row * p_.columns; };
    const auto announce = [&](const auto& tile) {
      prefetch_tile<Columns::kVectors, true>(tile, 1, 0, row_of);
      return true;
    };
    const auto update = [&](const auto& tile) {
      for_each_vector<Columns::kVectors>(tile, columns, kNoRow, [&](const auto& where) FUSED_RNN_INLINE_LAMBDA {
        auto value = column_of(tile, where);
        if (!first) value = value + load_rows<Real>(where, row_of);
        store_rows<Real>(where, value, row_of);
      });
    };
    for_each_tile<Columns::kColumns>(product, {0, rows.size()}, {0, blocks.size()}, announce, update);
  }

  const MatrixProduct& p_;
  int threads_;
  bool share_rows_;
  int64_t b_size_;
  Real* b_;            // [threads][blocks][depth][columns][lanes]
  Real* a_ = nullptr;  // [threads][kRows][kStride]
  Real* bias_;         // [threads][blocks][columns][lanes]
};

// Sums of columns: chunks of rows, then their sums, as the products do.
template <class Real>
class ColumnSummer {
  using V = Vec<Real>;

 public:
  ColumnSummer(const ColumnSums& sums, int threads) : p_(sums), threads_(threads) {}

  void run(int thread) const {
    const Range own = part_of({0, (p_.columns + V::kLanes - 1) / V::kLanes}, threads_, thread);
    for (int64_t i = own.begin; i < own.end; ++i) {
      visit_lanes<Real>(p_.columns - i * V::kLanes, [&](auto count) { sum(i * V::kLanes, count); });
    }
  }

 private:
  template <class Count>
  void sum(int64_t column, Count count) const {
    const Real* a = static_cast<const Real*>(p_.a.data) + column;
    Real* out = static_cast<Real*>(p_.out) + column;
    V total = p_.add ? load<Real>(out, count) : V(0);
    for (int64_t begin = 0; begin < p_.rows; begin += kChunk) {
      V part(0);
      for (int64_t row = begin; row < std::min(begin + kChunk, p_.rows); ++row) {
        part = part + load<Real>(a + row * p_.a.row_stride, count);
      }
      total = total + part;
    }
    store<Real>(out, total, count);
  }

  const ColumnSums& p_;
  int threads_;
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
