// Kernels of one block, which need no more than the vocabulary of cuda/device.h: a small LSTM's loop, and barriers.
#pragma once

#include <cmath>
#include <vector>

#include "kernels.cuh"

namespace fused_rnn::micro {

// What a step of SmallLoop does; each part with those before it.
enum class LoopParts { kBarrier, kGemm, kSums, kAll };

// Steps of an LSTM of 64 units in exact float32, one row in each block, without global memory: what the hardware needs.
//
//   a unit has kLanes lanes, and a lane the weights of all gates for its part of the hidden indices, in registers
//   sums       the lanes of a unit meet by shuffles, each of four with the sum of one gate
//   update     each lane has one activation, and gathers the others
//   exchange   two buffers in shared memory, a barrier of the block
template <int kLanesOfUnit, LoopParts kParts>
struct SmallLoop {
  static constexpr int kUnits = 64, kGates = 4, kLanes = kLanesOfUnit, kThreads = kUnits * kLanes;
  static constexpr int kChunks = kUnits / (4 * kLanes);
  static constexpr size_t kSharedBytes = 2 * kUnits * sizeof(float);
  static_assert(kLanes % kGates == 0);

  int rounds;
  const float *weights, *inputs;  // [kGates][kUnits][kUnits], [kGates][kUnits]
  float* result;                  // [blocks][kUnits]: h after the last round

  FUSED_RNN_DEVICE void operator()() const {
    const int lane = thread_index() % kLanes, unit = thread_index() / kLanes, gate = lane % kGates;
    float held[kChunks][4][kGates];
    for (int c = 0; c < kChunks; ++c) {
      for (int i = 0; i < 4; ++i) {
        for (int g = 0; g < kGates; ++g) held[c][i][g] = weights[(g * kUnits + unit) * kUnits + first(c, lane) + i];
      }
    }
    const float input = inputs[gate * kUnits + unit];
    float* const vectors = reinterpret_cast<float*>(dynamic_shared());
    for (int i = thread_index(); i < 2 * kUnits; i += thread_count()) vectors[i] = 0.0f;
    float state = 0.0f;
    sync_block();
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      const float* const from = vectors + round % 2 * kUnits;
      float h = 0.0f;
      if constexpr (kParts == LoopParts::kBarrier) {
        h = from[unit] + 1.0f;
      } else {
        float sums[kGates] = {};
        multiply(from, held, lane, sums);
        if constexpr (kParts == LoopParts::kGemm) {
          h = sums[0] + sums[1] + sums[2] + sums[3];
        } else {
          const float sum = meet(sums, lane) + input;
          h = kParts == LoopParts::kSums ? sum : update(sum, gate, state);
        }
      }
      if (lane == 0) vectors[(1 - round % 2) * kUnits + unit] = h;
      sync_block();  // the vector is whole, and no thread reads the other one any more
    }
    if (lane == 0) result[block_x() * kUnits + unit] = vectors[rounds % 2 * kUnits + unit];
  }

 private:
  FUSED_RNN_DEVICE static int first(int chunk, int lane) { return (chunk * kLanes + lane) * 4; }
  FUSED_RNN_DEVICE static void multiply(const float* from, const float (&held)[kChunks][4][kGates], int lane,
                                        float (&sums)[kGates]) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const Words4 words = load_words(from + first(c, lane));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int g = 0; g < kGates; ++g) sums[g] += held[c][i][g] * bits_to_float(words.words[i]);
      }
    }
  }
  FUSED_RNN_DEVICE static float from_lane(float value, int mask) {
    return bits_to_float(shuffle_xor(float_to_bits(value), mask));
  }
  // The sum over the lanes of the unit, of the gate that the lane has.
  FUSED_RNN_DEVICE static float meet(const float (&sums)[kGates], int lane) {
    const bool high = (lane & 2) != 0, odd = (lane & 1) != 0;
    float pair[2];
    for (int i = 0; i < 2; ++i) pair[i] = (high ? sums[2 + i] : sums[i]) + from_lane(high ? sums[i] : sums[2 + i], 2);
    float sum = (odd ? pair[1] : pair[0]) + from_lane(odd ? pair[0] : pair[1], 1);
    for (int mask = kGates; mask < kLanes; mask *= 2) sum += from_lane(sum, mask);
    return sum;
  }
  // scale / (1 + e^(-scale x)) + 1 - scale: a sigmoid for scale 1, tanh for scale 2.
  FUSED_RNN_DEVICE static float activate(float x, float scale) {
    return scale * fast_reciprocal(1.0f + fast_exp2(-1.44269504f * scale * x)) + (1.0f - scale);
  }
  FUSED_RNN_DEVICE static float update(float sum, int gate, float& state) {
    const float own = activate(sum, gate == 2 ? 2.0f : 1.0f);
    float gates[kGates];
    for (int g = 0; g < kGates; ++g) {
      const int lane = lane_index() / kGates * kGates + g;
      gates[g] = bits_to_float(shuffle(float_to_bits(own), lane));
    }
    state = gates[1] * state + gates[0] * gates[2];
    return gates[3] * activate(state, 2.0f);
  }
};

// h after so many steps of the whole loop, in float64.
inline std::vector<double> small_loop_states(const std::vector<float>& weights, const std::vector<float>& inputs,
                                             int rounds) {
  constexpr int kUnits = 64;
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  std::vector<double> h(kUnits), c(kUnits), next(kUnits);
  for (int round = 0; round < rounds; ++round) {
    for (int unit = 0; unit < kUnits; ++unit) {
      double sums[4];
      for (int g = 0; g < 4; ++g) {
        sums[g] = inputs[g * kUnits + unit];
        for (int k = 0; k < kUnits; ++k) sums[g] += weights[(g * kUnits + unit) * kUnits + k] * h[k];
      }
      c[unit] = sigmoid(sums[1]) * c[unit] + sigmoid(sums[0]) * std::tanh(sums[2]);
      next[unit] = sigmoid(sums[3]) * std::tanh(c[unit]);
    }
    h.swap(next);
  }
  return h;
}

// Numbers in [-bound, bound), the same in every run.
inline std::vector<float> small_loop_values(size_t count, float bound) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = bound * (static_cast<float>(scrambled(i + 1) >> 8) * 0x1p-23f - 1.0f);
  }
  return values;
}

// How the threads of a block wait for each other: __syncthreads, or a transaction barrier in shared memory at which
// every thread arrives, or a lane of each warp for all of it.
enum class Meeting { kBlockBarrier, kThreadsArrive, kWarpsArrive };

// In each round every thread hands a word to the warp before its own.
template <Meeting kMeeting>
struct LocalBarrier {
  static constexpr int kThreads = 1024;
  int rounds;
  uint32_t* result;  // [threads]

  FUSED_RNN_HD inline static size_t shared_bytes(int threads) {
    return sizeof(TransactionBarrier) + 2 * sizeof(uint32_t) * static_cast<size_t>(threads);
  }

  FUSED_RNN_DEVICE void operator()() const {
    TransactionBarrier* const barrier = reinterpret_cast<TransactionBarrier*>(dynamic_shared());
    uint32_t* const words = reinterpret_cast<uint32_t*>(dynamic_shared() + sizeof(TransactionBarrier));
    const int count = thread_count(), next = (thread_index() + kWarpLanes) % count;
    if constexpr (kMeeting != Meeting::kBlockBarrier) {
      if (thread_index() == 0) init_barrier(barrier, kMeeting == Meeting::kThreadsArrive ? count : count / kWarpLanes);
    }
    sync_block();
    uint32_t word = first_word(0, static_cast<uint32_t>(thread_index()));
    for (int round = 0; round < rounds; ++round) {
      uint32_t* const now = words + round % 2 * count;
      now[thread_index()] = word;
      meet(barrier, round);
      word = next_word(word, now[next], static_cast<uint32_t>(warp_index()));
    }
    result[thread_index()] = word;
  }

 private:
  FUSED_RNN_DEVICE static void meet(TransactionBarrier* barrier, int round) {
    if constexpr (kMeeting == Meeting::kBlockBarrier) {
      sync_block();
    } else {
      if constexpr (kMeeting == Meeting::kWarpsArrive) sync_warp();  // the lane arrives for what its warp wrote
      if (kMeeting == Meeting::kThreadsArrive || lane_index() == 0) arrive_expecting(barrier, 0);
      wait_parity(barrier, round % 2);
    }
  }
};

inline std::vector<uint32_t> local_barrier_words(int threads, int rounds) {
  std::vector<uint32_t> now(static_cast<size_t>(threads)), next(now.size());
  for (int i = 0; i < threads; ++i) now[i] = first_word(0, i);
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < threads; ++i) next[i] = next_word(now[i], now[(i + kWarpLanes) % threads], i / kWarpLanes);
    now.swap(next);
  }
  return now;
}

}  // namespace fused_rnn::micro
