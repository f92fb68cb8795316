// All blocks of a cluster send their slices to each other: the time of one round. By asynchronous stores of 16 bytes
// from all threads (cluster_exchange), by one bulk copy for each receiver (cluster_bulk_exchange), and by plain remote
// stores of 16 bytes that carry the number of the round, for which the receiver polls (cluster_poll_exchange).
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
FUSED_RNN_DEVICE void order_before_bulk_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
FUSED_RNN_DEVICE void copy_bulk(SharedAddress to, const void* from, int bytes, SharedAddress barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "r"(shared_address(from)), "r"(bytes), "r"(barrier)
               : "memory");
}
FUSED_RNN_DEVICE void store_remote(SharedAddress to, const Words4& value) {
  asm volatile("st.relaxed.cluster.shared::cluster.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.words[0]),
               "r"(value.words[1]), "r"(value.words[2]), "r"(value.words[3])
               : "memory");
}
FUSED_RNN_DEVICE Words4 load_polled(const Words4* from) {
  Words4 value;
  asm volatile("ld.relaxed.cluster.shared::cta.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.words[0]), "=r"(value.words[1]), "=r"(value.words[2]), "=r"(value.words[3])
               : "r"(shared_address(from))
               : "memory");
  return value;
}
#else
FUSED_RNN_DEVICE void store_remote(SharedAddress, const Words4&) {}
FUSED_RNN_DEVICE Words4 load_polled(const Words4*) { return {}; }
FUSED_RNN_DEVICE void order_before_bulk_copies() {}
FUSED_RNN_DEVICE void copy_bulk(SharedAddress, const void*, int, SharedAddress) {}
#endif

// One bulk copy for each receiver, by a thread each.
struct BulkSends {
  FUSED_RNN_DEVICE static void prepare() { order_before_bulk_copies(); }
  FUSED_RNN_DEVICE static void send(const Words4* stage, Words4* place, int chunks, int size,
                                    TransactionBarrier* barrier) {
    const int peer = thread_index();
    if (peer >= size) return;
    copy_bulk(peer_address(shared_address(place), peer), stage, chunks * static_cast<int>(sizeof(Words4)),
              peer_address(shared_address(barrier), peer));
  }
};

// The last word of a chunk is the number of the round, so that 12 of 16 bytes are data. Two buffers suffice: who has a
// round of all blocks knows that each has read the one before.
struct PollExchange {
  static constexpr int kThreads = 512;
  int rounds, chunks;
  uint32_t* result;  // [blocks][chunks]

  static size_t shared_bytes(int cluster, int chunks) {
    return sizeof(Words4) * static_cast<size_t>(2 * cluster + 1) * chunks;
  }

  FUSED_RNN_DEVICE void operator()() const {
    const int rank = cluster_rank(), size = cluster_size(), items = size * chunks;
    Words4* const buffers = reinterpret_cast<Words4*>(dynamic_shared());  // [2][rank][chunk]
    Words4* const stage = buffers + 2 * items;                            // [chunk]
    for (int i = thread_index(); i < 2 * items; i += thread_count()) buffers[i] = {};
    sync_cluster();  // no block stores before the buffers of all are cleared
    for (int round = 0; round < rounds; ++round) {
      const Words4* const received = buffers + (1 - round % 2) * items;
      Words4* const now = buffers + round % 2 * items;
      const uint32_t number = static_cast<uint32_t>(round + 1);
      for (int chunk = thread_index(); chunk < chunks; chunk += thread_count()) {
        const Words4 &own = received[rank * chunks + chunk], &other = received[(rank + 1) % size * chunks + chunk];
        for (int i = 0; i < 3; ++i) {
          const uint32_t next = next_word(own.words[i], other.words[i], rank);
          stage[chunk].words[i] = round == 0 ? first_word(rank, 4 * chunk + i) : next;
        }
        stage[chunk].words[3] = number;
      }
      sync_block();  // the slice is whole, and no thread reads the other buffer any more
      for (int item = thread_index(); item < items; item += thread_count()) {
        const int chunk = item % chunks;
        store_remote(peer_address(shared_address(&now[rank * chunks + chunk]), item / chunks), stage[chunk]);
      }
      for (int item = thread_index(); item < items; item += thread_count()) {
        while (load_polled(&now[item]).words[3] != number) {
        }
      }
      sync_block();  // every chunk is there, and the stage was sent
    }
    const Words4* const last = buffers + (rounds - 1) % 2 * items;
    for (int chunk = thread_index(); chunk < chunks; chunk += thread_count()) {
      result[block_x() * chunks + chunk] = last[rank * chunks + chunk].words[0];
    }
    sync_cluster();  // no block leaves while stores to it are on their way
  }
};

// The first words of a cluster's chunks after the last round, [rank][chunk].
std::vector<uint32_t> expected_words(int size, int chunks, int rounds) {
  std::vector<uint32_t> words(static_cast<size_t>(size) * chunks), next(words.size());
  for (int i = 0; i < size * chunks; ++i) words[i] = first_word(i / chunks, 4 * (i % chunks));
  for (int round = 1; round < rounds; ++round) {
    for (int i = 0; i < size * chunks; ++i) {
      const int rank = i / chunks;
      next[i] = next_word(words[i], words[(rank + 1) % size * chunks + i % chunks], rank);
    }
    words.swap(next);
  }
  return words;
}

template <class Exchange>
void measure(const Gpu& gpu, const char* name, int size, int slice_bytes) {
  const int chunks = slice_bytes / 16;
  LaunchShape shape{.grid_x = static_cast<unsigned>(size),
                    .threads = 256,
                    .shared_bytes = Exchange::shared_bytes(size, chunks),
                    .cluster = static_cast<unsigned>(size)};
  const int most = active_clusters<Exchange>(shape);
  if (most == 0) {
    Line(name).number("cluster", size).text("skipped", "no such cluster fits this device");
    return;
  }
  const int whole = std::max(1, std::min(most, gpu.multiprocessors / size));
  const std::vector<uint32_t> once = expected_words(size, chunks, 4000);
  for (const int clusters : {1, whole}) {
    shape.grid_x = static_cast<unsigned>(size * clusters);
    const DeviceArray<uint32_t> result(once.size() * clusters);
    const Spread ns = nanoseconds_per_round(
        500, 4000, [&](int rounds) { launch(Exchange{rounds, chunks, result.data()}, shape, nullptr); });
    finish();
    const std::vector<uint32_t> found = result.read();
    bool right = true;
    for (size_t i = 0; i < found.size(); ++i) right = right && found[i] == once[i % once.size()];
    Line(name)
        .number("cluster", size)
        .number("clusters", clusters)
        .number("slice_bytes", slice_bytes)
        .nanoseconds(ns)
        .flag("verified", right);
    if (whole == 1) break;
  }
}

}  // namespace

int main() {
  return report("cluster_exchange", [](const Gpu& gpu) {
    if (!gpu.has_clusters) {
      Line("cluster_exchange").text("skipped", "clusters need compute capability 9.0");
      return;
    }
    for (const int size : {2, 4, 8, 16}) {
      for (const int slice_bytes : {64, 256, 1024, 4096}) {
        measure<ClusterExchange>(gpu, "cluster_exchange", size, slice_bytes);
        measure<ClusterExchangeBy<BulkSends>>(gpu, "cluster_bulk_exchange", size, slice_bytes);
        measure<PollExchange>(gpu, "cluster_poll_exchange", size, slice_bytes);
      }
    }
  });
}
