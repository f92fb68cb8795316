// The GEMM of the persistent schedules: a tile of weights, 16 or 8 units by 32 hidden indices, times 8 columns.
//
// A warp keeps its tiles in registers (or shared memory) for the whole sequence. In a tile, a lane holds the weights of
// one or two units for some hidden indices; which ones, TileLanes says. They are chosen so that a lane reads what it
// needs of a column in runs of 16 bytes: the order in which a GEMM sums is free, as long as weights and columns agree.
//
// Sums are spread in one way for all types: after finish, value i of a lane belongs to unit lane / 4 + 8 * (i / 2) of
// the tile, column 2 * (lane % 4) + i % 2.
#pragma once

#include "cuda/persistent_shape.h"
#include "cuda/vector_io.cuh"

namespace fused_rnn::cuda {

constexpr int kTileHidden = 32, kTileColumns = 8;

// What a lane holds of a tile, where a GEMM has kResults sums a unit. The tensor cores want 16 units.
template <class T, int kResults>
struct TileLanes {
  static constexpr int kUnits = weight_tile_units(false), kLaneUnits = 2, kHeld = 8;
  // The unit of which a lane holds the weights of a part.
  FUSED_RNN_DEVICE static int unit(int part) { return lane_index() / 4 + 8 * part; }
};
// Exact float32: eight units, so that more blocks share the weights. Where a unit has one sum, a lane takes two units:
// each element of the vector that it reads is then multiplied twice.
template <int kResults>
struct TileLanes<float, kResults> {
  static constexpr int kUnits = weight_tile_units(true), kLaneUnits = kResults == 1 ? 2 : 1, kHeld = 8 / kLaneUnits;
  FUSED_RNN_DEVICE static int unit(int part) { return lane_index() / (4 * kLaneUnits) * kLaneUnits + part; }
};

// A tile of the tensor cores whose rows are the four gates of four units. What lanes have summed lies lane by lane,
// four values each: two gates of a unit for two columns.
struct InterleavedTile {
  static constexpr int kUnits = 4;
  // Of a lane's weights of a part: their unit and gate. Which gate of two comes first alternates, so that the lanes
  // that read one gate meet no conflict of banks.
  FUSED_RNN_DEVICE static int unit() { return lane_index() / 4 % kUnits; }
  FUSED_RNN_DEVICE static int gate(int part) { return lane_index() / 16 * 2 + (part ^ lane_index() / 8 % 2); }
  // A lane updates the unit of its weights in one column; where the sum of a gate lies.
  FUSED_RNN_DEVICE static int column() { return lane_index() % 4 * 2 + lane_index() / 16; }
  FUSED_RNN_DEVICE static int place(int gate) {
    const int lane = lane_index(), first = lane / 16 + lane / 8 % 2 * 2;
    return lane % 16 * 4 + gate / 2 * 64 + (first ^ gate % 2 * 2);
  }
};

// The i-th of the hidden indices of a tile that a lane holds, for elements of `size` bytes.
template <int kSize, int kHeld>
FUSED_RNN_DEVICE int hidden_index(int i) {
  constexpr int kRun = 16 / kSize;             // elements in 16 bytes
  constexpr int kLanes = kTileHidden / kHeld;  // of a unit
  return i / kRun * kLanes * kRun + lane_index() % kLanes * kRun + i % kRun;
}

// A lane's part of a tile: the weights of its first unit, then those of the second.
template <class T, class Lanes>
struct TileWeights {
  static constexpr int kPartWords = Lanes::kHeld * static_cast<int>(sizeof(T)) / 4;
  static constexpr int kPartChunks = kPartWords / 4, kChunks = Lanes::kLaneUnits * kPartChunks;
  Words4 chunks[kChunks];

  FUSED_RNN_DEVICE uint32_t word(int i) const { return chunks[i / 4].words[i % 4]; }
  // Weight i of the unit of a part.
  FUSED_RNN_DEVICE void set(int part, int i, T value) {
    if constexpr (sizeof(T) == 2) {
      uint32_t& word = chunks[part].words[i / 2];
      word = i % 2 == 0 ? value.bits : word | static_cast<uint32_t>(value.bits) << 16;
    } else {
      chunks[part * kPartChunks + i / 4].words[i % 4] = float_to_bits(to_real(value));
    }
  }
};

// Tensor cores: bfloat16, float16, TFloat32.
template <class T, class Lanes>
struct TileSums {
  static constexpr int kValues = 4;
  float values[kValues];

  FUSED_RNN_DEVICE void clear() {
    for (float& value : values) value = 0.0f;
  }
  // `columns`: the tile's first hidden index of its first column; columns are `stride` elements apart.
  FUSED_RNN_DEVICE void add(const TileWeights<T, Lanes>& weights, const T* columns, int stride) {
    constexpr int kRun = 16 / static_cast<int>(sizeof(T)), kRuns = Lanes::kHeld / kRun, kRunWords = 4;
    constexpr int kHalf = kRuns * kRunWords;  // words of the weights of one unit
    const T* column = columns + lane_index() / 4 * stride + lane_index() % 4 * kRun;
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const Words4 held = load_words(column + run * 4 * kRun);
#pragma unroll
      for (int i = 0; i < kRunWords; i += 2) {
        const int word = run * kRunWords + i;
        const uint32_t a[4] = {weights.word(word), weights.word(kHalf + word), weights.word(word + 1),
                               weights.word(kHalf + word + 1)};
        const uint32_t b[2] = {held.words[i], held.words[i + 1]};
        mma(T{}, values, a, b);
      }
    }
  }
  FUSED_RNN_DEVICE void add(const TileSums& other) {
    for (int i = 0; i < kValues; ++i) values[i] += other.values[i];
  }
  FUSED_RNN_DEVICE Words4 words() const {
    return {{float_to_bits(values[0]), float_to_bits(values[1]), float_to_bits(values[2]), float_to_bits(values[3])}};
  }
  FUSED_RNN_DEVICE void finish() {}
};

// Exact float32: a lane sums its own hidden indices for all columns; finish adds up the lanes of a unit.
template <class Lanes>
struct TileSums<float, Lanes> {
  static constexpr int kValues = 2;
  float values[Lanes::kLaneUnits * kTileColumns];  // of each unit; after finish the first two count

  FUSED_RNN_DEVICE void clear() {
    for (float& value : values) value = 0.0f;
  }
  // Each time, a lane gives half of its sums to a neighbour and gets the neighbour's of the half that it keeps.
  FUSED_RNN_DEVICE void finish() {
    if constexpr (Lanes::kLaneUnits == 2) keep_half<kTileColumns, 4>();
    keep_half<4, 2>();
    keep_half<2, 1>();
  }

 private:
  template <int kKept, int kMask>
  FUSED_RNN_DEVICE void keep_half() {
    const bool second = (lane_index() & kMask) != 0;
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const float given = second ? values[i] : values[kKept + i];
      values[i] = (second ? values[kKept + i] : values[i]) + bits_to_float(shuffle_xor(float_to_bits(given), kMask));
    }
  }
};

// Adds a tile's products for every gate to the sums. The columns of a gate are `gate_stride` elements behind those of
// the gate before, or the same where it is zero. Of the columns, the first `rows` count.
template <class Lanes, int kResults, int kGates>
FUSED_RNN_DEVICE void add_exact(TileSums<float, Lanes> (&sums)[kResults][1],
                                const TileWeights<float, Lanes> (&weights)[kGates], const float* columns,
                                int gate_stride, int stride, int rows) {
  constexpr int kRun = 4, kRuns = Lanes::kHeld / kRun, kLanes = kTileHidden / Lanes::kHeld;
  Words4 held[kGates][kRuns], next[kGates][kRuns];
  const auto load = [&](int column) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      const float* from = columns + gate * gate_stride + column * stride + lane_index() % kLanes * kRun;
#pragma unroll
      for (int run = 0; run < kRuns; ++run) next[gate][run] = load_words(from + run * kLanes * kRun);
    }
  };
  load(0);
#pragma unroll
  for (int c = 0; c < kTileColumns; ++c) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
      for (int run = 0; run < kRuns; ++run) held[gate][run] = next[gate][run];
    }
    if (c + 1 < kTileColumns) load(c + 1);  // before the branch, so that it goes on behind the products
#pragma unroll
    for (int i = 0; i < Lanes::kHeld; ++i) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
        for (int part = 0; part < Lanes::kLaneUnits; ++part) {
          sums[kResults == 1 ? 0 : gate][0].values[part * kTileColumns + c] +=
              bits_to_float(weights[gate].word(part * Lanes::kHeld + i)) *
              bits_to_float(held[gate][i / kRun].words[i % kRun]);
        }
      }
    }
    if (c + 1 >= rows) break;
  }
}

}  // namespace fused_rnn::cuda
