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

// One direction of work, forward or backward, of one instruction set.
template <class Views>
struct Schedule {
  Plan (*plan)(const Problem&, int threads);
  std::vector<Plan> (*options)(const Problem&, int threads);  // that were compared, the plan first
  size_t (*workspace_bytes)(const Problem&, const Plan&);
  bool (*rounds_factors)(const Problem&);  // whether it does what the problem allows
  // `workspace` has workspace_bytes and is aligned to Arena::kAlignment.
  void (*run)(const Problem&, const Views&, const Plan&, void* workspace);
};

struct CpuUnit {
  Schedule<ForwardViews> forward;
  Schedule<BackwardViews> backward;
  std::unique_ptr<StepLayer> (*make_step_layer)(const StepProblem&, const StepParameters&);
  // Of work that is not empty, of one type, whose factors are all rounded or none.
  size_t (*multiply_workspace_bytes)(const MatrixWork&, int threads);
  void (*multiply)(const MatrixWork&, int threads, void* workspace);
  // A sweep whose threads do the work on its gate gradients between their steps.
  size_t (*gradients_workspace_bytes)(const Problem&, const Plan&, const GradientWork&);
  void (*gradients)(const Problem&, const BackwardViews&, const Plan&, const GradientWork&, void* workspace);
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
