// The cost of a barrier of a whole cluster, for one cluster and for as many as the device runs at once.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

int main() {
  return report("cluster_barrier", [](const Gpu& gpu) {
    if (!gpu.has_clusters) {
      Line("cluster_barrier").text("skipped", "clusters need compute capability 9.0");
      return;
    }
    for (const unsigned size : {2u, 4u, 8u, 16u}) {
      LaunchShape shape{.grid_x = size, .threads = 256, .cluster = size};
      const int most = active_clusters<ClusterBarrier>(shape);
      if (most == 0) {
        Line("cluster_barrier").number("cluster", size).text("skipped", "no such cluster fits this device");
        continue;
      }
      const int whole = std::max(1, std::min(most, gpu.multiprocessors / static_cast<int>(size)));
      for (const int clusters : {1, whole}) {
        shape.grid_x = size * static_cast<unsigned>(clusters);
        const DeviceArray<int> finished(shape.grid_x);
        const Spread ns = nanoseconds_per_round(
            1000, 11000, [&](int rounds) { launch(ClusterBarrier{rounds, finished.data()}, shape, nullptr); });
        finish();
        const std::vector<int> rounds = finished.read();
        Line("cluster_barrier")
            .number("cluster", size)
            .number("clusters", clusters)
            .nanoseconds(ns)
            .flag("verified", std::all_of(rounds.begin(), rounds.end(), [](int r) { return r == 11000; }));
        if (whole == 1) break;
      }
    }
  });
}
