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

// The schedules of one pass, each with a visit to the one for a problem. A diagonal cell has its own.
template <class Types_>
struct ForwardSchedules {
  using Types = Types_;
  using Views = ForwardViews;
  template <class Cell, class Visitor>
  static void visit_quantized(const Visitor& visitor) {
    if constexpr (kSweeps<Cell> && Cell::kUnitWeights == 0 && !std::is_void_v<typename Types::Quantized>)
      visitor(Tag<ForwardSweep<Cell, typename Types::Quantized>>{});
  }
  template <class Cell, class T, class Visitor>
  static void visit(const Problem& problem, const Visitor& visitor) {
    if constexpr (Cell::kNormGroups > 0) {
      if (problem.normalized) return visitor(Tag<RowForward<Cell, Unpaired<T>>>{});
    }
    if constexpr (Cell::kUnitWeights == 0) {
      if (is_single_step(problem)) return visitor(Tag<SingleStep<Cell, Exact<T>>>{});
    }
    if constexpr (!kSweeps<Cell>) {
      visitor(Tag<DiagonalForward<Cell, Unpaired<T>>>{});
    } else {
      if (is_variant(problem)) return visitor(Tag<VariantForward<Cell, Unpaired<T>>>{});
      if constexpr (Cell::kUnitWeights == 0) visitor(Tag<ForwardSweep<Cell, T, kOneInstance<T>>>{});
    }
  }
};
template <class Types_>
struct BackwardSchedules {
  using Types = Types_;
  using Views = BackwardViews;
  template <class Cell, class T, class Visitor>
  static void visit(const Problem& problem, const Visitor& visitor) {
    if constexpr (Cell::kNormGroups > 0) {
      if (problem.normalized) return visitor(Tag<RowBackward<Cell, Unpaired<T>>>{});
    }
    if constexpr (!kSweeps<Cell>) {
      visitor(Tag<DiagonalBackward<Cell, Unpaired<T>>>{});
    } else {
      if (is_variant(problem)) return visitor(Tag<VariantBackward<Cell, Unpaired<T>>>{});
      if constexpr (Cell::kUnitWeights == 0) visitor(Tag<BackwardSweep<Cell, T, kOneInstance<T>>>{});
    }
  }
};

template <class Schedules, class Visitor>
void visit_sweep(const Problem& problem, Visitor&& visitor) {
  using Types = typename Schedules::Types;
  visit_type(typename Types::Cells{}, Types::cell_index(problem.cell), [&](auto cell) {
    using Cell = typename decltype(cell)::type;
    if constexpr (requires { Schedules::template visit_quantized<Cell>(visitor); }) {
      if (problem.quantized) return Schedules::template visit_quantized<Cell>(visitor);
    }
    visit_type(typename Types::Given{}, Types::type_index(problem.type, problem.rounds_factors),
               [&](auto type) { Schedules::template visit<Cell, typename decltype(type)::type>(problem, visitor); });
  });
}

// Runs what make(plan, arena) gives.
template <class Scheduled, class Make>
void run_schedule(const Plan& plan, void* workspace, const Make& make) {
  Arena arena(workspace);
  const Scheduled scheduled = make(plan, arena);
  scheduled.before_team();
  const auto body = [](void* context, int thread) { static_cast<const Scheduled*>(context)->run(thread); };
  if (run_team(plan.threads(), body, const_cast<Scheduled*>(&scheduled))) return;
  // The threads planned for did not come. One thread gives the same numbers, and its workspace is no larger.
  Arena smaller(workspace);
  const Scheduled serial = make(Plan{}, smaller);
  serial.before_team();
  serial.run(0);
}

template <class Schedules>
struct Runner {
  using Views = typename Schedules::Views;

  static Plan plan(const Problem& problem, int threads) {
    Plan result;
    visit_sweep<Schedules>(problem, [&](auto sweep) {
      using SweepOf = typename decltype(sweep)::type;
      if constexpr (requires { SweepOf::tiling(problem); }) {
        result = make_plan(problem, SweepOf::tiling(problem), threads);
      } else {
        result = SweepOf::plan(problem, threads);
      }
    });
    return result;
  }

  static std::vector<Plan> options(const Problem& problem, int threads) {
    std::vector<Plan> result;
    visit_sweep<Schedules>(problem, [&](auto sweep) {
      using SweepOf = typename decltype(sweep)::type;
      if constexpr (requires { SweepOf::tiling(problem); }) {
        result = plan_options(problem, SweepOf::tiling(problem), threads);
      } else {
        result = {SweepOf::plan(problem, threads)};
      }
    });
    return result;
  }

  static size_t workspace_bytes(const Problem& problem, const Plan& plan) {
    Arena arena(nullptr);
    visit_sweep<Schedules>(problem, [&](auto sweep) { typename decltype(sweep)::type(problem, Views{}, plan, arena); });
    return arena.used();
  }

  static bool rounds_factors(const Problem& problem) {
    bool result = false;
    visit_sweep<Schedules>(problem, [&](auto sweep) {
      using SweepOf = typename decltype(sweep)::type;
      if constexpr (requires { SweepOf::kRounds; }) result = SweepOf::kRounds;
    });
    return result;
  }

  static void run(const Problem& problem, const Views& views, const Plan& plan, void* workspace) {
    visit_sweep<Schedules>(problem, [&](auto tag) {
      using SweepOf = typename decltype(tag)::type;
      run_schedule<SweepOf>(plan, workspace,
                            [&](const Plan& used, Arena& arena) { return SweepOf(problem, views, used, arena); });
    });
  }

  static constexpr Schedule<Views> schedule() { return {plan, options, workspace_bytes, rounds_factors, run}; }
};

template <class Types, class Cell>
std::unique_ptr<StepLayer> make_step_layer_of(const StepProblem& problem, const StepParameters& parameters) {
  if constexpr (requires { typename Types::OfSteps; }) {  // one type, which is kept exactly
    if (problem.storage != StepStorage::kExact) return nullptr;
    return std::make_unique<PackedStep<Cell, typename Types::OfSteps>>(problem, parameters);
  } else {
    if (problem.type == DataType::kFloat64) return std::make_unique<PackedStep<Cell, double>>(problem, parameters);
    switch (problem.storage) {
      case StepStorage::kExact:
        if (problem.rounds_factors) {
          return std::make_unique<PackedStep<Cell, typename Types::Rounded>>(problem, parameters);
        }
        return std::make_unique<PackedStep<Cell, float>>(problem, parameters);
      case StepStorage::kBFloat16:
        return std::make_unique<PackedStep<Cell, HalfKeptFloat>>(problem, parameters);
      case StepStorage::kInt8:
        return std::make_unique<PackedStep<Cell, typename Types::Quantized>>(problem, parameters);
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

template <class Types, class Visitor>
void visit_multiplier(const MatrixWork& work, int threads, void* workspace, const Visitor& visitor) {
  visit_type(typename Types::Given{}, Types::type_index(work.at(0).type, work.at(0).rounds_factors), [&](auto type) {
    Arena arena(workspace);
    visitor(Multiplier<typename decltype(type)::type>(work, threads, arena), arena);
  });
}

template <class Types>
size_t multiply_workspace_bytes(const MatrixWork& work, int threads) {
  size_t bytes = 0;
  visit_multiplier<Types>(work, threads, nullptr, [&](const auto&, const Arena& arena) { bytes = arena.used(); });
  return bytes;
}

template <class Types>
void multiply(const MatrixWork& work, int threads, void* workspace) {
  visit_multiplier<Types>(work, threads, workspace, [&](const auto& multiplier, const Arena&) {
    using Multiplier = std::remove_cvref_t<decltype(multiplier)>;
    const auto body = [](void* context, int thread) { static_cast<const Multiplier*>(context)->run(thread); };
    if (run_team(threads, body, const_cast<Multiplier*>(&multiplier))) return;
    for (int thread = 0; thread < threads; ++thread) multiplier.run(thread);  // one after the other
  });
}

template <class Types, class Visitor>
void visit_gradients(const Problem& problem, const Visitor& visitor) {
  visit_sweep<BackwardSchedules<Types>>(problem, [&](auto tag) {
    using Sweep = typename decltype(tag)::type;
    if constexpr (requires { typename Sweep::Between; }) visitor(Tag<SweepWithGradients<Sweep>>{});
  });
}

template <class Types>
size_t gradients_workspace_bytes(const Problem& problem, const Plan& plan, const GradientWork& work) {
  Arena arena(nullptr);
  visit_gradients<Types>(problem,
                         [&](auto tag) { typename decltype(tag)::type(problem, BackwardViews{}, plan, work, arena); });
  return arena.used();
}

template <class Types>
void gradients(const Problem& problem, const BackwardViews& views, const Plan& plan, const GradientWork& work,
               void* workspace) {
  visit_gradients<Types>(problem, [&](auto tag) {
    run_schedule<typename decltype(tag)::type>(plan, workspace, [&](const Plan& used, Arena& arena) {
      return typename decltype(tag)::type(problem, views, used, work, arena);
    });
  });
}

template <class Types>
const CpuUnit& unit_for() {
  static constexpr CpuUnit kUnit{Runner<ForwardSchedules<Types>>::schedule(),
                                 Runner<BackwardSchedules<Types>>::schedule(),
                                 make_step_layer<Types>,
                                 multiply_workspace_bytes<Types>,
                                 multiply<Types>,
                                 gradients_workspace_bytes<Types>,
                                 gradients<Types>};
  return kUnit;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
