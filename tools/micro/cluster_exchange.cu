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
      }
    }
  });
}
