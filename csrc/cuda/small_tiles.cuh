// The GEMM of small_block in the types that use mma: a warp has eight units, and four rows at once.
//
//   tile (16 x K)      rows 0..7: the units' weights for half 0 of the indices; rows 8..15: for half 1
//   columns (K x 8)    2 r: half 0 of row r of the vector; 2 r + 1: half 1
//   accumulators       a lane has unit lane / 4 and row lane % 4; its first is the sum over half 0, its last that over
//                      half 1, and the two between mix the halves and are left
//
// So all gates of a unit and row end in one lane, without a shuffle. Weights are in registers; what does not fit is in
// shared memory. A row of the vector is [half][gate][unit of the half], where units belong to the halves by eights.
#pragma once

#include "cuda/norm.cuh"
#include "cuda/small_shape.h"
#include "cuda/vector_io.cuh"

namespace fused_rnn::cuda {

template <class Pass, int kRowTiles>
class TileGemm {
  using Cell = typename Pass::Cell;
  using T = typename Pass::T;
  static constexpr int kBytes = sizeof(T), kWordElements = 4 / kBytes, kRun = 16 / kBytes;  // of a lane
  static constexpr int kChunk = kChunkBytes / kBytes;
  static constexpr int kResults = Pass::kResults, kChains = kResults == 1 ? 2 : 1;

 public:
  static constexpr int kLanes = kUnitLanes, kOwned = kRowTiles, kRowStep = kTileRows;
  static constexpr int kValues = Cell::kGates + Cell::kStates + Cell::kUnitWeights;
  static constexpr int kMostUnits = most_small_units(kBytes, false, kWithNorms<Pass>, kValues, kRowTiles* kTileRows);
  using Results = Pack<float, kResults>;

 private:
  static constexpr SmallTiles kMost = small_tiles(kBytes, Pass::kVectors, kResults, kMostUnits, 1);

 public:
  struct Weights {
    Words4 of[kMost.held][kResults][kChunkTiles];
  };

  void set_shape(const SmallShape& shape) {
    tiles_ = small_tiles(kBytes, Pass::kVectors, kResults, shape.hidden_size, shape.rows);
  }

  // The first of the lane's rows.
  FUSED_RNN_DEVICE static int row() { return lane_index() % kTileRows; }
  FUSED_RNN_DEVICE static int unit() { return thread_index() / kUnitLanes; }
  FUSED_RNN_DEVICE static bool stores() { return true; }

  FUSED_RNN_DEVICE void load_weights(Weights& weights, const typename Pass::Views& views, int direction,
                                     int size) const {
#pragma unroll
    for (int c = 0; c < kMost.held; ++c) {
      if (c >= tiles_.held) break;
#pragma unroll
      for (int r = 0; r < kResults; ++r) {
        fill_slot(0, views, direction, size, c, r);
        for (int m = 0; m < kChunkTiles; ++m) weights.of[c][r][m] = load_words(slot(0, m));
      }
    }
    for (int c = tiles_.held; c < tiles_.chunks; ++c) {
      for (int r = 0; r < kResults; ++r) fill_slot(slot_of(c, r), views, direction, size, c, r);
    }
  }

  FUSED_RNN_DEVICE void clear_vectors() const {
    Words4* const words = reinterpret_cast<Words4*>(dynamic_shared());
    const int count = static_cast<int>(2 * tiles_.vector_bytes / sizeof(Words4));
    for (int i = thread_index(); i < count; i += thread_count()) store_words(words + i, {});
  }
  FUSED_RNN_DEVICE void put(int step, int i, int v, float value) const {
    const int half = warp_index() % 2, in_half = warp_index() / 2 * 8 + lane_index() / kUnitLanes;
    T* const to = vector(step) + (row() + i * kRowStep) * tiles_.row_stride + half * tiles_.half_stride + in_half;
    to[v * tiles_.half_units] = to_factor<T>(value);
  }

  // For the lane's i-th row.
  FUSED_RNN_DEVICE Results product(const Weights& weights, int step, int i, const Results& bias) const {
    Sums sums = {};
    const int column = lane_index() / kUnitLanes;
    const T* from = vector(step) + (i * kTileRows + column / 2) * tiles_.row_stride + column % 2 * tiles_.half_stride +
                    lane_index() % kUnitLanes * kRun;
#pragma unroll
    for (int c = 0; c < kMost.held; ++c) {
      if (c % chunk_group(Pass::kVectors) == 0 && c >= tiles_.held) break;
      const Words4 part = load_words(from + c * kChunk);
#pragma unroll
      for (int m = 0; m < kChunkTiles; ++m) {
        const uint32_t b[2] = {part.words[2 * m], part.words[2 * m + 1]};
#pragma unroll
        for (int r = 0; r < kResults; ++r) mma(T{}, sums[r][m % kChains], weights.of[c][r][m].words, b);
      }
    }
    // One tile after the other, since registers are short where this is needed.
    if constexpr (kMost.chunks > kMost.held) {
#pragma unroll 1
      for (int tile = tiles_.held * kChunkTiles; tile < tiles_.chunks * kChunkTiles; ++tile) {
        const int c = tile / kChunkTiles, m = tile % kChunkTiles;
        const uint32_t* const words = reinterpret_cast<const uint32_t*>(from + c * kChunk) + 2 * m;
        const uint32_t b[2] = {words[0], words[1]};
#pragma unroll
        for (int r = 0; r < kResults; ++r) mma(T{}, sums[r][0], load_words(slot(slot_of(c, r), m)).words, b);
      }
    }
    Results results = bias;
#pragma unroll
    for (int r = 0; r < kResults; ++r) {
#pragma unroll
      for (int chain = 0; chain < kChains; ++chain) results[r] += sums[r][chain][0] + sums[r][chain][3];
    }
    return results;
  }

 private:
  using Sums = float[kResults][kChains][4];

  SmallTiles tiles_;

  FUSED_RNN_DEVICE T* vector(int step) const {
    return reinterpret_cast<T*>(dynamic_shared() + static_cast<size_t>(step % 2) * tiles_.vector_bytes);
  }

  // Slots of weights follow the vectors; neighbouring lanes' words are side by side.
  FUSED_RNN_DEVICE int slot_of(int chunk, int result) const { return (chunk - tiles_.held) * kResults + result; }
  FUSED_RNN_DEVICE Words4* slot(int index, int m) const {
    Words4* const slots = reinterpret_cast<Words4*>(dynamic_shared() + 2 * tiles_.vector_bytes);
    return slots + (index * kChunkTiles + m) * thread_count() + thread_index();
  }
  // As mma takes them: of a unit two words of half 0 and of half 1 in turn.
  FUSED_RNN_DEVICE void fill_slot(int index, const typename Pass::Views& views, int direction, int size, int chunk,
                                  int result) const {
#pragma unroll 1
    for (int word = 0; word < 4 * kChunkTiles; ++word) {
      const int half = word % 2, in_run = word / 2 * kWordElements;
      uint32_t bits = 0;
      for (int i = 0; i < kWordElements; ++i) {
        const int element = chunk * kChunk + lane_index() % kUnitLanes * kRun + in_run + i;
        const int v = element / tiles_.half_units, in_half = element % tiles_.half_units;
        const int hidden = in_half / 8 * 16 + half * 8 + in_half % 8;
        if (v >= Pass::kVectors || hidden >= size || unit() >= size) continue;
        const T weight = Pass::weight(views, direction, Pass::kBackward ? v : result, unit(), hidden, size);
        bits |= bits_of(to_factor<T>(to_real(weight))) << 16 * i;
      }
      slot(index, word / 4)->words[word % 4] = bits;
    }
  }
  FUSED_RNN_DEVICE static uint32_t bits_of(T factor) {
    if constexpr (kBytes == 2) {
      return factor.bits;
    } else {
      return float_to_bits(factor.value);
    }
  }
};

}  // namespace fused_rnn::cuda
