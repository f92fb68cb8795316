// The barrier of a block by __syncthreads, and by a transaction barrier in its shared memory.
#include "block_kernels.cuh"
#include "cuda/launch_error.h"
#include "harness.h"

using namespace fused_rnn::micro;

namespace {

template <Meeting kMeeting>
void measure(const char* how) {
  using Barrier = LocalBarrier<kMeeting>;
  constexpr int kFew = 1000, kMany = 11000;
  for (const unsigned threads : {128u, 256u, 512u, 1024u}) {
    const LaunchShape shape{.threads = threads, .shared_bytes = Barrier::shared_bytes(static_cast<int>(threads))};
    const DeviceArray<uint32_t> result(threads);
    const Spread ns =
        nanoseconds_per_round(kFew, kMany, [&](int rounds) { launch(Barrier{rounds, result.data()}, shape, nullptr); });
    finish();
    Line("local_barrier")
        .text("how", how)
        .number("warps", threads / kWarpLanes)
        .nanoseconds(ns)
        .flag("verified", result.read() == local_barrier_words(static_cast<int>(threads), kMany));
  }
}

}  // namespace

int main() {
  return report("local_barrier", [](const Gpu& gpu) {
    measure<Meeting::kBlockBarrier>("bar.sync");
    if (!gpu.has_clusters) {
      Line("local_barrier").text("skipped", "transaction barriers need compute capability 9.0");
      return;
    }
    measure<Meeting::kThreadsArrive>("mbarrier, threads arrive");
    measure<Meeting::kWarpsArrive>("mbarrier, warps arrive");
  });
}
