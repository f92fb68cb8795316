// The shape of a persistent launch: how the units, the hidden indices and the batch are divided, and what it needs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/platform.h"

namespace fused_rnn::cuda {

constexpr int kPersistentWarps = 8;  // units() knows it, too

// Counts the blocks of a group (arrive_blocks). In global memory, zero before the launch, each on a line of its own.
struct alignas(128) BlockBarrier {
  uint32_t arrived;
};

// Units of a tile of weights (tile.cuh), whose other side are 32 hidden indices.
FUSED_RNN_HD constexpr int weight_tile_units(bool exact_float32) { return exact_float32 ? 8 : 16; }

// Tiles of weights that a warp keeps in registers: as many as leave room for the rest of a kernel's 255 registers.
FUSED_RNN_HD constexpr int register_tiles(int gates, size_t element_bytes, bool exact_float32) {
  constexpr int kWords = 128;  // a lane
  const int tile_words = weight_tile_units(exact_float32) * static_cast<int>(element_bytes) / 4 * gates;
  return kWords / tile_words;
}

// Gates that read h, at most: with more some kernel spills (nvcc 13.0, sm_80 and sm_90a: with 5 in exact float32, with
// 12 in 16 bits), and TF32 has no register for a tile of nine.
FUSED_RNN_HD constexpr int most_gates(bool exact_float32) { return exact_float32 ? 4 : 8; }

// Whether the 16 rows of a tile are the four gates of four units, so that a warp has all gates of a unit and seldom
// shares its sums (tile.cuh). The units of a norm are those of one row of a tile.
FUSED_RNN_HD constexpr bool interleaves_gates(int results, bool exact_float32, bool normalized) {
  return results == 4 && !exact_float32 && !normalized;
}

// Where sums are scattered: units of a block; blocks whose parts are added at once; tiles of 16 units a warp, at most.
constexpr int kScatterUnits = 32, kScatterStride = 4;
FUSED_RNN_HD constexpr int scatter_tiles(int gates, size_t element_bytes) {
  constexpr int kOfCluster = 4;  // of 16 blocks
  const int held = register_tiles(gates, element_bytes, false);
  return held < kOfCluster ? held : kOfCluster;
}

struct PersistentShape {
  int time_steps, batch, hidden_size;
  int gates;  // that read h
  int element_bytes;
  int tile_units;
  int register_tiles;  // what the function above says
  bool interleaved;    // what interleaves_gates says
  int splits;          // parts of the hidden indices, of which the sums of a unit meet: 1, 2, 4 or 8
  int column_tiles;    // of eight rows of the batch each, one after another in a step
  int ranks;           // blocks of a group, which together own all units
  int rows;            // of a group, at most those of its column tiles
  int row_groups;      // groups that share the batch of one head of one direction
  int heads;           // of one direction
  int first_group;     // of this launch
  bool scatters;       // backward sends sums and not gradients (scatter.cuh)

  FUSED_RNN_HD constexpr int columns() const { return 8 * column_tiles; }
  FUSED_RNN_HD constexpr int splits_log2() const { return splits == 1 ? 0 : (splits == 2 ? 1 : (splits == 4 ? 2 : 3)); }
  FUSED_RNN_HD constexpr int units_log2() const { return (tile_units == 16 ? 7 : 6) - splits_log2(); }
  FUSED_RNN_HD constexpr int units() const { return 1 << units_log2(); }
  FUSED_RNN_HD constexpr int hidden_tiles() const { return (hidden_size + 31) / 32; }
  // Where gates are interleaved, all parts are as long.
  FUSED_RNN_HD constexpr int padded() const { return 32 * (interleaved ? splits * split_tiles() : hidden_tiles()); }
  // Indices of the vector that some block writes; the rest stays zero.
  FUSED_RNN_HD constexpr int covered() const { return ranks * units() < padded() ? ranks * units() : padded(); }
  FUSED_RNN_HD constexpr int split_tiles() const { return (hidden_tiles() + splits - 1) / splits; }
  // Warps that sum the same units, each some parts of the hidden indices.
  FUSED_RNN_HD constexpr int sharing() const { return interleaved ? (splits > 4 ? splits / 4 : 1) : splits; }
  FUSED_RNN_HD constexpr int parts_of_warp() const { return splits / sharing(); }
  FUSED_RNN_HD constexpr int units_of_warp() const { return tile_units / parts_of_warp(); }
  FUSED_RNN_HD constexpr int tiles_of(int split) const {
    const int rest = hidden_tiles() - split * split_tiles();
    return rest < 0 ? 0 : (rest < split_tiles() ? rest : split_tiles());
  }
  FUSED_RNN_HD constexpr int shared_tiles() const {
    return split_tiles() > register_tiles ? split_tiles() - register_tiles : 0;
  }
  // Places for tiles in shared memory; one is needed on the way to the registers.
  FUSED_RNN_HD constexpr int weight_slots() const { return shared_tiles() > 1 ? shared_tiles() : 1; }
  // Of a tile's four or two values a lane, those that a warp updates.
  FUSED_RNN_HD constexpr int owned_log2() const {
    const int values_log2 = tile_units == 16 ? 2 : 1;
    return values_log2 > splits_log2() ? values_log2 - splits_log2() : 0;
  }
  // Tiles of 16 units a warp where sums are scattered.
  FUSED_RNN_HD constexpr int scattered_tiles() const {
    return (ranks * (kScatterUnits / 16) + kPersistentWarps - 1) / kPersistentWarps;
  }
  // Updates of a thread in a step, one after another.
  FUSED_RNN_HD constexpr int turns() const { return column_tiles << owned_log2(); }
};

// What an exchange knows of the vector: `columns` rows of the batch, each with `vectors` x `padded` elements. It sends
// and receives `rows` of them: the rest is beyond the batch, and zero.
struct VectorLayout {
  int stride, columns, padded, covered, units, units_log2, ranks;
};

// Where everything lies in a block's shared memory, in bytes.
struct SharedMap {
  int stride;           // elements between two columns of a vector
  int vector_elements;  // of one buffer
  int next_sums;        // floats between the two sets of sums
  size_t vectors, stage, weights, sums, state, bias, barriers, total;
};

FUSED_RNN_HD constexpr SharedMap shared_map(const PersistentShape& shape, size_t element_bytes, int vectors,
                                            int results, int states, int buffers, int stages) {
  constexpr int kThreads = 32 * kPersistentWarps;
  SharedMap map{};
  const int width = vectors * shape.padded();
  // Columns half a row of banks apart: eight lanes that read 16 bytes each of two columns meet no conflict.
  const int line = 128 / static_cast<int>(element_bytes);
  map.stride = width + (width % line == 0 ? line / 2 : 0);
  map.vector_elements = shape.columns() * map.stride;
  const int sums = results * shape.units_of_warp() / 4 * kThreads;
  map.next_sums = shape.sharing() > 1 ? sums : 0;  // a warp that has its sums to itself can overwrite them
  map.stage = map.vectors + static_cast<size_t>(buffers) * map.vector_elements * element_bytes;
  map.weights = map.stage + static_cast<size_t>(stages) * shape.columns() * vectors * shape.units() * element_bytes;
  map.sums = map.weights +
             static_cast<size_t>(shape.weight_slots()) * shape.gates * shape.tile_units * element_bytes * kThreads;
  map.state = map.sums + static_cast<size_t>(sums + map.next_sums) * sizeof(float);
  map.bias = map.state + static_cast<size_t>(states) * shape.turns() * kThreads * sizeof(float);
  map.barriers = map.bias + static_cast<size_t>(results) * shape.units() * sizeof(float);
  map.total = map.barriers + 2 * sizeof(uint64_t);
  return map;
}

// The same where sums are scattered. Parts lie first, then gradients; weights pass through both on their way.
struct ScatterMap {
  int stride;          // elements between two columns of gradients
  int next_gradients;  // elements between the two buffers
  int parts_of_tile;   // floats of a tile of columns
  int next_parts;      // floats between the two buffers
  size_t gradients, states, barriers, total;
};

FUSED_RNN_HD constexpr ScatterMap scatter_map(const PersistentShape& shape, size_t element_bytes, int states) {
  constexpr int kThreads = 32 * kPersistentWarps;
  ScatterMap map{};
  const int width = shape.gates * kScatterUnits, line = 128 / static_cast<int>(element_bytes);
  map.stride = (width + line - 1) / line * line + line / 2;  // as in shared_map
  map.next_gradients = shape.columns() * map.stride;
  map.parts_of_tile = (shape.ranks + kScatterStride - 1) / kScatterStride * kScatterStride * kScatterUnits * 8;
  map.next_parts = shape.column_tiles * map.parts_of_tile;
  map.gradients = 2 * static_cast<size_t>(map.next_parts) * sizeof(float);
  const size_t cleared = map.gradients + 2 * static_cast<size_t>(map.next_gradients) * element_bytes;
  const size_t weights = static_cast<size_t>(16) * element_bytes * kThreads;  // a tile of each warp
  map.states = cleared > weights ? cleared : weights;
  map.barriers = map.states + static_cast<size_t>(states) * shape.column_tiles * kThreads * sizeof(float);
  map.total = map.barriers + 2 * sizeof(uint64_t);
  return map;
}

}  // namespace fused_rnn::cuda
