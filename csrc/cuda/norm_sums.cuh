// The sums of layer norms over the units of a row in a persistent kernel, where the blocks of a group meet.
//
//   every thread puts a pair | barrier of the block | a warp for each norm and set of four rows adds up the block's
//   units and pushes their pair to the other blocks (st.async, as ClusterExchange does the vector) | every warp adds up
//   the blocks' pairs of its own rows
//
// Forward's pair is a mean and the sum of the squares of deviations from it; pairs are combined as
//   sum of (v - mean)^2 = sum over pairs of (squares + n (their mean - k)^2) - n_all (mean - k)^2,
// where k is the mean of the first pair: it is among them, so that the difference loses no more than the number of
// pairs. Backward's pair are two sums. Lanes of the same row take every eighth pair: sums have one order.
//
// No pair is written before it was read: between two steps the group exchanges a vector, to which a block contributes
// when all its warps have read what they met for.
#pragma once

#include "cuda/norm.cuh"
#include "cuda/norm_shape.h"

namespace fused_rnn::cuda {

struct alignas(8) NormPair {
  float first, second;
};

// What a meeting finds out.
template <bool kBackward>
using NormTotal = std::conditional_t<kBackward, NormMeans<float>, NormMoments<float>>;

template <class Pass, class Exchange>
class NormSums {
 public:
  static constexpr bool kInCluster = Exchange::kNeedsClusters, kInGrid = requires(Exchange::Global g) { g.barriers; };
  using Cell = typename Pass::Cell;
  static constexpr int kGroups = Cell::kNormGroups, kNorms = norms(spec_of<Cell>(0));
  static constexpr int kOfC = kGroups;
  static_assert(2 * kGroups <= kPersistentWarps);

  // Arguments of a kernel, made on the host.
  struct Numbers {
    int units, rest;                  // of a block, of the last one
    float of_units, of_rest, of_all;  // one over them, and over the units of a row
    int ranks;

    static Numbers of(const PersistentShape& s) {
      const int rest = s.hidden_size - (s.ranks - 1) * s.units();
      return {s.units(),
              rest,
              1.0f / static_cast<float>(s.units()),
              1.0f / static_cast<float>(rest),
              1.0f / static_cast<float>(s.hidden_size),
              s.ranks};
    }
  };

  // Of a grid, whose blocks meet in global memory.
  struct Global {
    NormPair* pairs;         // [groups of the launch][norms][2][ranks][4]
    BlockBarrier* barriers;  // [groups of the launch][2], counting the pairs of a meeting
  };

  // All are arguments of the kernel.
  FUSED_RNN_DEVICE NormSums(const NormMap& map, const Numbers& numbers, const Global& global)
      : map_(map), numbers_(numbers), global_(global) {}

  // Before the exchange's begin, after which all blocks have begun.
  FUSED_RNN_DEVICE void begin() const {
    if constexpr (kInCluster) {
      if (thread_index() != 0) return;
      for (int meeting = 0; meeting < 2; ++meeting) init_barrier(barrier(meeting), 1);
      publish_barriers();
      for (int meeting = 0; meeting < 2; ++meeting) arrive_expecting(barrier(meeting), bytes(meeting));
    }
  }

  // A unit of the block and, with the lane, one of its rows: there are two sets of four.
  struct Place {
    int unit, set;
  };
  FUSED_RNN_DEVICE void put(int norm, const Place& place, const NormPair& pair) const {
    own(norm, place.set)[place.unit * kRows + lane_index() % kRows] = pair;
  }
  // By all threads, after they have put what the meeting is for. What follows need not wait for others' pairs until it
  // calls `receive`.
  FUSED_RNN_DEVICE void send_gates() const { send(0, 0, kGroups); }
  FUSED_RNN_DEVICE void send_c() const { send(1, kOfC, 1); }
  FUSED_RNN_DEVICE void receive_gates(unsigned step) const { receive(0, step, 0, kGroups); }
  FUSED_RNN_DEVICE void receive_c(unsigned step) const { receive(1, step, kOfC, 1); }

  // Of the lane's row, by whole warps; each unit has put `values` values.
  FUSED_RNN_DEVICE NormTotal<Pass::kBackward> total(int norm, int set, int values) const {
    const auto gates = static_cast<float>(values);
    NormPair all;
    if constexpr (kInCluster || kInGrid) {
      all = added<kInGrid ? kAnyRanks : kMostRanks>(
          met(norm, set), numbers_.ranks, gates, numbers_.of_all,
          [&](int rank) { return static_cast<float>(rank + 1 < numbers_.ranks ? numbers_.units : numbers_.rest); });
    } else {
      all = of_block(norm, set, gates);
    }
    const float each = numbers_.of_all / gates;
    if constexpr (Pass::kBackward) {
      return {all.first * each, all.second * each};
    } else {
      return NormMoments<float>::of(all.first, all.second * each);
    }
  }

 private:
  static constexpr int kRows = 4, kClasses = kWarpLanes / kRows;  // lanes with the same row
  static constexpr int kMostRanks = 16, kMostUnits = 32;          // of a cluster, of a block
  static constexpr int kAnyRanks = 0;                             // of a grid

  FUSED_RNN_DEVICE static float over_lanes(float value) {
#pragma unroll
    for (int mask = kRows; mask < kWarpLanes; mask *= 2)
      value += bits_to_float(shuffle_xor(float_to_bits(value), mask));
    return value;
  }
  // The sum of `count` pairs, of which pair i stands for weight(i) units with `gates` values each, and
  // `inverse` is one over the sum of the weights.
  template <int kMost, class WeightOf>
  FUSED_RNN_DEVICE static NormPair added(const NormPair* pairs, int count, float gates, float inverse,
                                         const WeightOf& weight) {
    const NormPair* const of_row = pairs + lane_index() % kRows;
    const float shift = Pass::kBackward ? 0.0f : of_row->first;
    NormPair sum{};
#pragma unroll(kMost == kAnyRanks ? 1 : kMost / kClasses)
    for (int first = 0; first < (kMost == kAnyRanks ? count : kMost); first += kClasses) {
      const int at = first + lane_index() / kRows;
      if (at >= count) continue;
      const NormPair one = of_row[at * kRows];
      if constexpr (Pass::kBackward) {
        sum.first += one.first;
        sum.second += one.second;
      } else {
        const float off = one.first - shift, weighted = weight(at) * off;
        sum.first += weighted;
        sum.second += one.second + gates * weighted * off;
      }
    }
    sum = {over_lanes(sum.first), over_lanes(sum.second)};
    if constexpr (Pass::kBackward) return sum;
    const float off = sum.first * inverse;
    return {shift + off, sum.second - gates * sum.first * off};
  }
  FUSED_RNN_DEVICE NormPair of_block(int norm, int set, float gates) const {
    const bool is_last = block_x() + 1 == numbers_.ranks;
    return added<kMostUnits>(own(norm, set), is_last ? numbers_.rest : numbers_.units, gates,
                             is_last ? numbers_.of_rest : numbers_.of_units, [](int) { return 1.0f; });
  }
  FUSED_RNN_DEVICE static float gates_of(int norm) {
    return norm == kOfC ? 1.0f : static_cast<float>(gates_of_group<Cell>(norm));
  }

  // Bytes that a block gets in a meeting, its own too.
  FUSED_RNN_DEVICE int bytes(int meeting) const {
    return (meeting == 0 ? kGroups : 1) * 2 * numbers_.ranks * kRows * static_cast<int>(sizeof(NormPair));
  }
  FUSED_RNN_DEVICE void send(int meeting, int first_norm, int count) const {
    sync_block();  // the pairs of this block are there
    if constexpr (kInCluster || kInGrid) {
      // Backward has no register for what would be known of the warp before.
      const int warp = Pass::kBackward ? hidden_from_compiler(warp_index()) : warp_index();
      if (warp >= 2 * count) return;
      const int norm = first_norm + warp / 2, set = warp % 2;
      const NormPair made = of_block(norm, set, gates_of(norm));
      if constexpr (kInGrid) {
        if (lane_index() >= kRows) return;
        sent(norm, set)[block_x() * kRows + lane_index()] = made;
        arrive_blocks(counter(meeting));
      } else {
        push(meeting, norm, set, made);
      }
    }
  }
  // Two rows are the 16 bytes that a lane sends to a block: a cluster has no more than a warp sends to at once.
  FUSED_RNN_DEVICE void push(int meeting, int norm, int set, const NormPair& made) const {
    static_assert(2 * kMostRanks == kWarpLanes);
    const int half = lane_index() % 2, rank = lane_index() / 2;
    const Words4 words{{shuffle(float_to_bits(made.first), 2 * half), shuffle(float_to_bits(made.second), 2 * half),
                        shuffle(float_to_bits(made.first), 2 * half + 1),
                        shuffle(float_to_bits(made.second), 2 * half + 1)}};
    if (rank >= numbers_.ranks) return;
    NormPair* const to = met(norm, set) + cluster_rank() * kRows + 2 * half;
    store_async(peer_address(shared_address(to), rank), words, peer_address(shared_address(barrier(meeting)), rank));
  }
  // A barrier for each meeting suffices: no block sends for the next step before all warps of this one have read.
  FUSED_RNN_DEVICE void receive(int meeting, unsigned step, int first_norm, int count) const {
    if constexpr (kInGrid) {
      if (thread_index() == 0)
        wait_blocks(counter(meeting), (step + 1) * static_cast<unsigned>(2 * count * numbers_.ranks * kRows));
      sync_block();
      constexpr int kAtOnce = 16 / static_cast<int>(sizeof(NormPair));
      const int pairs = 2 * count * numbers_.ranks * kRows;
      for (int i = thread_index() * kAtOnce; i < pairs; i += thread_count() * kAtOnce)
        copy_async(met(first_norm, 0) + i, sent(first_norm, 0) + i);
      wait_copies();
      sync_block();
    }
    if constexpr (kInCluster) {
      wait_parity(barrier(meeting), static_cast<int>(step % 2));
      if (thread_index() == 0) arrive_expecting(barrier(meeting), bytes(meeting));
    }
  }

  // Addresses are made where they are needed: the weights need the registers.
  template <class Object>
  FUSED_RNN_DEVICE static Object* at(size_t place) {
    return reinterpret_cast<Object*>(dynamic_shared() + place);
  }
  FUSED_RNN_DEVICE NormPair* own(int norm, int set) const {
    return at<NormPair>(map_.own) + (2 * norm + set) * numbers_.units * kRows;
  }
  FUSED_RNN_DEVICE NormPair* met(int norm, int set) const {
    return at<NormPair>(map_.met) + (2 * norm + set) * numbers_.ranks * kRows;
  }
  FUSED_RNN_DEVICE TransactionBarrier* barrier(int meeting) const {
    return at<TransactionBarrier>(map_.barriers) + meeting;
  }

  FUSED_RNN_DEVICE NormPair* sent(int norm, int set) const {
    return global_.pairs + (2 * (block_y() * kNorms + norm) + set) * numbers_.ranks * kRows;
  }
  FUSED_RNN_DEVICE BlockBarrier* counter(int meeting) const { return global_.barriers + 2 * block_y() + meeting; }

  const NormMap& map_;
  const Numbers& numbers_;
  const Global& global_;
};

}  // namespace fused_rnn::cuda
