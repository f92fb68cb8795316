// The loop of an LSTM of 64 units in one block by itself, and how much of a step each part of it takes.
#include "block_kernels.cuh"
#include "cuda/launch_error.h"
#include "harness.h"

using namespace fused_rnn::micro;

namespace {

template <int kLanes, LoopParts kParts>
void measure(const Gpu& gpu, const char* parts) {
  using Loop = SmallLoop<kLanes, kParts>;
  constexpr int kFew = 500, kMany = 4500, kVerified = 20;
  const std::vector<float> weights = small_loop_values(Loop::kGates * Loop::kUnits * Loop::kUnits, 0.125f);
  const std::vector<float> inputs = small_loop_values(Loop::kGates * Loop::kUnits, 1.0f);
  const DeviceArray<float> held(weights.size()), given(inputs.size());
  held.write(weights);
  given.write(inputs);
  for (const int blocks : {1, gpu.multiprocessors}) {
    const LaunchShape shape{
        .grid_x = static_cast<unsigned>(blocks), .threads = Loop::kThreads, .shared_bytes = Loop::kSharedBytes};
    const DeviceArray<float> result(static_cast<size_t>(blocks) * Loop::kUnits);
    const auto enqueue = [&](int rounds) {
      launch(Loop{rounds, held.data(), given.data(), result.data()}, shape, nullptr);
    };
    const Spread ns = nanoseconds_per_round(kFew, kMany, enqueue);
    enqueue(kVerified);
    finish();
    const std::vector<float> found = result.read();
    const std::vector<double> exact = small_loop_states(weights, inputs, kVerified);
    Line line("small_loop");
    line.number("lanes", kLanes).text("parts", parts).number("blocks", blocks).nanoseconds(ns);
    if (kParts != LoopParts::kAll) continue;
    bool right = true;
    for (size_t i = 0; i < found.size(); ++i) right = right && std::abs(found[i] - exact[i % exact.size()]) < 1e-4;
    line.flag("verified", right);
  }
}

template <int kLanes>
void measure_parts(const Gpu& gpu) {
  measure<kLanes, LoopParts::kBarrier>(gpu, "barrier");
  measure<kLanes, LoopParts::kGemm>(gpu, "barrier, GEMM");
  measure<kLanes, LoopParts::kSums>(gpu, "barrier, GEMM, sums");
  measure<kLanes, LoopParts::kAll>(gpu, "all");
}

}  // namespace

int main() {
  return report("small_loop", [](const Gpu& gpu) {
    measure_parts<4>(gpu);
    measure_parts<8>(gpu);
  });
}
