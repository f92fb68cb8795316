// All blocks of a cluster send their slices to each other: the time of one round. By asynchronous stores of 16 bytes
// from all threads (cluster_exchange), and by one bulk copy for each receiver (cluster_bulk_exchange).
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
#else
FUSED_RNN_DEVICE void order_before_bulk_copies() {}
FUSED_RNN_DEVICE void copy_bulk(SharedAddress, const void*, int, SharedAddress) {}
#endif

// As ClusterExchange, whose memory it has.
struct ClusterBulkExchange : ClusterExchange {
  FUSED_RNN_DEVICE void operator()() const {
    const int rank = cluster_rank(), size = cluster_size(), items = size * chunks;
    TransactionBarrier* barriers = reinterpret_cast<TransactionBarrier*>(dynamic_shared());
    Words4* buffers = reinterpret_cast<Words4*>(dynamic_shared() + 2 * sizeof(TransactionBarrier));
    Words4* stages = buffers + 2 * items;
    if (thread_index() == 0) {
      init_barrier(&barriers[0], 1);
      init_barrier(&barriers[1], 1);
      publish_barriers();
    }
    sync_cluster();
    for (int round = 0; round < rounds; ++round) {
      const int now = round % 2;
      Words4* stage = stages + now * chunks;
      if (thread_index() == 0) arrive_expecting(&barriers[now], items * static_cast<int>(sizeof(Words4)));
      for (int chunk = thread_index(); chunk < chunks; chunk += thread_count()) {
        store_words(&stage[chunk], outgoing(buffers + (1 - now) * items, round, chunk, rank, size));
      }
      order_before_bulk_copies();
      sync_block();
      if (thread_index() < size) {
        const int peer = thread_index();
        copy_bulk(peer_address(shared_address(&buffers[now * items + rank * chunks]), peer), stage,
                  chunks * static_cast<int>(sizeof(Words4)), peer_address(shared_address(&barriers[now]), peer));
      }
      wait_parity(&barriers[now], round / 2 % 2);
    }
    const Words4* last = buffers + (rounds - 1) % 2 * items;
    for (int chunk = thread_index(); chunk < chunks; chunk += thread_count()) {
      result[block_x() * chunks + chunk] = last[rank * chunks + chunk].words[0];
    }
    sync_cluster();
  }
};

struct ClusterStoreExchange : ClusterExchange {};

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
        500, 4000, [&](int rounds) { launch(Exchange{{rounds, chunks, result.data()}}, shape, nullptr); });
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
        measure<ClusterStoreExchange>(gpu, "cluster_exchange", size, slice_bytes);
        measure<ClusterBulkExchange>(gpu, "cluster_bulk_exchange", size, slice_bytes);
      }
    }
  });
}
