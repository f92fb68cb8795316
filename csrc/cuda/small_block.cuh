// small_block: one launch for the sequence; a block owns all units of a few rows, and its lanes hold the weights.
//
//   GEMM       a lane multiplies its part of the hidden indices, for the rows of the block
//   sum        the lanes of a unit meet by shuffles, each with the sums of one row
//   update     pass.cuh; lanes that have the same unit and row do the same, and one of them stores
//   exchange   by shared memory: two buffers in turn and a barrier of the block
//
// Blocks are independent of each other. Factors and sums are float32 whatever the type, which rounds the factors. The
// inputs of a step are loaded during the step before.
//
// The vector is [gate][unit] without gaps. Sums have one order for a number of hidden units.
#pragma once

#include "cuda/pass.cuh"
#include "cuda/small_shape.h"

namespace fused_rnn::cuda {

template <class Pass, int kRows>
struct SmallBlockKernel {
  using T = typename Pass::T;
  using State = Pack<float, Pass::kStates>;
  using Results = Pack<float, Pass::kResults>;
  static constexpr int kThreads = kUnitLanes * kMostSmallUnits;
  static constexpr int kRoomForBlocks = 1;  // else ptxas spills, to have two
  static constexpr int kTile = tile_units(Pass::kVectors), kTileLanes = kUnitLanes * kTile;
  static constexpr int kChunks = vector_chunks(Pass::kVectors, kMostSmallUnits);
  static constexpr int kItems = kTile * kRows;  // pairs of a unit and a row that the lanes of a tile share
  static_assert(kRows <= kUnitLanes && kUnitLanes % kRows == 0 && kWarpLanes % kTileLanes == 0);

  // Arguments; the last two are made on the host.
  SmallShape shape;
  typename Pass::Views views;
  int chunks, width;

  void set_shape(const SmallShape& s) {
    shape = s;
    chunks = vector_chunks(Pass::kVectors, s.hidden_size);
    width = vector_width(Pass::kVectors, s.hidden_size);
  }

  FUSED_RNN_DEVICE void operator()() const {
    const int direction = block_x() / shape.row_groups;  // index of D, which counts heads
    const Direction order = direction_of(direction, shape.heads);
    const int first_row = (block_x() - direction * shape.row_groups) * kRows;
    const int lane = thread_index() % kUnitLanes, column = lane / (kUnitLanes / kRows);
    const Element e{first_row + column, direction, thread_index() / kUnitLanes};
    const bool exists = e.row < shape.batch && e.unit < shape.hidden_size;
    const bool stores = exists && lane % (kUnitLanes / kRows) == 0;
    const int steps = shape.time_steps, size = shape.hidden_size;
    const auto moment = [&](int step) { return moment_at(Pass::position(step, steps), order, steps); };

    Weights weights;
    load_weights(weights, direction);
    Results bias{};
    State state{};
    if (exists) {
      for (int r = 0; r < Pass::kResults; ++r) bias[r] = Pass::bias(views, direction, r, e.unit, size);
      state = Pass::first_state(views, e, first_time(steps, order), size);
    }
    fill_first_vector(direction, first_row);
    typename Pass::Inputs next;
    if (exists && steps > 0) next = Pass::load(views, e, moment(0), size);
    sync_block();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const typename Pass::Inputs inputs = next;
      if (exists && step + 1 < steps) next = Pass::load(views, e, moment(step + 1), size);
      const Results results = product(weights, step, bias);
      if (exists) {
        typename Pass::Made made;
        state = Pass::update(views, e, moment(step), size, inputs, results, state, made);
        if (stores) {
          float* const to = vector(step + 1) + column * width + e.unit;
          for (int v = 0; v < Pass::kVectors; ++v) to[v * size] = factor(made.vector[v]);
          Pass::store(views, e, moment(step), size, made);
        }
      }
      sync_block();
    }
    Results results{};
    if (Pass::kBackward) results = product(weights, steps, bias);
    if (stores) Pass::end(views, e, size, state, results);
  }

 private:
  struct Weights {
    float of[kTile][kChunks][kSmallChunk][Pass::kResults];
  };

  FUSED_RNN_DEVICE float* vector(int step) const {
    return reinterpret_cast<float*>(dynamic_shared()) + step % 2 * (kRows * width);
  }
  FUSED_RNN_DEVICE static float factor(float value) { return to_real(to_factor<T>(value)); }
  FUSED_RNN_DEVICE static int first_element(int chunk) {
    return (chunk * kTileLanes + lane_index() % kTileLanes) * kSmallChunk;
  }

  // A gate's dot product has elements of its own backward, and the same elements as the others' forward.
  FUSED_RNN_DEVICE void load_weights(Weights& weights, int direction) const {
    const int first_unit = thread_index() / kTileLanes * kTile;
#pragma unroll
    for (int u = 0; u < kTile; ++u) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int i = 0; i < kSmallChunk; ++i) {
          const int element = first_element(c) + i, unit = first_unit + u;
          const bool inside = element < Pass::kVectors * shape.hidden_size && unit < shape.hidden_size;
#pragma unroll
          for (int r = 0; r < Pass::kResults; ++r) {
            const int gate = Pass::kBackward ? element / shape.hidden_size : r;
            const int hidden = Pass::kBackward ? element % shape.hidden_size : element;
            weights.of[u][c][i][r] =
                inside ? factor(to_real(Pass::weight(views, direction, gate, unit, hidden, shape.hidden_size))) : 0.0f;
          }
        }
      }
    }
  }

  // Zeros in both buffers but for the values of the first step.
  FUSED_RNN_DEVICE void fill_first_vector(int direction, int first_row) const {
    const int64_t first = first_time(shape.time_steps, direction_of(direction, shape.heads));
    for (int i = thread_index(); i < kRows * width; i += thread_count()) {
      const int index = i % width;
      const Element e{first_row + i / width, direction, index % shape.hidden_size};
      float value = 0.0f;
      if (e.row < shape.batch && index < Pass::kVectors * shape.hidden_size) {
        value = factor(Pass::first_vector(views, e, first));
      }
      vector(0)[i] = value;
      vector(1)[i] = 0.0f;
    }
  }

  FUSED_RNN_DEVICE Results product(const Weights& weights, int step, const Results& bias) const {
    float sums[kItems][Pass::kResults] = {};
    const float* const from = vector(step);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if (c >= chunks) break;
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const Words4 held = load_words(from + row * width + first_element(c));
#pragma unroll
        for (int u = 0; u < kTile; ++u) {
#pragma unroll
          for (int i = 0; i < kSmallChunk; ++i) {
#pragma unroll
            for (int r = 0; r < Pass::kResults; ++r) {
              sums[u * kRows + row][r] += weights.of[u][c][i][r] * bits_to_float(held.words[i]);
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
