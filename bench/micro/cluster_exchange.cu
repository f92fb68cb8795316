// All blocks of a cluster send their slices to each other by asynchronous stores: the time of one round.
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

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

void measure(const Gpu& gpu, int size, int slice_bytes) {
  const int chunks = slice_bytes / 16;
  LaunchShape shape{.grid_x = static_cast<unsigned>(size),
                    .threads = 256,
                    .shared_bytes = ClusterExchange::shared_bytes(size, chunks),
                    .cluster = static_cast<unsigned>(size)};
  const int most = active_clusters<ClusterExchange>(shape);
  if (most == 0) {
    Line("cluster_exchange").number("cluster", size).text("skipped", "no such cluster fits this device");
    return;
  }
  const int whole = std::max(1, std::min(most, gpu.multiprocessors / size));
  const std::vector<uint32_t> once = expected_words(size, chunks, 4000);
  for (const int clusters : {1, whole}) {
    shape.grid_x = static_cast<unsigned>(size * clusters);
    const DeviceArray<uint32_t> result(once.size() * clusters);
    const Spread ns = nanoseconds_per_round(
        500, 4000, [&](int rounds) { launch(ClusterExchange{rounds, chunks, result.data()}, shape, nullptr); });
    finish();
    const std::vector<uint32_t> found = result.read();
    bool right = true;
    for (size_t i = 0; i < found.size(); ++i) right = right && found[i] == once[i % once.size()];
    Line("cluster_exchange")
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
      for (const int slice_bytes : {64, 256, 1024, 4096}) measure(gpu, size, slice_bytes);
    }
  });
}
