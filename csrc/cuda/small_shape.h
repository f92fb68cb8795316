// The shape of a launch of small_block: a block for a few rows of the batch in one head of one direction, four lanes
// for a unit.
#pragma once

#include <cstddef>

#include "core/platform.h"

namespace fused_rnn::cuda {

constexpr int kUnitLanes = 4;        // that share the hidden indices of a unit, and its rows
constexpr int kMostSmallUnits = 64;  // whose weights the registers of a block hold
constexpr int kMostSmallRows = 4;    // of a block; else it has one
constexpr int kSmallChunk = 4;       // elements that a lane reads at once

struct SmallShape {
  int time_steps, batch, hidden_size;
  int rows;        // of a block: 1 or kMostSmallRows
  int row_groups;  // blocks that share the batch of one head of one direction
  int heads;       // of one direction

  // Whole warps.
  FUSED_RNN_HD constexpr int units() const { return (hidden_size + 7) / 8 * 8; }
  FUSED_RNN_HD constexpr int threads() const { return kUnitLanes * units(); }
};

// Units of which a lane multiplies the same elements of the vector, so that backward, whose vector has one value for
// each gate, reads as few of them as forward.
FUSED_RNN_HD constexpr int tile_units(int vectors) { return vectors >= 4 ? 4 : (vectors >= 2 ? 2 : 1); }

// Chunks of the vector of one row that each of a tile's lanes multiplies.
FUSED_RNN_HD constexpr int vector_chunks(int vectors, int hidden_size) {
  const int together = kSmallChunk * kUnitLanes * tile_units(vectors);
  return (vectors * hidden_size + together - 1) / together;
}
// Elements of that vector, the last of which are zeros.
FUSED_RNN_HD constexpr int vector_width(int vectors, int hidden_size) {
  return vector_chunks(vectors, hidden_size) * kSmallChunk * kUnitLanes * tile_units(vectors);
}

// Blocks for whose registers, more than 128 a lane, a multiprocessor has room.
constexpr int small_blocks_at_once(const SmallShape& shape) { return 256 / shape.threads(); }

// Of a block: two vectors for each row.
FUSED_RNN_HD constexpr size_t small_shared_bytes(const SmallShape& shape, int vectors) {
  return sizeof(float) * 2 * static_cast<size_t>(shape.rows * vector_width(vectors, shape.hidden_size));
}

}  // namespace fused_rnn::cuda
