// The kernels that need no more than the vocabulary of cuda/device.h; so they also run in the emulator.
#pragma once

#include "cuda/device.h"

namespace fused_rnn::micro {

using namespace fused_rnn::cuda;

// What exchanges carry: word `word` of block `rank` in the next round, from its own and its right neighbour's.
FUSED_RNN_HD inline uint32_t next_word(uint32_t own, uint32_t neighbour, uint32_t rank) {
  return 3 * own + neighbour + rank;
}
FUSED_RNN_HD inline uint32_t first_word(uint32_t rank, uint32_t word) { return 1000003u * (rank + 1) + word; }

struct ClusterBarrier {
  static constexpr int kThreads = 512;
  int rounds;
  int* finished;  // [blocks]

  FUSED_RNN_DEVICE void operator()() const {
    for (int round = 0; round < rounds; ++round) sync_cluster();
    if (thread_index() == 0) finished[block_x()] = rounds;
  }
};

// Stores of 16 bytes from all threads.
struct StoreSends {
  FUSED_RNN_DEVICE static void prepare() {}
  FUSED_RNN_DEVICE static void send(const Words4* stage, Words4* place, int chunks, int size,
                                    TransactionBarrier* barrier) {
    for (int item = thread_index(); item < size * chunks; item += thread_count()) {
      const int chunk = item % chunks, peer = item / chunks;
      store_async(peer_address(shared_address(&place[chunk]), peer), load_words(&stage[chunk]),
                  peer_address(shared_address(barrier), peer));
    }
  }
};

// In each round every block makes its next slice of what has come, and sends it to every block of its cluster, itself
// included, into one of two buffers. Who completes a round has the slices of all, and they were
// sent after a barrier of the block that follows every read of the round before: so two buffers suffice.
//
// `Sends` says how a block's stage reaches its place in the buffer of every block.
template <class Sends>
struct ClusterExchangeBy {
  static constexpr int kThreads = 512;
  int rounds, chunks;  // a slice has `chunks` times 16 bytes
  uint32_t* result;    // [blocks][chunks]: the first word of each chunk after the last round

  FUSED_RNN_HD inline static size_t shared_bytes(int cluster, int chunks) {
    return 2 * sizeof(TransactionBarrier) + 2 * sizeof(Words4) * static_cast<size_t>(cluster + 1) * chunks;
  }

  FUSED_RNN_DEVICE void operator()() const {
    const int rank = cluster_rank(), size = cluster_size(), items = size * chunks;
    TransactionBarrier* barriers = reinterpret_cast<TransactionBarrier*>(dynamic_shared());
    Words4* buffers = reinterpret_cast<Words4*>(dynamic_shared() + 2 * sizeof(TransactionBarrier));
    Words4* stages = buffers + 2 * items;  // [2][chunks]: a slow thread may still send the last slice
    if (thread_index() == 0) {
      init_barrier(&barriers[0], 1);
      init_barrier(&barriers[1], 1);
      publish_barriers();
    }
    sync_cluster();  // the barriers of every block are ready for the stores of its peers
    for (int round = 0; round < rounds; ++round) {
      const int now = round % 2;
      Words4* stage = stages + now * chunks;
      if (thread_index() == 0) arrive_expecting(&barriers[now], items * static_cast<int>(sizeof(Words4)));
      for (int chunk = thread_index(); chunk < chunks; chunk += thread_count()) {
        store_words(&stage[chunk], outgoing(buffers + (1 - now) * items, round, chunk, rank, size));
      }
      Sends::prepare();
      sync_block();  // the slice is whole, and no thread reads the other buffer any more
      Sends::send(stage, buffers + now * items + rank * chunks, chunks, size, &barriers[now]);
      wait_parity(&barriers[now], round / 2 % 2);
    }
    const Words4* last = buffers + (rounds - 1) % 2 * items;
    for (int chunk = thread_index(); chunk < chunks; chunk += thread_count()) {
      result[block_x() * chunks + chunk] = last[rank * chunks + chunk].words[0];
    }
    sync_cluster();  // no block leaves while stores to it are on their way
  }

 private:
  FUSED_RNN_DEVICE Words4 outgoing(const Words4* received, int round, int chunk, int rank, int size) const {
    Words4 value;
    if (round == 0) {
      for (int i = 0; i < 4; ++i) value.words[i] = first_word(rank, 4 * chunk + i);
      return value;
    }
    const Words4 own = load_words(&received[rank * chunks + chunk]);
    const Words4 neighbour = load_words(&received[(rank + 1) % size * chunks + chunk]);
    for (int i = 0; i < 4; ++i) value.words[i] = next_word(own.words[i], neighbour.words[i], rank);
    return value;
  }
};

using ClusterExchange = ClusterExchangeBy<StoreSends>;

struct GridBarrier {
  static constexpr int kThreads = 256;
  int rounds, blocks;
  BlockBarrier* barrier;
  int* wrong;       // counts what was not there after a barrier
  int* written_by;  // [2][blocks]: the round in which each block wrote, for even and odd rounds
  bool verify;

  FUSED_RNN_DEVICE void operator()() const {
    for (int round = 0; round < rounds; ++round) {
      int* const written = written_by + round % 2 * blocks;
      if (verify && thread_index() == 0) written[block_x()] = round;
      sync_block();
      if (thread_index() == 0) {
        arrive_blocks(barrier);
        wait_blocks(barrier, static_cast<uint32_t>(round + 1) * static_cast<uint32_t>(blocks));
      }
      sync_block();
      if (!verify) continue;
      for (int i = thread_index(); i < blocks; i += thread_count()) {
        if (written[i] != round) wrong[block_x()] = 1;
      }
    }
  }
};

// Products with both operands in registers: each warp has kTiles tiles of A and as many sums.
template <class T>
struct MatrixProducts {
  static constexpr int kThreads = 512, kTiles = 8;
  int rounds;
  float* result;  // [blocks][threads][kTiles][4]

  FUSED_RNN_DEVICE void operator()() const {
    uint32_t a[kTiles][4], b[2];
    float d[kTiles][4] = {};
    uint32_t state = 747796405u * static_cast<uint32_t>(thread_index() + 1);
    for (auto& tile : a) {
      for (uint32_t& word : tile) word = plus_or_minus_ones(state);
    }
    for (uint32_t& word : b) word = plus_or_minus_ones(state);
    for (int round = 0; round < rounds; ++round) {
      for (int tile = 0; tile < kTiles; ++tile) mma(T{}, d[tile], a[tile], b);
    }
    float* own = result + (static_cast<int64_t>(block_x()) * thread_count() + thread_index()) * (kTiles * 4);
    for (int i = 0; i < kTiles * 4; ++i) own[i] = d[i / 4][i % 4];
  }

 private:
  // Random signs: products of zeros or of equal numbers would take less power, and so run at a higher clock.
  FUSED_RNN_DEVICE static uint32_t plus_or_minus_ones(uint32_t& state) {
    state = state * 1664525u + 1013904223u;
    if constexpr (sizeof(T) == sizeof(uint32_t)) {
      return float_to_bits((state >> 31) != 0 ? -1.0f : 1.0f);
    } else {
      const uint32_t one = round_float(T{}, 1.0f).bits;
      return (one | (state >> 31) << 15) | (one | (state >> 30 & 1u) << 15) << 16;
    }
  }
};

// A copy of 16 bytes at a time by all blocks.
struct Copy {
  static constexpr int kThreads = 512;
  const Words4* from;
  Words4* to;
  int64_t count;
  int blocks;

  FUSED_RNN_DEVICE void operator()() const {
    const int64_t stride = static_cast<int64_t>(blocks) * thread_count();
    for (int64_t i = static_cast<int64_t>(block_x()) * thread_count() + thread_index(); i < count; i += stride) {
      store_words(&to[i], load_words(&from[i]));
    }
  }
};

FUSED_RNN_HD inline uint32_t scrambled(uint64_t index) {
  const uint32_t mixed = static_cast<uint32_t>(index) * 2654435761u + static_cast<uint32_t>(index >> 32);
  return mixed ^ mixed >> 15;
}

// Fills with scrambled numbers, or counts where they are not.
struct Scrambled {
  static constexpr int kThreads = 512;
  uint32_t* words;
  int64_t count;
  int blocks;
  int* wrong;  // null: fill; else set to 1 where a number differs

  FUSED_RNN_DEVICE void operator()() const {
    const int64_t stride = static_cast<int64_t>(blocks) * thread_count();
    for (int64_t i = static_cast<int64_t>(block_x()) * thread_count() + thread_index(); i < count; i += stride) {
      if (wrong == nullptr) {
        words[i] = scrambled(static_cast<uint64_t>(i));
      } else if (words[i] != scrambled(static_cast<uint64_t>(i))) {
        *wrong = 1;
      }
    }
  }
};

}  // namespace fused_rnn::micro
