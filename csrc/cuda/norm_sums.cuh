// The sums of layer norms over the units of a row in a persistent kernel, where the blocks of a group meet.
//
// A pair of an octet and a row is written by the block that owns the octet. In a cluster the block pushes it to all
// others by st.async, as ClusterExchange does the vector. Then every thread adds up the octets of its row, in one
// order: lanes with the same row take every eighth octet each.
//
// Sums of squares are those of deviations from the octet's own mean. The deviations of these means from that of the row
// are added where octets meet:
//   sum of (v - mean)^2 = sum over octets of (squares + n (mean_of_octet - mean)^2)
// So one meeting serves both moments, and nothing cancels.
//
// One set of slots suffices for what a step writes and reads: between two steps the group exchanges a vector, to which
// every block contributes after it has read its slots.
#pragma once

#include "cuda/norm.cuh"
#include "cuda/norm_shape.h"

namespace fused_rnn::cuda {

template <class Pass, bool kInCluster>
class NormSums {
 public:
  static constexpr int kGroups = Pass::Cell::kNormGroups, kNorms = norms(spec_of<typename Pass::Cell>(0));
  // Slots of the norms' moments, and in backward before them those of their gradients.
  static constexpr int kFirstMoments = Pass::kBackward ? kNorms : 0;
  static constexpr int kOfC = kGroups;

  // Arguments of a kernel, made on the host.
  struct Numbers {
    int octets, columns, own_bytes, ranks;  // own_bytes: of the pairs of one slot that a block makes
    int rest;                               // units of the last octet that has some
    float of_octet, of_rest, of_all;        // one over the units of a full octet, of the last one, of a row
    int used;                               // octets that have units

    static Numbers of(const PersistentShape& s, const NormMap& map) {
      const int used = (s.hidden_size + kOctet - 1) / kOctet, rest = s.hidden_size - (used - 1) * kOctet;
      return {map.octets,
              s.columns(),
              s.units() / kOctet * s.columns() * static_cast<int>(sizeof(Pair)),
              s.ranks,
              rest,
              1.0f / kOctet,
              1.0f / static_cast<float>(rest),
              1.0f / static_cast<float>(s.hidden_size),
              used};
    }
  };
  // An octet of the group, a row of the block, and whether the lane's unit and row exist.
  struct Place {
    int octet, column;
    bool exists;
  };

  FUSED_RNN_DEVICE NormSums(unsigned char* shared, const NormMap& map, const Numbers& numbers)
      : numbers_(numbers),
        pairs_(reinterpret_cast<Pair*>(shared + map.sums)),
        barriers_(reinterpret_cast<TransactionBarrier*>(shared + map.barriers)) {}

  // Before the exchange's begin, after which all blocks have begun.
  FUSED_RNN_DEVICE void begin() const {
    if constexpr (kInCluster) {
      if (thread_index() != 0) return;
      for (int b = 0; b < kNormBarriers; ++b) init_barrier(&barriers_[b], 1);
      publish_barriers();
      for (int b = 0; b < kNormBarriers; ++b) arrive_expecting(&barriers_[b], bytes(b / 2));
    }
  }

  // By whole warps, whose lanes have one octet: `each(add)` adds what the lane's unit has, `gates` values.
  template <class Each>
  FUSED_RNN_DEVICE void put_moments(int slot, const Place& at, int gates, const Each& each) const {
    float sum = 0.0f, squares = 0.0f;
    if (at.exists) each([&](float value) { sum += value; });
    sum = over_lanes(sum);
    const float mean = sum * inverse_units(at.octet) / static_cast<float>(gates);
    if (at.exists) each([&](float value) { squares += (value - mean) * (value - mean); });
    put(slot, at, sum, over_lanes(squares));
  }
  FUSED_RNN_DEVICE void put_totals(int slot, const Place& at, const NormMeans<float>& totals) const {
    put(slot, at, over_lanes(totals.of_g), over_lanes(totals.of_product));
  }

  // What forward's gates or the gradients of backward's have of this step, and with the latter the next step's moments.
  FUSED_RNN_DEVICE void meet_at_gates(unsigned phase, int set) const {
    meet(0, phase, {0, kGroups}, {moments_slot(set, 0), Pass::kBackward ? kNorms : 0});
  }
  FUSED_RNN_DEVICE void meet_at_c(unsigned phase) const { meet(1, phase, {kOfC, 1}, {0, 0}); }

  FUSED_RNN_DEVICE static int moments_slot(int set, int norm) { return kFirstMoments + set * kNorms + norm; }

  // By whole warps.
  FUSED_RNN_DEVICE NormMoments<float> moments(int slot, int column, int gates) const {
    const float each = 1.0f / static_cast<float>(gates);
    float sum = 0.0f, squares = 0.0f;
    for_each_octet(slot, column, [&](int, const Pair& pair) { sum += pair.first; });
    const float mean = over_lanes(sum) * (numbers_.of_all * each);
    for_each_octet(slot, column, [&](int octet, const Pair& pair) {
      const float off = pair.first * (inverse_units(octet) * each) - mean;
      squares += pair.second + off * off * static_cast<float>(gates * units_of(octet));
    });
    return NormMoments<float>::of(mean, over_lanes(squares) * (numbers_.of_all * each));
  }
  FUSED_RNN_DEVICE NormMeans<float> means(int slot, int column, int gates) const {
    NormMeans<float> totals{};
    for_each_octet(slot, column, [&](int, const Pair& pair) {
      totals.of_g += pair.first;
      totals.of_product += pair.second;
    });
    const float each = numbers_.of_all / static_cast<float>(gates);
    return {over_lanes(totals.of_g) * each, over_lanes(totals.of_product) * each};
  }

 private:
  struct alignas(8) Pair {
    float first, second;
  };
  struct Slots {
    int first, count;
  };
  static constexpr int kChunk = 16;  // bytes that a lane sends at once

  FUSED_RNN_DEVICE int units_of(int octet) const { return octet + 1 < numbers_.used ? kOctet : numbers_.rest; }
  FUSED_RNN_DEVICE float inverse_units(int octet) const {
    return octet + 1 < numbers_.used ? numbers_.of_octet : numbers_.of_rest;
  }
  FUSED_RNN_DEVICE Pair* pairs(int slot) const { return pairs_ + slot * numbers_.octets * numbers_.columns; }
  // What the eight lanes with this lane's row have.
  FUSED_RNN_DEVICE static float over_lanes(float value) {
#pragma unroll
    for (int mask = 4; mask < kWarpLanes; mask *= 2) value += bits_to_float(shuffle_xor(float_to_bits(value), mask));
    return value;
  }
  FUSED_RNN_DEVICE void put(int slot, const Place& at, float first, float second) const {
    if (lane_index() / 4 == 0) pairs(slot)[at.octet * numbers_.columns + at.column] = {first, second};
  }
  template <class Visitor>
  FUSED_RNN_DEVICE void for_each_octet(int slot, int column, const Visitor& visit) const {
    const Pair* const of_column = pairs(slot) + column;
    // Loads of four octets overlap; one turn is for 256 units.
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (int first = lane_index() / 4; first < numbers_.used; first += kAtOnce * kOctet) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int octet = first + i * kOctet;
        if (octet < numbers_.used) visit(octet, of_column[octet * numbers_.columns]);
      }
    }
  }

  // Bytes that a block gets from the others in a meeting.
  FUSED_RNN_DEVICE int bytes(int meeting) const {
    const int slots = meeting == 0 ? kGroups + (Pass::kBackward ? kNorms : 0) : 1;
    return slots * (numbers_.ranks - 1) * numbers_.own_bytes;
  }
  // `phase` counts the meetings of one kind. They have two barriers in turn: a thread may still wait for the phase
  // before when other blocks have sent all of this one.
  FUSED_RNN_DEVICE void meet(int meeting, unsigned phase, const Slots& some, const Slots& others) const {
    sync_block();  // the pairs of this block are written
    if constexpr (kInCluster) {
      const int own = cluster_rank();
      TransactionBarrier* const barrier = &barriers_[2 * meeting + phase % 2];
#pragma unroll 1
      for (int rank = warp_index(); rank < numbers_.ranks; rank += kPersistentWarps) {
        if (rank == own) continue;
        for (int i = 0; i < some.count; ++i) push(some.first + i, own, rank, barrier);
        for (int i = 0; i < others.count; ++i) push(others.first + i, own, rank, barrier);
      }
      wait_parity(barrier, static_cast<int>(phase / 2 % 2));
      if (thread_index() == 0) arrive_expecting(barrier, bytes(meeting));
    }
  }
  FUSED_RNN_DEVICE void push(int slot, int own, int rank, TransactionBarrier* own_barrier) const {
    const SharedAddress barrier = peer_address(shared_address(own_barrier), rank);
    auto* const from = reinterpret_cast<unsigned char*>(pairs(slot)) + own * numbers_.own_bytes;
#pragma unroll 1
    for (int at = lane_index() * kChunk; at < numbers_.own_bytes; at += kWarpLanes * kChunk) {
      store_async(peer_address(shared_address(from + at), rank), load_words(from + at), barrier);
    }
  }

  const Numbers& numbers_;
  Pair* pairs_;
  TransactionBarrier* barriers_;
};

}  // namespace fused_rnn::cuda
