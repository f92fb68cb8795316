// How many clusters run at once when a block takes much of a multiprocessor's shared memory.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

void ask(const Gpu& gpu, unsigned size, int kilobytes) {
  const LaunchShape shape{
      .grid_x = size, .threads = 256, .shared_bytes = static_cast<size_t>(kilobytes) * 1024, .cluster = size};
  Line line("active_clusters");
  line.number("cluster", size).number("shared_kb", kilobytes);
  if (kilobytes * 1024 > gpu.shared_bytes) {
    line.text("skipped", "more shared memory than a block may have");
  } else if (size > 1 && !gpu.has_clusters) {
    line.text("skipped", "clusters need compute capability 9.0");
  } else if (size == 1) {
    const int blocks = active_blocks<ClusterBarrier>(shape);
    line.number("clusters", blocks).number("blocks", blocks);
  } else {
    try {
      const int clusters = active_clusters<ClusterBarrier>(shape);
      line.number("clusters", clusters).number("blocks", clusters * static_cast<int>(size));
    } catch (const std::exception& error) {
      line.text("skipped", error.what());
    }
  }
}

}  // namespace

int main() {
  return report("active_clusters", [](const Gpu& gpu) {
    for (const int kilobytes : {100, 200, 224}) {
      for (const unsigned size : {1u, 2u, 4u, 8u, 16u}) ask(gpu, size, kilobytes);
    }
  });
}
