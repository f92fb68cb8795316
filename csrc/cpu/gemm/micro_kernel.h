// The recurrent product: a register tile of rows times a block of packed weights, summed in one fixed order.
//
// Packed weights are blocks of a few units; a block is [reduction][columns][lanes], so that one reduction index of all
// the block's gates is one run of vectors. A tile computes `Rows` rows of `Blocks` blocks at once; which shape is used
// depends on how many rows there are, but every output is the same sum in the same order whatever the shape: chunks of
// `chunk` terms, summed one after the other from zero, added to the bias in turn. So results do not depend on the batch
// a row is in, or on the number of threads; and the chunks halve the rounding error of a single long sum.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/range.h"
#include "cpu/simd/prefetch.h"
#include "cpu/simd/terms.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

inline constexpr int64_t kChunk = 64;

// Vectors of units in one block: enough columns to keep the FMA units busy where a unit has a single column.
constexpr int vectors_per_block(int gates) { return gates == 1 ? 2 : 1; }

// Rows of a tile: accumulators, one reduction index of weights or of rows, and one more must fit the registers.
constexpr int max_tile_rows(int columns) {
  int rows = 1;
  while (rows < 8 && (rows + 1) * columns + (rows + 1 < columns ? rows + 1 : columns) + 1 <= kVectorRegisters) ++rows;
  return rows;
}

// Blocks of a tile: at least 8 independent sums hide the latency of an FMA (4 cycles, 2 per cycle).
constexpr int max_tile_blocks(int columns, int rows) {
  const int sums = rows * columns;
  return sums >= 8 ? 1 : (8 + sums - 1) / sums;
}

// The same value, of which the compiler knows nothing before this point of the program: it cannot move it to another.
template <class V>
FUSED_RNN_INLINE V in_register(V x) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(x.parts[0]));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(x.parts[0]));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(x.parts[0]));
#endif
  return x;
}

// What the tiles of one product have in common.
struct TileStrides {
  int64_t blocks, rows;   // elements between blocks of weights, and between rows of the left operand
  int64_t length, chunk;  // in multiplications, which may take several terms each; the length is not 0
  int64_t planes;         // as in Gemm
  Prefetch* prefetch;     // each chunk issues a part of it; may be null
};

// tile[row][block][column] = start[block][column] + the product; each element is one vector.
template <class W, int Columns, int Rows, int Blocks>
[[gnu::noinline]] void micro_kernel(const TileStrides& strides, const W* weights, const typename Terms<W>::Row* rows,
                                    const typename Terms<W>::Real* start, typename Terms<W>::Real* tile) {
  using Multiplied = Terms<W>;
  using Real = typename Multiplied::Real;
  using V = Vec<Real>;
  constexpr int kLanes = V::kLanes, kSums = Blocks * Columns;
  const int64_t block_stride = strides.blocks, row_stride = strides.rows, length = strides.length;
  const int64_t chunk = strides.chunk;
  const Real* total = start;  // of the chunks before
  int64_t total_stride = 0;
  for (int64_t begin = 0; begin < length; begin += chunk) {
    const int64_t end = begin + chunk < length ? begin + chunk : length;
    if (strides.prefetch != nullptr) strides.prefetch->issue();
    V sums[Rows][kSums];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int s = 0; s < kSums; ++s) {
        sums[r][s] = Multiplied::kScaled ? V::load(start + 2 * strides.planes + s * kLanes) : V(0);
      }
    }
    for (int64_t k = begin; k < end; ++k) {
      const auto weight = [&](int s) FUSED_RNN_INLINE_LAMBDA {
        return Multiplied::weight(weights + (s / Columns) * block_stride + (k * Columns + s % Columns) * kLanes);
      };
      const auto value = [&](int r) FUSED_RNN_INLINE_LAMBDA {
        return Multiplied::value(rows + r * row_stride + k * Multiplied::kCount);
      };
      // The fewer operands stay in registers while the others pass by one at a time; the compiler is told where each is
      // due, since it would load all of them first and then has no registers left for the sums.
      if constexpr (Rows <= kSums) {
        V values[Rows];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) values[r] = value(r);
#pragma GCC unroll 16
        for (int s = 0; s < kSums; ++s) {
          const V passing = in_register(weight(s));
#pragma GCC unroll 16
          for (int r = 0; r < Rows; ++r) sums[r][s] = Multiplied::multiply_add(passing, values[r], sums[r][s]);
        }
      } else {
        V held[kSums];
#pragma GCC unroll 16
        for (int s = 0; s < kSums; ++s) held[s] = weight(s);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
          const V passing = in_register(value(r));
#pragma GCC unroll 16
          for (int s = 0; s < kSums; ++s) sums[r][s] = Multiplied::multiply_add(held[s], passing, sums[r][s]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (int s = 0; s < kSums; ++s) {
        const V before = V::load(total + r * total_stride + s * kLanes);
        V after;
        if constexpr (Multiplied::kScaled) {
          Real of_row;
          std::memcpy(&of_row, rows + r * row_stride + length * Multiplied::kCount, sizeof(of_row));
          after = Multiplied::scaled(sums[r][s], V::load(start + strides.planes + s * kLanes) * V(of_row), before);
        } else {
          after = before + sums[r][s];
        }
        after.store(tile + (r * kSums + s) * kLanes);
      }
    }
    total = tile, total_stride = kSums * kLanes;
  }
}

// The tile functions for one number of columns, by rows and blocks.
template <class W, int Columns>
struct MicroKernels {
  using Real = typename Terms<W>::Real;
  using Function = void (*)(const TileStrides&, const W*, const typename Terms<W>::Row*, const Real*, Real*);
  static constexpr int kRows = max_tile_rows(Columns), kBlocks = max_tile_blocks(Columns, 1);
  static constexpr int kMostValues =  // of a tile
      (kRows * Columns > 8 + Columns ? kRows * Columns : 8 + Columns) * Vec<Real>::kLanes;

  static Function select(int rows, int blocks) { return kTable.functions[rows - 1][blocks - 1]; }

 private:
  struct Table {
    Function functions[kRows][kBlocks];
  };
  template <int Rows, int... BlockIndex>
  static constexpr void fill_row(Table& table, std::integer_sequence<int, BlockIndex...>) {
    // Shapes with more blocks than their rows call for are never asked for.
    ((table.functions[Rows - 1][BlockIndex] = micro_kernel < W, Columns, Rows,
      BlockIndex + 1 <= max_tile_blocks(Columns, Rows) ? BlockIndex + 1 : 1 >),
     ...);
  }
  template <int... RowIndex>
  static constexpr Table fill(std::integer_sequence<int, RowIndex...>) {
    Table table{};
    (fill_row<RowIndex + 1>(table, std::make_integer_sequence<int, kBlocks>{}), ...);
    return table;
  }
  static constexpr Table kTable = fill(std::make_integer_sequence<int, kRows>{});
};

// One product that a schedule repeats each step: packed weights of all blocks and an optional packed bias.
template <class W>
struct Gemm {
  using Real = typename Terms<W>::Real;
  const W* weights;                    // [blocks][reduction][columns][lanes]
  const Real* bias;                    // [blocks][columns][lanes], or null: zeros, but where weights are scaled
  int64_t block_stride;                // elements between blocks of weights
  const typename Terms<W>::Row* rows;  // [rows][row_stride], the left operand; filled up to whole multiplications
  int64_t row_stride;
  int64_t length;                // terms of the reduction, filled up to whole multiplications; 0 leaves the bias alone
  int64_t chunk = kChunk;        // terms that are summed from zero
  Prefetch* prefetch = nullptr;  // what to ask the memory for meanwhile, a part for each chunk
  int64_t planes = 0;            // from each bias to the scale of its weights, and from there to their correction

  // The chunk of a product that is not empty: sums that are scaled are exact, and so have a single one.
  int64_t used_chunk() const { return Terms<W>::kScaled ? length : chunk; }
};

// Where an update finds its results.
template <class Real, int Columns>
struct Tile {
  using Scalar = Real;
  const Real* values;  // [rows][blocks][columns][lanes]
  int64_t row, block;  // of the first
  int rows, blocks;

  // `column` counts on through the blocks.
  FUSED_RNN_INLINE const Real* at(int64_t r, int64_t column) const {
    return values + (r * blocks * Columns + column) * Vec<Real>::kLanes;
  }
};

// How a product of `Columns` columns is divided into tiles and these into chunks, for float or double alike.
struct TileShape {
  int rows, blocks;  // the most of a tile
};
template <int Columns>
inline TileShape tile_shape(Range rows) {
  constexpr int kRows = max_tile_rows(Columns);
  if (rows.size() == 1) return {1, max_tile_blocks(Columns, 1)};  // constants, for single steps: see part_of
  const int64_t least_tiles = (rows.size() + kRows - 1) / kRows;
  const int most_rows = static_cast<int>((rows.size() + least_tiles - 1) / least_tiles);  // tiles nearly equal
  return {most_rows, max_tile_blocks(Columns, most_rows)};
}
template <int Columns, class W>
inline int64_t chunk_count(const Gemm<W>& product, Range rows, Range blocks) {
  if (rows.size() == 0) return 0;
  const TileShape shape = tile_shape<Columns>(rows);
  const int64_t tiles =
      (rows.size() + shape.rows - 1) / shape.rows * ((blocks.size() + shape.blocks - 1) / shape.blocks);
  if (product.length == 0) return 0;
  return tiles * ((product.length + product.used_chunk() - 1) / product.used_chunk());
}

template <class W>
FUSED_RNN_INLINE TileStrides strides_of(const Gemm<W>& product) {
  return {product.block_stride,
          product.row_stride,
          multiplications<W>(product.length),
          multiplications<W>(product.used_chunk()),
          product.planes,
          product.prefetch};
}

// For for_each_tile: its results lie in memory of its own, until the next tile.
inline constexpr auto kNoPlace = [](int64_t /*row*/, int64_t /*block*/, int /*blocks*/) { return nullptr; };

// Computes the product for a rectangle of rows and blocks tile by tile, and hands each tile to `update`. Blocks are the
// outer loop: a block's weights are read from memory once, and its tiles of rows find them in L1. `prepare` is called
// with each tile before its GEMM: it prefetches what the update will touch, and says whether the GEMM is of use; where
// it is not, the update finds the bias alone. A schedule that repeats a GEMM has every other one `backwards`, from the
// last block to the first: it begins with the weights that were read last and are still in the caches. `place` may name
// the memory of a tile's results by its first row, first block and number of blocks.
template <int Columns, class W, class Prepare, class Update, class Place = decltype(kNoPlace)>
FUSED_RNN_INLINE void for_each_tile(const Gemm<W>& product, Range rows, Range blocks, const Prepare& prepare,
                                    const Update& update, bool backwards = false, const Place& place = kNoPlace) {
  using Real = typename Terms<W>::Real;
  using Tiles = MicroKernels<W, Columns>;
  constexpr int kLanes = Vec<Real>::kLanes;
  alignas(64) static constexpr Real kZeros[Tiles::kMostValues] = {};
  alignas(64) Real own[Tiles::kMostValues];
  if (rows.size() == 0) return;
  const auto [most_rows, most_blocks] = tile_shape<Columns>(rows);
  const int64_t groups = (blocks.size() + most_blocks - 1) / most_blocks;
  const TileStrides strides = strides_of(product);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t block = blocks.begin + (backwards ? groups - 1 - group : group) * most_blocks;
    const int block_count = static_cast<int>(blocks.end - block < most_blocks ? blocks.end - block : most_blocks);
    const int sums = block_count * Columns;
    for (int64_t row = rows.begin; row < rows.end; row += most_rows) {
      const int row_count = static_cast<int>(rows.end - row < most_rows ? rows.end - row : most_rows);
      Real* const placed = place(row, block, block_count);
      Real* const values = placed != nullptr ? placed : own;
      const Tile<Real, Columns> tile{values, row, block, row_count, block_count};
      const Real* start = product.bias != nullptr ? product.bias + block * Columns * kLanes : kZeros;
      if (prepare(tile) && strides.length > 0) {
        Tiles::select(row_count, block_count)(strides, product.weights + block * product.block_stride,
                                              product.rows + row * product.row_stride, start, values);
      } else {
        for (int r = 0; r < row_count; ++r) std::copy_n(start, sums * kLanes, values + r * sums * kLanes);
      }
      update(tile);
    }
  }
}

// The same for the first `rows` rows and any product that is not empty, in the steps of a stream: for a single row
// without the loops over rows, which would cost as much as a small product. The results of a single row lie in
// `place`, [blocks][columns][lanes], if it is not null.
template <int Columns, class W, class Update>
FUSED_RNN_INLINE void for_each_step_tile(const Gemm<W>& product, int64_t rows, Range blocks,
                                         typename Terms<W>::Real* place, const Update& update) {
  using Real = typename Terms<W>::Real;
  using Tiles = MicroKernels<W, Columns>;
  constexpr int kBlock = Columns * Vec<Real>::kLanes;
  if (rows != 1 || product.length == 0) {
    for_each_tile<Columns>(product, {0, rows}, blocks, [](const auto& /*tile*/) { return true; }, update);
    return;
  }
  alignas(64) Real own[Tiles::kBlocks * kBlock];
  const TileStrides strides = strides_of(product);
  for (int64_t block = blocks.begin; block < blocks.end; block += Tiles::kBlocks) {
    const int count = static_cast<int>(blocks.end - block < Tiles::kBlocks ? blocks.end - block : Tiles::kBlocks);
    Real* const values = place != nullptr ? place + block * kBlock : own;
    Tiles::select(1, count)(strides, product.weights + block * product.block_stride, product.rows,
                            product.bias + block * kBlock, values);
    update(Tile<Real, Columns>{values, 0, block, 1, count});
  }
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
