// The time from one kernel to the next that depends on it: launches of a stream and nodes of a CUDA graph, with and
// without programmatic dependent launch, by which a kernel starts while the one before it ends and waits there.
#include "cuda/launch_error.h"
#include "harness.h"
#include "kernels.cuh"

using namespace fused_rnn::micro;

namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
FUSED_RNN_DEVICE void let_dependents_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
FUSED_RNN_DEVICE void wait_for_dependency() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
#else
FUSED_RNN_DEVICE void let_dependents_start() {}
FUSED_RNN_DEVICE void wait_for_dependency() {}
#endif

// Each block adds one to its number and to that of the next block, in turns: so a kernel needs what the one before it
// made in other blocks.
struct Step {
  static constexpr int kThreads = 256;
  const uint32_t* from;
  uint32_t* to;  // [blocks]
  int blocks;

  FUSED_RNN_DEVICE void operator()() const {
    let_dependents_start();
    wait_for_dependency();
    const int rank = block_x();
    if (thread_index() == 0) to[rank] = next_word(from[rank], from[(rank + 1) % blocks], static_cast<uint32_t>(rank));
  }
};

std::vector<uint32_t> expected_words(int blocks, int steps) {
  std::vector<uint32_t> now(static_cast<size_t>(blocks)), next(now.size());
  for (int step = 0; step < steps; ++step) {
    for (int i = 0; i < blocks; ++i) next[i] = next_word(now[i], now[(i + 1) % blocks], static_cast<uint32_t>(i));
    now.swap(next);
  }
  return now;
}

class Chain {
 public:
  Chain(int blocks, bool early) : blocks_(blocks), early_(early), words_(2 * static_cast<size_t>(blocks)) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  ~Chain() { static_cast<void>(cudaStreamDestroy(stream_)); }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  cudaStream_t stream() const { return stream_; }
  void enqueue(int steps) const {
    const LaunchShape shape{.grid_x = static_cast<unsigned>(blocks_), .threads = Step::kThreads};
    LaunchConfig<Step> launch_config(shape, stream_);
    if (early_) {
      cudaLaunchAttribute& attribute = launch_config.attributes[launch_config.config.numAttrs++];
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    for (int step = 0; step < steps; ++step) {
      uint32_t *from = words_.data() + step % 2 * blocks_, *to = words_.data() + (step + 1) % 2 * blocks_;
      check(cudaLaunchKernelEx(&launch_config.config, run_kernel<Step>, Step{from, to, blocks_}), "cudaLaunchKernelEx");
    }
  }
  // Milliseconds of what `work` puts on the stream.
  template <class Work>
  double milliseconds(const Work& work) const {
    words_.fill(0);
    finish();
    Event start, end;
    start.record(stream_);
    work();
    end.record(stream_);
    return end.milliseconds_since(start);
  }
  bool is_right(int steps) const {
    finish();
    const std::vector<uint32_t> words = words_.read(), expected = expected_words(blocks_, steps);
    return std::equal(expected.begin(), expected.end(), words.begin() + steps % 2 * blocks_);
  }

 private:
  int blocks_;
  bool early_;
  DeviceArray<uint32_t> words_;
  cudaStream_t stream_ = nullptr;
};

// Launches of a chain, recorded once.
class Graph {
 public:
  Graph(const Chain& chain, int steps) : stream_(chain.stream()) {
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    chain.enqueue(steps);
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    static_cast<void>(cudaGraphDestroy(graph));
    check(error, "cudaGraphInstantiate");
  }
  ~Graph() { static_cast<void>(cudaGraphExecDestroy(executable_)); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch() const { check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

void measure(int blocks, bool early) {
  constexpr int kFew = 32, kMany = 544, kRepeats = 15;
  const Chain chain(blocks, early);
  const auto report_slope = [&](const char* how, const auto& few, const auto& many) {
    std::vector<double> samples;
    for (int i = -2; i < kRepeats; ++i) {
      const double of_few = chain.milliseconds(few);
      const double ns = (chain.milliseconds(many) - of_few) * 1e6 / (kMany - kFew);
      if (i >= 0) samples.push_back(ns);
    }
    Line("graph_gap")
        .text("how", how)
        .flag("dependent_launch", early)
        .number("blocks", blocks)
        .nanoseconds(spread(samples))
        .flag("verified", chain.is_right(kMany));
  };
  report_slope("stream", [&] { chain.enqueue(kFew); }, [&] { chain.enqueue(kMany); });
  const Graph few(chain, kFew), many(chain, kMany);
  report_slope("graph", [&] { few.launch(); }, [&] { many.launch(); });
}

}  // namespace

int main() {
  return report("graph_gap", [](const Gpu& gpu) {
    for (const int blocks : {1, gpu.multiprocessors}) {
      measure(blocks, false);
      if (gpu.has_clusters) measure(blocks, true);
    }
    if (!gpu.has_clusters) {
      Line("graph_gap").text("skipped", "programmatic dependent launch needs compute capability 9.0");
    }
  });
}
