// Defines the kernels of cells in one type: what a file of isa/ says in one line for each type.
#pragma once

#include <type_traits>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/schedules/diagonal_backward.h"
#include "cpu/schedules/diagonal_forward.h"
#include "cpu/schedules/packed_step.h"
#include "cpu/schedules/rows_backward.h"
#include "cpu/schedules/rows_forward.h"
#include "cpu/schedules/single_step.h"
#include "cpu/schedules/sweep_backward.h"
#include "cpu/schedules/sweep_forward.h"
#include "cpu/schedules/sweep_with_gradients.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class T>
inline constexpr bool kPaired = !std::is_same_v<T, Unpaired<T>>;

// Types that are rare, or slow in any case, have no instance of the plain recurrence: that of its variants computes it,
// too. They are float64, float16, and bfloat16 where a processor has no instructions for it.
template <class T>
inline constexpr bool kOneInstance =
    std::is_same_v<T, double> || std::is_same_v<T, Float16> || std::is_same_v<T, BFloat16>;

// Whether a step of the cell has a GEMM of h.
template <class Cell>
inline constexpr bool kSweeps = recurrent_gates<Cell>() > 0;

// What a class of schedules offers, as functions that are compiled once for it, whatever processors use it.
template <class Scheduled>
[[gnu::noinline]] void run_thread(void* scheduled, int thread) {
  static_cast<const Scheduled*>(scheduled)->run(thread);
}

template <class Scheduled, class Views, class... Work>
size_t workspace_bytes(const Problem& problem, const Plan& plan, const Work&... work) {
  Arena arena(nullptr);
  make_in<Scheduled>(arena, problem, Views{}, plan, work...);
  return arena.used();
}

template <class Scheduled, class Views, class... Work>
void run(const Problem& problem, const Views& views, const Plan& plan, void* workspace, const Work&... work) {
  const auto run_as = [&](const Plan& used) {
    Arena arena(workspace);
    Scheduled scheduled = make_in<Scheduled>(arena, problem, views, used, work...);
    scheduled.before_team();
    return run_team(used.threads(), run_thread<Scheduled>, &scheduled);
  };
  // Where the threads planned for do not come, one gives the same numbers, and its workspace is no larger.
  for (bool done = run_as(plan); !done;) done = run_as(Plan{});
}

template <class Scheduled>
Plan plan_of(const Problem& problem, int threads) {
  if constexpr (requires { Scheduled::tiling(problem); }) {
    return make_plan(problem, Scheduled::tiling(problem), threads);
  } else {
    return Scheduled::plan(problem, threads);
  }
}

template <class Scheduled>
std::vector<Plan> options_of(const Problem& problem, int threads) {
  if constexpr (requires { Scheduled::tiling(problem); }) {
    return plan_options(problem, Scheduled::tiling(problem), threads);
  } else {
    return {Scheduled::plan(problem, threads)};
  }
}

template <class Scheduled, class Views>
constexpr Schedule<Views> schedule_of() {
  bool rounds = false;
  if constexpr (requires { Scheduled::kRounds; }) rounds = Scheduled::kRounds;
  return {plan_of<Scheduled>, options_of<Scheduled>, rounds, workspace_bytes<Scheduled, Views>, run<Scheduled, Views>};
}

template <class Scheduled>
constexpr BackwardSchedule backward_schedule_of() {
  BackwardSchedule result{schedule_of<Scheduled, BackwardViews>(), nullptr, nullptr};
  if constexpr (requires { typename Scheduled::Between; }) {
    using WithGradients = SweepWithGradients<Scheduled>;
    result.gradients_workspace_bytes = workspace_bytes<WithGradients, BackwardViews, GradientWork>;
    result.run_with_gradients = run<WithGradients, BackwardViews, GradientWork>;
  }
  return result;
}

template <class Scheduled>
inline constexpr ForwardSchedule kForward = schedule_of<Scheduled, ForwardViews>();
template <class Scheduled>
inline constexpr BackwardSchedule kBackward = backward_schedule_of<Scheduled>();

// The schedules of one cell in one type, or null where the kernels have none. A diagonal cell has its own.
template <class Cell, class T>
const ForwardSchedule* forward_of(const Problem& problem) {
  constexpr bool kSteps = std::is_same_v<T, Exact<T>> && Cell::kUnitWeights == 0;
  if constexpr (kSteps) {
    if (is_single_step(problem)) return &kForward<SingleStep<Cell, T>>;
  }
  if constexpr (kSweeps<Cell> && Cell::kUnitWeights == 0) {
    if (!is_variant(problem)) return &kForward<ForwardSweep<Cell, T, kOneInstance<T>>>;
  }
  if constexpr (kPaired<T>) {
    return nullptr;
  } else {
    if constexpr (Cell::kNormGroups > 0) {
      if (problem.normalized) return &kForward<RowForward<Cell, T>>;
    }
    if constexpr (!kSweeps<Cell>) {
      return &kForward<DiagonalForward<Cell, T>>;
    } else {
      return &kForward<VariantForward<Cell, T>>;
    }
  }
}

template <class Cell, class T>
const BackwardSchedule* backward_of(const Problem& problem) {
  if constexpr (kSweeps<Cell> && Cell::kUnitWeights == 0) {
    if (!is_variant(problem)) return &kBackward<BackwardSweep<Cell, T, kOneInstance<T>>>;
  }
  if constexpr (kPaired<T>) {
    return nullptr;
  } else {
    if constexpr (Cell::kNormGroups > 0) {
      if (problem.normalized) return &kBackward<RowBackward<Cell, T>>;
    }
    if constexpr (!kSweeps<Cell>) {
      return &kBackward<DiagonalBackward<Cell, T>>;
    } else {
      return &kBackward<VariantBackward<Cell, T>>;
    }
  }
}

template <class T>
size_t products_workspace_bytes(const MatrixWork& work, int threads) {
  Arena arena(nullptr);
  const Multiplier<T> counted(work, threads, arena);
  return arena.used();
}

template <class T>
void run_products(const MatrixWork& work, int threads, void* workspace) {
  Arena arena(workspace);
  Multiplier<T> multiplier(work, threads, arena);
  if (run_team(threads, run_thread<Multiplier<T>>, &multiplier)) return;
  for (int thread = 0; thread < threads; ++thread) multiplier.run(thread);  // one after the other
}

template <class T>
inline constexpr Products kProducts{products_workspace_bytes<T>, run_products<T>};

template <class Cells, class T>
const ForwardSchedule& LayerKernels<Cells, T>::forward(const Problem& problem, int cell) {
  const ForwardSchedule* found = nullptr;
  visit_type(Cells{}, cell, [&](auto tag) { found = forward_of<typename decltype(tag)::type, T>(problem); });
  return *found;
}

template <class Cells, class T>
const BackwardSchedule& LayerKernels<Cells, T>::backward(const Problem& problem, int cell) {
  const BackwardSchedule* found = nullptr;
  visit_type(Cells{}, cell, [&](auto tag) { found = backward_of<typename decltype(tag)::type, T>(problem); });
  return *found;
}

template <class Cells, class T>
const Products& LayerKernels<Cells, T>::products() {
  return kProducts<T>;
}

template <class Cells, class T>
const ForwardSchedule* QuantizedKernels<Cells, T>::forward(int cell) {
  const ForwardSchedule* found = nullptr;
  visit_type(Cells{}, cell, [&](auto tag) {
    using Cell = typename decltype(tag)::type;
    if constexpr (kSweeps<Cell> && Cell::kUnitWeights == 0) found = &kForward<ForwardSweep<Cell, T>>;
  });
  return found;
}

template <class Cells, class T>
std::unique_ptr<StepLayer> StepKernels<Cells, T>::make(const StepProblem& problem, const StepParameters& parameters,
                                                       int cell) {
  std::unique_ptr<StepLayer> layer;
  visit_type(Cells{}, cell,
             [&](auto tag) { layer.reset(new PackedStep<typename decltype(tag)::type, T>(problem, parameters)); });
  return layer;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
