// Which instruction sets this machine can run, which one is used, and the kernels compiled for it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/views.h"
#include "cpu/gemm/matrices.h"
#include "cpu/runtime/plan.h"
#include "cpu/runtime/stepping.h"

namespace fused_rnn {

// How a pass is run. `workspace` has workspace_bytes and is aligned to Arena::kAlignment.
template <class Views>
struct Schedule {
  Plan (*plan)(const Problem&, int threads);
  std::vector<Plan> (*options)(const Problem&, int threads);  // that were compared, the plan first
  bool rounds_factors;                                        // whether it does what a problem allows
  size_t (*workspace_bytes)(const Problem&, const Plan&);
  void (*run)(const Problem&, const Views&, const Plan&, void* workspace);
};
using ForwardSchedule = Schedule<ForwardViews>;
struct BackwardSchedule : Schedule<BackwardViews> {
  // The threads do the work on gate gradients between their steps. Null where a schedule cannot.
  size_t (*gradients_workspace_bytes)(const Problem&, const Plan&, const GradientWork&);
  void (*run_with_gradients)(const Problem&, const BackwardViews&, const Plan&, void* workspace, const GradientWork&);
};

struct Products {
  size_t (*workspace_bytes)(const MatrixWork&, int threads);
  void (*run)(const MatrixWork&, int threads, void* workspace);
};

// The kernels of one instruction set.
struct CpuUnit {
  const ForwardSchedule& (*forward)(const Problem&);
  const BackwardSchedule& (*backward)(const Problem&);
  std::unique_ptr<StepLayer> (*make_step_layer)(const StepProblem&, const StepParameters&);
  const Products& (*products)(DataType, bool rounds_factors);
};

// Compiled in and runnable here, from the plainest to the widest.
std::vector<std::string> cpu_instruction_sets();

// The one in use: the widest that pays, or what the environment variable FUSED_RNN_CPU_ISA names. Read once. Throws
// std::invalid_argument where the variable names one that is unknown or cannot run here.
const std::string& active_cpu_instruction_set();
const CpuUnit& active_cpu_unit();

// Its vectors: of what is built for several sets with the same ones (avx512, avx512_vnni), the first.
const std::string& active_cpu_isa();

}  // namespace fused_rnn
