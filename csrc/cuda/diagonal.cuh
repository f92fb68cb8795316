// What per_step is for a cell whose gates read x alone: one kernel for the whole sequence.
//
// There is no GEMM, and nothing joins units: a thread walks through time with one unit of one row, whose state stays
// in registers. What a step reads does not depend on the steps before, so it is loaded several steps ahead.
#pragma once

#include "cuda/launch.h"
#include "cuda/pass.cuh"
#include "cuda/products.h"

namespace fused_rnn::cuda {

template <class Pass>
struct DiagonalKernel {
  using T = typename Pass::T;
  using Index = int64_t;
  static constexpr int kThreads = 64;         // few, so that a small batch has blocks for all multiprocessors
  static constexpr int kPrefetchedSteps = 4;  // steps that are loaded before they are needed

  typename Pass::Views views;
  Index time_steps, batch;
  int heads, hidden_size;

  FUSED_RNN_DEVICE void operator()() const {
    const Index index = static_cast<Index>(block_x()) * kThreads + thread_index();
    if (index >= batch * hidden_size) return;
    const Element e{static_cast<int>(index / hidden_size), block_y(), static_cast<int>(index % hidden_size)};
    const Direction direction = direction_of(e.direction, heads);
    const auto moment = [&](Index step) { return moment_at(Pass::position(step, time_steps), direction, time_steps); };
    auto state = Pass::first_state(views, e, first_time(time_steps, direction), hidden_size);
    typename Pass::Inputs prefetched[kPrefetchedSteps];
#pragma unroll
    for (int k = 0; k < kPrefetchedSteps; ++k) {
      if (k < time_steps) prefetched[k] = Pass::load(views, e, moment(k), hidden_size);
    }
#pragma unroll 1
    for (Index first = 0; first < time_steps; first += kPrefetchedSteps) {
#pragma unroll
      for (int k = 0; k < kPrefetchedSteps; ++k) {
        const Index step = first + k;
        if (step >= time_steps) break;
        const typename Pass::Inputs inputs = prefetched[k];
        if (step + kPrefetchedSteps < time_steps)
          prefetched[k] = Pass::load(views, e, moment(step + kPrefetchedSteps), hidden_size);
        typename Pass::Made made;
        state = Pass::update(views, e, moment(step), hidden_size, inputs, {}, state, made);
        Pass::store(views, e, moment(step), hidden_size, made);
      }
    }
    Pass::end(views, e, hidden_size, state, {});
  }
};

// Has the functions of PerStep.
template <class Pass>
class Diagonal {
 public:
  Diagonal(const Problem& problem, const typename Pass::Views& views, Products& /*products*/, void* /*workspace*/,
           Stream stream)
      : problem_(problem), views_(views), stream_(stream) {}

  static size_t workspace_bytes(const Problem& /*problem*/) { return 0; }

  void run() {
    using Kernel = DiagonalKernel<Pass>;
    const int64_t units = problem_.batch * problem_.hidden_size;
    if (units == 0) return;
    launch(Kernel{views_, problem_.time_steps, problem_.batch, static_cast<int>(problem_.heads),
                  static_cast<int>(problem_.hidden_size)},
           {.grid_x = static_cast<unsigned>((units + Kernel::kThreads - 1) / Kernel::kThreads),
            .grid_y = static_cast<unsigned>(problem_.directions),
            .threads = Kernel::kThreads},
           stream_);
  }

 private:
  Problem problem_;
  typename Pass::Views views_;
  Stream stream_;
};

}  // namespace fused_rnn::cuda
