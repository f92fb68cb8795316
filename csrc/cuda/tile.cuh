// The GEMM of the persistent schedules: a tile of weights, 16 units by 32 hidden indices, times 8 columns.
//
// A warp keeps its tiles in registers (or shared memory) for the whole sequence. In a tile, a lane with
// group = lane / 4 and pair = lane % 4 holds the weights of units `group` and `group + 8` for eight hidden indices;
// which ones, hidden_index says. They are chosen so that a lane reads what it needs of a column in runs of 16 bytes:
// the order in which a GEMM sums is free, as long as weights and columns agree.
//
// Sums, too, are spread in one way for all types: after finish, value i of a lane belongs to unit
// group + 8 * (i / 2), column 2 * pair + i % 2.
#pragma once

#include "cuda/vector_io.cuh"

namespace fused_rnn::cuda {

constexpr int kTileUnits = 16, kTileHidden = 32, kTileColumns = 8, kTileHeld = 8, kTileValues = 4;

// The i-th of the eight hidden indices that a lane holds of a tile, for elements of `size` bytes.
template <int kSize>
FUSED_RNN_DEVICE int hidden_index(int pair, int i) {
  constexpr int kRun = 16 / kSize;  // elements in 16 bytes
  return i / kRun * 4 * kRun + pair * kRun + i % kRun;
}

// A lane's part of a tile: first the eight weights of unit `group`, then those of `group + 8`.
template <class T>
struct TileWeights {
  static constexpr int kChunks = sizeof(T) == 2 ? 2 : 4;
  Words4 chunks[kChunks];

  FUSED_RNN_DEVICE uint32_t word(int i) const { return chunks[i / 4].words[i % 4]; }
  // Weight i of the unit of `half`.
  FUSED_RNN_DEVICE void set(int half, int i, T value) {
    if constexpr (sizeof(T) == 2) {
      uint32_t& word = chunks[half].words[i / 2];
      word = i % 2 == 0 ? value.bits : word | static_cast<uint32_t>(value.bits) << 16;
    } else {
      chunks[2 * half + i / 4].words[i % 4] = float_to_bits(to_real(value));
    }
  }
};

// Tensor cores: bfloat16, float16, TFloat32.
template <class T>
struct TileSums {
  float values[kTileValues];

  FUSED_RNN_DEVICE void clear() {
    for (float& value : values) value = 0.0f;
  }
  // `columns`: the tile's first hidden index of its first column; columns are `stride` elements apart.
  FUSED_RNN_DEVICE void add(const TileWeights<T>& weights, const T* columns, int stride) {
    constexpr int kRun = 16 / static_cast<int>(sizeof(T)), kRuns = kTileHeld / kRun, kRunWords = 4;
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
    for (int i = 0; i < kTileValues; ++i) values[i] += other.values[i];
  }
  FUSED_RNN_DEVICE void finish() {}
};

// Exact float32: a lane sums its own hidden indices for all columns; finish adds up the four lanes of a group.
template <>
struct TileSums<float> {
  float values[2 * kTileColumns];  // of the unit `group`, then of `group + 8`; after finish the first four count

  FUSED_RNN_DEVICE void clear() {
    for (float& value : values) value = 0.0f;
  }
  FUSED_RNN_DEVICE void add(const TileWeights<float>& weights, const float* columns, int stride) {
    constexpr int kRun = 4, kRuns = kTileHeld / kRun;
    const float* column = columns + lane_index() % 4 * kRun;
#pragma unroll
    for (int c = 0; c < kTileColumns; ++c, column += stride) {
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
        const Words4 held = load_words(column + run * 4 * kRun);
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          const float h = bits_to_float(held.words[i]);
          values[c] += bits_to_float(weights.word(run * kRun + i)) * h;
          values[kTileColumns + c] += bits_to_float(weights.word(kTileHeld + run * kRun + i)) * h;
        }
      }
    }
  }
  FUSED_RNN_DEVICE void add(const TileSums& other) {
    for (int i = 0; i < 2 * kTileColumns; ++i) values[i] += other.values[i];
  }
  // Twice, a lane gives half of its sums to a neighbour and gets the neighbour's of the half that it keeps.
  FUSED_RNN_DEVICE void finish() {
    const int pair = lane_index() % 4;
    const bool high = pair >= 2, odd = pair % 2 == 1;
    float kept[kTileColumns];  // of both units: the four columns of the lane's half
#pragma unroll
    for (int i = 0; i < kTileColumns; ++i) {
      const int low_column = i / 4 * kTileColumns + i % 4;
      const float given = high ? values[low_column] : values[low_column + 4];
      kept[i] = (high ? values[low_column + 4] : values[low_column]) + exchanged(given, 2);
    }
#pragma unroll
    for (int i = 0; i < kTileValues; ++i) {
      const int low_column = i / 2 * 4 + i % 2;
      const float given = odd ? kept[low_column] : kept[low_column + 2];
      values[i] = (odd ? kept[low_column + 2] : kept[low_column]) + exchanged(given, 1);
    }
  }

 private:
  FUSED_RNN_DEVICE static float exchanged(float value, int mask) {
    return bits_to_float(shuffle_xor(float_to_bits(value), mask));
  }
};

}  // namespace fused_rnn::cuda
