// Everything one instruction set offers, behind a table of functions: included once by each unit under isa/, and by
// cell_module.h.
#pragma once

#include <type_traits>
#include <vector>

#include "cells/table.h"
#include "cpu/dispatch.h"
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

// The types that a unit computes in: of numbers as they are given, in the order of DataType, then what stands for
// float32 where its factors may be rounded; and of a quantized layer.
template <class BFloat16Type, class RoundedFloat, class Quantized_>
struct UnitTypes {
  using Cells = fused_rnn::Cells;
  using Given = TypeList<float, double, BFloat16Type, Float16, RoundedFloat>;
  using Rounded = RoundedFloat;
  using Quantized = Quantized_;

  static int cell_index(const CellSpec& cell) { return cell.index; }
  static int type_index(DataType type, bool rounds_factors) {
    return rounds_factors && type == DataType::kFloat32 ? Given::kSize - 1 : static_cast<int>(type);
  }
};
using AnyProcessor = UnitTypes<BFloat16, float, QuantizedFloat>;

// Single steps read weights once, where they lie, and round none. Variants take single terms on every processor.
template <class T>
using Exact = std::conditional_t<std::is_same_v<T, PairedFloat>, float, T>;
template <class T>
using Unpaired = std::conditional_t<std::is_same_v<T, PairedBFloat16>, BFloat16, Exact<T>>;

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

// The schedules of one cell in one type. A diagonal cell has its own.
template <class Cell, class T>
const ForwardSchedule& forward_of(const Problem& problem) {
  if constexpr (Cell::kNormGroups > 0) {
    if (problem.normalized) return kForward<RowForward<Cell, Unpaired<T>>>;
  }
  if constexpr (Cell::kUnitWeights == 0) {
    if (is_single_step(problem)) return kForward<SingleStep<Cell, Exact<T>>>;
  }
  if constexpr (!kSweeps<Cell>) {
    return kForward<DiagonalForward<Cell, Unpaired<T>>>;
  } else {
    if constexpr (Cell::kUnitWeights == 0) {
      if (!is_variant(problem)) return kForward<ForwardSweep<Cell, T, kOneInstance<T>>>;
    }
    return kForward<VariantForward<Cell, Unpaired<T>>>;
  }
}

template <class Cell, class T>
const BackwardSchedule& backward_of(const Problem& problem) {
  if constexpr (Cell::kNormGroups > 0) {
    if (problem.normalized) return kBackward<RowBackward<Cell, Unpaired<T>>>;
  }
  if constexpr (!kSweeps<Cell>) {
    return kBackward<DiagonalBackward<Cell, Unpaired<T>>>;
  } else {
    if constexpr (Cell::kUnitWeights == 0) {
      if (!is_variant(problem)) return kBackward<BackwardSweep<Cell, T, kOneInstance<T>>>;
    }
    return kBackward<VariantBackward<Cell, Unpaired<T>>>;
  }
}

// Hands the cell and the type of a problem to `visitor`, as tags.
template <class Types, class Visitor>
void visit_problem(const Problem& problem, const Visitor& visitor) {
  visit_type(typename Types::Cells{}, Types::cell_index(problem.cell), [&](auto cell) {
    visit_type(typename Types::Given{}, Types::type_index(problem.type, problem.rounds_factors),
               [&](auto type) { visitor(cell, type); });
  });
}

template <class Types>
const ForwardSchedule& forward(const Problem& problem) {
  const ForwardSchedule* found = nullptr;
  visit_problem<Types>(problem, [&](auto cell, auto type) {
    using Cell = typename decltype(cell)::type;
    using Quantized = typename Types::Quantized;
    if constexpr (kSweeps<Cell> && Cell::kUnitWeights == 0 && !std::is_void_v<Quantized>) {
      if (problem.quantized) return void(found = &kForward<ForwardSweep<Cell, Quantized>>);
    }
    found = &forward_of<Cell, typename decltype(type)::type>(problem);
  });
  return *found;
}

template <class Types>
const BackwardSchedule& backward(const Problem& problem) {
  const BackwardSchedule* found = nullptr;
  visit_problem<Types>(problem, [&](auto cell, auto type) {
    found = &backward_of<typename decltype(cell)::type, typename decltype(type)::type>(problem);
  });
  return *found;
}

template <class Cell, class T>
[[gnu::noinline]] std::unique_ptr<StepLayer> packed_step(const StepProblem& problem, const StepParameters& parameters) {
  return std::unique_ptr<StepLayer>(new PackedStep<Cell, T>(problem, parameters));
}

template <class Types, class Cell>
std::unique_ptr<StepLayer> make_step_layer_of(const StepProblem& problem, const StepParameters& parameters) {
  if constexpr (requires { typename Types::OfSteps; }) {  // one type, which is kept exactly
    if (problem.storage != StepStorage::kExact) return nullptr;
    return packed_step<Cell, typename Types::OfSteps>(problem, parameters);
  } else {
    if (problem.type == DataType::kFloat64) return packed_step<Cell, double>(problem, parameters);
    switch (problem.storage) {
      case StepStorage::kExact:
        if (problem.rounds_factors) return packed_step<Cell, typename Types::Rounded>(problem, parameters);
        return packed_step<Cell, float>(problem, parameters);
      case StepStorage::kBFloat16:
        return packed_step<Cell, HalfKeptFloat>(problem, parameters);
      case StepStorage::kInt8:
        return packed_step<Cell, typename Types::Quantized>(problem, parameters);
    }
    return nullptr;
  }
}

template <class Types>
std::unique_ptr<StepLayer> make_step_layer(const StepProblem& problem, const StepParameters& parameters) {
  std::unique_ptr<StepLayer> layer;
  visit_type(typename Types::Cells{}, Types::cell_index(problem.cell),
             [&](auto cell) { layer = make_step_layer_of<Types, typename decltype(cell)::type>(problem, parameters); });
  return layer;
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

template <class Types>
const Products& products(DataType type, bool rounds_factors) {
  const Products* found = nullptr;
  visit_type(typename Types::Given{}, Types::type_index(type, rounds_factors),
             [&](auto tag) { found = &kProducts<typename decltype(tag)::type>; });
  return *found;
}

template <class Types>
const CpuUnit& unit_for() {
  static constexpr CpuUnit kUnit{forward<Types>, backward<Types>, make_step_layer<Types>, products<Types>};
  return kUnit;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
