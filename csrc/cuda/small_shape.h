// The shape of a launch of small_block: a block for a few rows of the batch in one head of one direction, four or eight
// lanes for a unit. How its GEMM goes depends on the type: small_lanes.cuh for exact float32, small_tiles.cuh for the
// others.
#pragma once

#include <cstddef>

#include "core/platform.h"

namespace fused_rnn::cuda {

constexpr int kSmallRows[] = {1, 2, 4, 8};
constexpr int kTileRows = 4;  // that an mma takes

// That share the hidden indices of a unit, or its rows. Eight where each has a row of its own: with fewer rows they
// would repeat the update.
constexpr int kUnitLanes = 4;
FUSED_RNN_HD constexpr int unit_lanes(bool exact_float32, int rows) {
  return exact_float32 && rows > kUnitLanes ? rows : kUnitLanes;
}

// Of a block, at most. One of 64 units has 255 registers a lane, one of 128 has 128, in which what demands much spills:
// exact float32, and cells of many values (gates, states, weights of a unit), above all with eight rows, in TF32 or
// with layer norms.
FUSED_RNN_HD constexpr int most_small_units(int element_bytes, bool exact_float32, bool normalized, int values,
                                            int rows) {
  constexpr int kMostWithNorms = 2;
  const int most_values = rows > kTileRows ? (element_bytes == 4 ? 3 : 5) : (element_bytes == 4 ? 6 : 7);
  return exact_float32 || values > (normalized ? kMostWithNorms : most_values) ? 64 : 128;
}
// Whether there is a kernel for blocks of so many rows. One with layer norms has one row a lane.
FUSED_RNN_HD constexpr bool has_small_rows(bool exact_float32, bool normalized, int rows) {
  return !normalized || (rows <= kTileRows && !(exact_float32 && rows == 2));
}

struct SmallShape {
  int time_steps, batch, hidden_size;
  int rows;        // of a block: one of kSmallRows
  int row_groups;  // blocks that share the batch of one head of one direction
  int heads;       // of one direction
  int lanes;       // of a unit

  // Whole warps.
  FUSED_RNN_HD constexpr int units() const { return (hidden_size + 7) / 8 * 8; }
  FUSED_RNN_HD constexpr int threads() const { return lanes * units(); }
};

// Exact float32.

constexpr int kSmallChunk = 4;  // floats that a lane reads at once

// Units of which a lane multiplies the same elements of the vector, so that backward, whose vector has one value for
// each gate, reads as few of them as forward.
FUSED_RNN_HD constexpr int tile_units(int vectors) { return vectors >= 4 ? 4 : (vectors >= 2 ? 2 : 1); }

// Chunks of the vector of one row that each of a tile's lanes multiplies.
FUSED_RNN_HD constexpr int vector_chunks(int vectors, int hidden_size, int lanes) {
  const int together = kSmallChunk * lanes * tile_units(vectors);
  return (vectors * hidden_size + together - 1) / together;
}
// Elements of that vector, the last of which are zeros.
FUSED_RNN_HD constexpr int vector_width(int vectors, int hidden_size, int lanes) {
  return vector_chunks(vectors, hidden_size, lanes) * kSmallChunk * lanes * tile_units(vectors);
}

// The types that use mma. A warp multiplies eight units and four rows at once: the first eight rows of a tile are the
// units' weights for one half of the indices, the last eight those for the other half, and each row of the batch is two
// columns, one for each half. A column is read in chunks of 16 bytes a lane, two mma each.

constexpr int kChunkBytes = 64;    // of a column, by four lanes
constexpr int kChunkTiles = 2;     // mma for each result
constexpr int kSlotBytes = 32;     // of a lane: its weights for a chunk and result
constexpr int kHeldWords = 64;     // of weights in a lane's registers
constexpr int kRowSkewBytes = 32;  // so that four rows of eight units are in banks of their own

// Chunks of a column that are multiplied without a branch between them: their number is a multiple.
FUSED_RNN_HD constexpr int chunk_group(int vectors) { return tile_units(vectors); }

struct SmallTiles {
  int half_units;               // of the vector's units, eight in turn belong to a half
  int chunks;                   // of a column
  int held;                     // of them, those whose weights are in registers
  int half_stride, row_stride;  // elements from one column of a row to the other, from one row to the next
  int slots;                    // of a lane, in shared memory
  size_t vector_bytes;          // of one buffer
};

// Results: of a unit. Where all chunks fit the registers, one slot is needed on the way there.
FUSED_RNN_HD constexpr SmallTiles small_tiles(int element_bytes, int vectors, int results, int hidden_size, int rows) {
  const int of_chunk = kChunkBytes / element_bytes, row_tiles = (rows + kTileRows - 1) / kTileRows;
  SmallTiles tiles{};
  tiles.half_units = (hidden_size + 15) / 16 * 8;
  const int group = of_chunk * chunk_group(vectors);
  tiles.chunks = (vectors * tiles.half_units + group - 1) / group * chunk_group(vectors);
  tiles.held = kHeldWords / (4 * kChunkTiles * results);
  if (tiles.held > tiles.chunks) tiles.held = tiles.chunks;
  tiles.half_stride = of_chunk * (tiles.chunks | 1);  // the columns that eight lanes read are half a row of banks apart
  tiles.row_stride = 2 * tiles.half_stride + kRowSkewBytes / element_bytes;
  tiles.slots = tiles.chunks > tiles.held ? (tiles.chunks - tiles.held) * results : 1;
  tiles.vector_bytes = static_cast<size_t>(row_tiles * kTileRows * tiles.row_stride * element_bytes);
  return tiles;
}

// Of a block: two vectors for each row and the weights that are not in registers.
FUSED_RNN_HD constexpr size_t small_shared_bytes(const SmallShape& shape, bool exact_float32, int element_bytes,
                                                 int vectors, int results) {
  if (exact_float32) {
    return sizeof(float) * 2 * static_cast<size_t>(shape.rows * vector_width(vectors, shape.hidden_size, shape.lanes));
  }
  const SmallTiles tiles = small_tiles(element_bytes, vectors, results, shape.hidden_size, shape.rows);
  return 2 * tiles.vector_bytes + static_cast<size_t>(shape.threads() * tiles.slots * kSlotBytes);
}

// Layer norms: what warps leave for others where the units of a row meet, behind what small_shared_bytes has. Sums and
// squares of each norm take a word of 16 bytes; backward's gradients have two sums more.
struct SmallNormMap {
  size_t totals, total;

  FUSED_RNN_HD static constexpr SmallNormMap of(int norms, int most_units, bool backward) {
    const auto parts = static_cast<size_t>(norms * (most_units / 8) * kTileRows);
    return {16 * parts, (backward ? 24 : 16) * parts};
  }
};

// Blocks for whose registers a multiprocessor has room: as the kernels are compiled, for one of the most units.
constexpr int small_blocks_at_once(const SmallShape& shape, int most_units) { return most_units / shape.units(); }

}  // namespace fused_rnn::cuda
