// Runs work on matrices on CPU.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "binding/recurrence_call.h"
#include "cpu/dispatch.h"
#include "cpu/runtime/workspace.h"

namespace fused_rnn {

// Multiplications that are worth one more thread: 18 us of one core, where starting a thread takes 1 to 10.
inline constexpr double kWorthOneThread = 1 << 21;

inline double multiplications(const MatrixWork& work) {
  double size = 0;
  for (const MatrixProduct& product : work) {
    for (const RightFactor& factor : product.factors) {
      size +=
          static_cast<double>(product.rows) * static_cast<double>(product.depth) * static_cast<double>(factor.columns);
    }
  }
  return size;
}

inline int threads_for(double multiplications) {
  const auto most = static_cast<double>(torch::stable::get_num_threads());
  return static_cast<int>(std::clamp(multiplications / kWorthOneThread, 1.0, most));
}

inline void multiply_on_cpu(const MatrixWork& work) {
  if (work.empty()) return;
  const int threads = threads_for(multiplications(work));
  const CpuUnit& unit = active_cpu_unit();
  const Workspace workspace({}, unit.multiply_workspace_bytes(work, threads));
  unit.multiply(work, threads, workspace.data());
}

// A backward pass on CPU with work on its gate gradients, which it does itself where both want as many threads.
inline void run_with_work(const Problem& problem, const BackwardViews& views, const GradientWork& work) {
  const CpuUnit& unit = active_cpu_unit();
  const Plan plan = unit.backward.plan(problem, static_cast<int>(torch::stable::get_num_threads()));
  double size = multiplications(work.at_end);
  for (const MatrixWork& some : work.of_steps) size += multiplications(some);
  if (threads_for(size) == plan.threads()) {
    const Workspace workspace({}, unit.gradients_workspace_bytes(problem, plan, work));
    return unit.gradients(problem, views, plan, work, workspace.data());
  }
  run_on_cpu(unit.backward, problem, views);
  for (auto some = work.of_steps.rbegin(); some != work.of_steps.rend(); ++some) multiply_on_cpu(*some);
  multiply_on_cpu(work.at_end);
}

}  // namespace fused_rnn
