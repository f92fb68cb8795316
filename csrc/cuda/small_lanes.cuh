// The GEMM of small_block in exact float32: a lane multiplies its part of the hidden indices, for the rows of the
// block; then the lanes of a unit meet by shuffles, each with the sums of one row. Eight rows are multiplied four by
// four.
//
// With fewer rows than lanes of a unit, lanes that have the same unit and row do the same, and one of them stores. The
// vector is [row][gate][unit], of which a row has no gaps.
#pragma once

#include "cuda/small_shape.h"
#include "cuda/vector_io.cuh"

namespace fused_rnn::cuda {

template <class Pass, int kRows>
class LaneGemm {
 public:
  static constexpr int kMostUnits = most_small_units(sizeof(float), true, false, 0, kRows);
  static constexpr int kOwned = kRows > kUnitLanes ? kRows / kUnitLanes : 1, kRowStep = kUnitLanes;
  using Results = Pack<float, Pass::kResults>;

 private:
  static constexpr int kTogether = kRows / kOwned;      // rows of a GEMM
  static constexpr int kSame = kUnitLanes / kTogether;  // lanes of a unit with the same row
  static constexpr int kTile = tile_units(Pass::kVectors), kTileLanes = kUnitLanes * kTile;
  static constexpr int kChunks = vector_chunks(Pass::kVectors, kMostUnits);
  static constexpr int kItems = kTile * kTogether;  // pairs of a unit and a row that the lanes of a tile share
  static_assert(kSame * kTogether == kUnitLanes && kWarpLanes % kTileLanes == 0);

 public:
  struct Weights {
    float of[kTile][kChunks][kSmallChunk][Pass::kResults];
  };

  void set_shape(const SmallShape& shape) {
    size_ = shape.hidden_size;
    chunks_ = vector_chunks(Pass::kVectors, size_);
    width_ = vector_width(Pass::kVectors, size_);
  }

  // The first of the lane's rows.
  FUSED_RNN_DEVICE static int row() { return thread_index() % kUnitLanes / kSame; }
  FUSED_RNN_DEVICE static int unit() { return thread_index() / kUnitLanes; }
  FUSED_RNN_DEVICE static bool stores() { return thread_index() % kSame == 0; }

  // A gate's dot product has elements of its own backward, and the same elements as the others' forward.
  FUSED_RNN_DEVICE void load_weights(Weights& weights, const typename Pass::Views& views, int direction,
                                     int size) const {
    const int first_unit = thread_index() / kTileLanes * kTile;
#pragma unroll
    for (int u = 0; u < kTile; ++u) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int i = 0; i < kSmallChunk; ++i) {
          const int element = first_element(c) + i, unit = first_unit + u;
          const bool inside = element < Pass::kVectors * size && unit < size;
#pragma unroll
          for (int r = 0; r < Pass::kResults; ++r) {
            const int gate = Pass::kBackward ? element / size : r;
            const int hidden = Pass::kBackward ? element % size : element;
            weights.of[u][c][i][r] = inside ? Pass::weight(views, direction, gate, unit, hidden, size) : 0.0f;
          }
        }
      }
    }
  }

  FUSED_RNN_DEVICE void clear_vectors() const {
    for (int i = thread_index(); i < 2 * kRows * width_; i += thread_count()) vector(0)[i] = 0.0f;
  }
  FUSED_RNN_DEVICE void put(int step, int i, int v, float value) const {
    vector(step)[(row() + i * kRowStep) * width_ + v * size_ + unit()] = value;
  }

  // For the lane's i-th row.
  FUSED_RNN_DEVICE Results product(const Weights& weights, int step, int i, const Results& bias) const {
    float sums[kItems][Pass::kResults] = {};
    const float* const from = vector(step) + i * kTogether * width_;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (c >= chunks_) break;
#pragma unroll
      for (int row = 0; row < kTogether; ++row) {
        const Words4 held = load_words(from + row * width_ + first_element(c));
#pragma unroll
        for (int u = 0; u < kTile; ++u) {
#pragma unroll
          for (int k = 0; k < kSmallChunk; ++k) {
#pragma unroll
            for (int r = 0; r < Pass::kResults; ++r) {
              sums[u * kTogether + row][r] += weights.of[u][c][k][r] * bits_to_float(held.words[k]);
            }
          }
        }
      }
    }
    meet<kItems, kTileLanes / 2>(sums);
    Results results = bias;
    for (int r = 0; r < Pass::kResults; ++r) results[r] += sums[0][r];
    return results;
  }

 private:
  int size_, chunks_, width_;

  FUSED_RNN_DEVICE float* vector(int step) const {
    return reinterpret_cast<float*>(dynamic_shared()) + step % 2 * (kRows * width_);
  }
  FUSED_RNN_DEVICE static int first_element(int chunk) {
    return (chunk * kTileLanes + lane_index() % kTileLanes) * kSmallChunk;
  }

  // The first sums become those of all lanes of the tile, of the unit and the row that the lane has: lanes whose number
  // has the bit of the mask keep the second half of the items and give away the first, others the reverse. Where one
  // item is left, both keep it.
  template <int kLeft, int kMask>
  FUSED_RNN_DEVICE static void meet(float (&sums)[kItems][Pass::kResults]) {
    if constexpr (kMask > 0) {
      constexpr int kHalf = kLeft > 1 ? kLeft / 2 : 1;
      const bool second = (lane_index() & kMask) != 0;
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
#pragma unroll
        for (int r = 0; r < Pass::kResults; ++r) {
          const float low = sums[i][r], high = kLeft > 1 ? sums[i + kLeft / 2][r] : low;
          sums[i][r] = (second ? high : low) + bits_to_float(shuffle_xor(float_to_bits(second ? low : high), kMask));
        }
      }
      meet<kHalf, kMask / 2>(sums);
    }
  }
};

}  // namespace fused_rnn::cuda
