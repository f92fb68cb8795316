// The rate of matrix products by mma.sync with all operands in registers, for one block on every multiprocessor.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

template <class T>
void measure(const Gpu& gpu, const char* type, int depth) {
  using Products = MatrixProducts<T>;
  for (const unsigned warps : {4u, 8u, 16u}) {
    const LaunchShape shape{.grid_x = static_cast<unsigned>(gpu.multiprocessors), .threads = warps * kWarpLanes};
    const size_t threads = static_cast<size_t>(shape.grid_x) * shape.threads;
    const DeviceArray<float> result(threads * Products::kTiles * 4);
    const auto enqueue = [&](int rounds) { launch(Products{rounds, result.data()}, shape, nullptr); };
    constexpr int kFew = 1000, kMany = 21000;  // sums of small whole numbers stay exact in float32
    enqueue(1);
    const std::vector<float> once = result.read();
    const Spread ns = nanoseconds_per_round(kFew, kMany, enqueue);
    finish();
    const std::vector<float> many = result.read();
    bool right = std::any_of(once.begin(), once.end(), [](float x) { return x != 0.0f; });
    for (size_t i = 0; i < once.size(); ++i) right = right && many[i] == once[i] * kMany;
    const double operations = 2.0 * 16 * 8 * depth * Products::kTiles * warps;  // of one block in one round
    Line("mma_rate")
        .text("type", type)
        .number("warps", warps)
        .nanoseconds(ns)
        .number("gflops_per_sm", operations / ns.median)
        .number("tflops", operations / ns.median * gpu.multiprocessors / 1e3)
        .flag("verified", right);
  }
}

}  // namespace

int main() {
  return report("mma_rate", [](const Gpu& gpu) {
    measure<BFloat16>(gpu, "bf16 m16n8k16", 16);
    measure<Float16>(gpu, "f16 m16n8k16", 16);
    measure<TFloat32>(gpu, "tf32 m16n8k8", 8);
  });
}
