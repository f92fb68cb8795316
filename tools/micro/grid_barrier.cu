// The barrier of blocks that share a counter in L2, for groups up to one block for every multiprocessor.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

int main() {
  return report("grid_barrier", [](const Gpu& gpu) {
    for (const int blocks : {2, 8, 32, gpu.multiprocessors}) {
      const LaunchShape shape{.grid_x = static_cast<unsigned>(blocks), .threads = 256, .cooperative = true};
      const DeviceArray<BlockBarrier> barrier(1);
      const DeviceArray<int> wrong(blocks), written(2 * static_cast<size_t>(blocks));
      barrier.fill(0);
      wrong.fill(0);
      const auto enqueue = [&](int rounds, bool verify) {
        launch(GridBarrier{rounds, blocks, barrier.data(), wrong.data(), written.data(), verify}, shape, nullptr);
      };
      enqueue(1000, true);
      finish();
      const std::vector<int> marks = wrong.read();
      const bool right = std::all_of(marks.begin(), marks.end(), [](int mark) { return mark == 0; });
      barrier.fill(0);
      const Spread ns = nanoseconds_per_round(500, 3500, [&](int rounds) { enqueue(rounds, false); });
      finish();
      Line("grid_barrier").number("blocks", blocks).nanoseconds(ns).flag("verified", right);
    }
  });
}
