// Runs work on matrices on CPU.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/workspace.h"

namespace fused_rnn {

// Multiplications that are worth one more thread: 18 us of one core, where starting a thread takes 1 to 10.
inline constexpr double kWorthOneThread = 1 << 21;

inline void multiply_on_cpu(const MatrixWork& work) {
  if (work.products.empty() && work.sums.empty()) return;
  double size = 0;
  for (const MatrixProduct& p : work.products) {
    size += static_cast<double>(p.rows) * static_cast<double>(p.columns) * static_cast<double>(p.depth);
  }
  const int threads =
      static_cast<int>(std::clamp(size / kWorthOneThread, 1.0, static_cast<double>(torch::stable::get_num_threads())));
  const CpuUnit& unit = active_cpu_unit();
  const Workspace workspace({}, unit.multiply_workspace_bytes(work, threads));
  unit.multiply(work, threads, workspace.data());
}

}  // namespace fused_rnn
