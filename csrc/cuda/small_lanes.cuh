// The GEMM of small_block in exact float32: a lane multiplies its part of the hidden indices, for the rows of the
// block; then the lanes of a unit meet by shuffles, each with the sums of one row.
//
// Lanes number rows each in an order of its own, in which the lane's own row is the first: which sums it keeps and
// which it gives away is then the same for all lanes. So are the units of a tile.
//
// With fewer rows than lanes of a unit, lanes that have the same unit and row do the same, and one of them stores. The
// vector is [chunk][row][lane of the tile][element].
#pragma once

#include "cuda/small_shape.h"
#include "cuda/vector_io.cuh"

namespace fused_rnn::cuda {

template <class Pass, int kRows>
class LaneGemm {
 public:
  static constexpr int kLanes = unit_lanes(true, kRows);  // of a unit
  static constexpr int kMostUnits = most_small_units(sizeof(float), true, false, 0, kRows);
  static constexpr int kOwned = 1, kRowStep = kRows;
  using Results = Pack<float, Pass::kResults>;

 private:
  static constexpr int kSame = kLanes / kRows;  // lanes of a unit with the same row
  static constexpr int kTile = tile_units(Pass::kVectors), kTileLanes = kLanes * kTile;
  static constexpr int kChunks = vector_chunks(Pass::kVectors, kMostUnits, kLanes);
  static constexpr int kItems = kTile * kRows;  // pairs of a unit and a row that the lanes of a tile share
  static constexpr int kRowFloats = kTileLanes * kSmallChunk;  // of a chunk
  static_assert(kSame * kRows == kLanes && kWarpLanes % kTileLanes == 0);

 public:
  struct Weights {
    float of[kTile][kChunks][kSmallChunk][Pass::kResults];
  };

  void set_shape(const SmallShape& shape) {
    size_ = shape.hidden_size;
    chunks_ = vector_chunks(Pass::kVectors, size_, kLanes);
  }

  // The first of the lane's rows.
  FUSED_RNN_DEVICE static int row() { return thread_index() % kLanes / kSame; }
  FUSED_RNN_DEVICE static int unit() { return thread_index() / kLanes; }
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
          const int element = (c * kTileLanes + tile_lane()) * kSmallChunk + i;
          const int unit = first_unit + (u ^ tile_lane() / kLanes);
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
    for (int i = thread_index(); i < 2 * vector_floats(); i += thread_count()) vectors()[i] = 0.0f;
  }
  FUSED_RNN_DEVICE void put(int step, int /*i*/, int v, float value) const {
    const int element = v * size_ + unit(), chunk = element / kRowFloats;
    vectors()[first_of(step) + (chunk * kRows + row()) * kRowFloats + element % kRowFloats] = value;
  }

  // For the lane's row.
  FUSED_RNN_DEVICE Results product(const Weights& weights, int step, int /*i*/, const Results& bias) const {
    float sums[kItems][Pass::kResults] = {};
    const int own = first_of(step) + row() * kRowFloats + tile_lane() * kSmallChunk;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (c >= chunks_) break;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const Words4 held = load_words(vectors() + (own ^ r * kRowFloats) + c * kRows * kRowFloats);
#pragma unroll
        for (int u = 0; u < kTile; ++u) {
#pragma unroll
          for (int k = 0; k < kSmallChunk; ++k) {
#pragma unroll
            for (int result = 0; result < Pass::kResults; ++result) {
              sums[u * kRows + r][result] += weights.of[u][c][k][result] * bits_to_float(held.words[k]);
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
  int size_, chunks_;

  FUSED_RNN_DEVICE static float* vectors() { return reinterpret_cast<float*>(dynamic_shared()); }
  FUSED_RNN_DEVICE int vector_floats() const { return chunks_ * (kRows * kRowFloats); }
  FUSED_RNN_DEVICE int first_of(int step) const { return step % 2 * vector_floats(); }
  FUSED_RNN_DEVICE static int tile_lane() { return lane_index() % kTileLanes; }

  // The first sums become those of all lanes of the tile, of the unit and the row that the lane has: a lane keeps the
  // first half of the items, which the lane with the other bit of the mask has as its second half. Where one item is
  // left, both keep it.
  template <int kLeft, int kMask>
  FUSED_RNN_DEVICE static void meet(float (&sums)[kItems][Pass::kResults]) {
    if constexpr (kMask > 0) {
      constexpr int kKept = kLeft > 1 ? kLeft / 2 : 1, kGiven = kLeft - kKept;
#pragma unroll
      for (int i = 0; i < kKept; ++i) {
#pragma unroll
        for (int r = 0; r < Pass::kResults; ++r) {
          sums[i][r] += bits_to_float(shuffle_xor(float_to_bits(sums[i + kGiven][r]), kMask));
        }
      }
      meet<kKept, kMask / 2>(sums);
    }
  }
};

}  // namespace fused_rnn::cuda
