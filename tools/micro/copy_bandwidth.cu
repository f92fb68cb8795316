// Bandwidth of a copy within device memory, bytes read and bytes written counted, by the runtime and by a kernel.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

int main() {
  return report("copy_bandwidth", [](const Gpu& gpu) {
    size_t free_bytes = 0, all_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo");
    const size_t bytes = std::min<size_t>(size_t{4} << 30, free_bytes / 4 / 4096 * 4096);
    const DeviceArray<unsigned char> from(bytes), to(bytes);
    const DeviceArray<int> wrong(1);
    const int blocks = 4 * gpu.multiprocessors;
    const LaunchShape shape{.grid_x = static_cast<unsigned>(blocks), .threads = 512};
    const auto words = [&](const DeviceArray<unsigned char>& array, int* count_wrong) {
      const int64_t count = static_cast<int64_t>(bytes / 4);
      launch(Scrambled{reinterpret_cast<uint32_t*>(array.data()), count, blocks, count_wrong}, shape, nullptr);
    };
    words(from, nullptr);
    const auto measure = [&](const char* how, const auto& copy) {
      to.fill(0xff);
      const Spread ms = time(copy);
      wrong.fill(0);
      words(to, wrong.data());
      finish();
      Line("copy_bandwidth")
          .text("how", how)
          .number("bytes", static_cast<double>(bytes))
          .number("gb_per_s_best", 2e-6 * static_cast<double>(bytes) / ms.min)
          .number("gb_per_s_median", 2e-6 * static_cast<double>(bytes) / ms.median)
          .flag("verified", wrong.read()[0] == 0);
    };
    measure("cudaMemcpyAsync", [&] {
      check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, nullptr), "cudaMemcpyAsync");
    });
    measure("kernel", [&] {
      launch(Copy{reinterpret_cast<const Words4*>(from.data()), reinterpret_cast<Words4*>(to.data()),
                  static_cast<int64_t>(bytes / 16), blocks},
             shape, nullptr);
    });
  });
}
