// The CPU schedule of a backward sweep with the gradients of weights: whenever the threads have walked through a few
// steps, they multiply the gate gradients of these, which are still in the caches.
#pragma once

#include <vector>

#include "cpu/gemm/matrix_product.h"
#include "cpu/schedules/sweep_backward.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// A thread's part of all the work, in which it waits for nobody.
template <class T>
class Multiplier {
 public:
  Multiplier(const MatrixWork& work, int threads, Arena& arena) {
    gemms_.reserve(work.size());
    for (const MatrixProduct& gemm : work) gemms_.emplace_back(gemm, threads, arena);
  }

  void run(int thread) const {
    for (const auto& gemm : gemms_) gemm.run(thread);
  }

 private:
  std::vector<MatrixMultiplier<T>> gemms_;
};

// A backward sweep and the work on its gate gradients, which the threads divide in another way.
template <class Sweep>
class SweepWithGradients {
 public:
  SweepWithGradients(const Problem& problem, const BackwardViews& views, const Plan& plan, const GradientWork& work,
                     Arena& arena)
      : sweep_(make_in<Sweep>(arena, problem, views, plan)), steps_(work.steps) {
    const Arena start = arena;
    const auto add = [&](const MatrixWork& some) {
      Arena own = start;
      works_.emplace_back(some, plan.threads(), own);
      arena.cover(own);
    };
    works_.reserve(work.of_steps.size() + 1);
    for (const MatrixWork& some : work.of_steps) add(some);
    add(work.at_end);
  }

  void before_team() const { sweep_.before_team(); }

  void run(int thread) const {
    sweep_.run(thread, {steps_, this, between_steps});
    sweep_.wait_for_team();
    works_.back().run(thread);
  }

 private:
  static void between_steps(const void* context, int thread, int64_t begin) {
    const auto& self = *static_cast<const SweepWithGradients*>(context);
    if (self.works_.size() == 1) return;
    self.sweep_.wait_for_team();
    self.works_[static_cast<size_t>(begin / self.steps_)].run(thread);
  }

  Sweep sweep_;
  int64_t steps_;
  std::vector<Multiplier<typename Sweep::Element>> works_;  // of the steps together, the first ones first, and of all
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
