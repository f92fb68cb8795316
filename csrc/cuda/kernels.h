// What the instantiations (instantiate/*.cu) offer: the kernels of one cell in one type, forward and backward.
//
// Declared here for every cell of cells/table.h and every type: PerStepKernels are defined by one file for each cell,
// PersistentKernels by one for each pair of a cell and a type. What has not its file does not link. A cell that is
// compiled by itself defines its own (cell_module.cuh).
#pragma once

#include <type_traits>

#include "cells/cell.h"
#include "core/visit.h"
#include "cuda/device.h"
#include "cuda/plan.h"

namespace fused_rnn::cuda {

// Cells without a GEMM in their steps, or with more gates than the registers hold, are the per-step schedule's
// alone.
template <class Cell, class T>
inline constexpr bool kHasPersistentKernels = recurrent_gates<Cell>() > 0 &&
                                              recurrent_gates<Cell>() <= most_gates(std::is_same_v<T, float>);

template <class Cell, class T>
struct PersistentKernels {
  static void run(const Plan& plan, const ForwardViews& views, void* workspace, void* stream);
  static void run(const Plan& plan, const BackwardViews& views, void* workspace, void* stream);
  // How many groups of the plan's blocks the current device can hold at once.
  static int resident_groups(const Problem& problem, const Plan& plan);
};

template <class Cell, class T>
struct PerStepKernels {
  static void run(const Problem& problem, const ForwardViews& views, Products& products, void* workspace, void* stream);
  static void run(const Problem& problem, const BackwardViews& views, Products& products, void* workspace,
                  void* stream);
  static size_t workspace_bytes(const Problem& problem);
};

// The kernels of a cell for elements of type T, as the functions of CellKernels.
template <class Cell, class T>
struct KernelsOf {
  template <class Views>
  static void run(const Problem& problem, const Plan& plan, const Views& views, Products& products, void* workspace,
                  void* stream) {
    if (plan.schedule == Schedule::kPerStep) {
      PerStepKernels<Cell, T>::run(problem, views, products, workspace, stream);
    } else {
      visit_persistent(problem, [&](auto kernels) { decltype(kernels)::type::run(plan, views, workspace, stream); });
    }
  }
  static int resident_groups(const Problem& problem, const Plan& plan) {
    int groups = 0;
    visit_persistent(problem, [&](auto kernels) { groups = decltype(kernels)::type::resident_groups(problem, plan); });
    return groups;
  }

 private:
  // Calls visitor(Tag<PersistentKernels<...>>); not for cells and types without them, which the choice refuses.
  template <class Visitor>
  static void visit_persistent(const Problem& problem, Visitor&& visitor) {
    if constexpr (std::is_same_v<T, float> && kHasPersistentKernels<Cell, TFloat32>) {
      if (problem.rounds_factors) return visitor(Tag<PersistentKernels<Cell, TFloat32>>{});
    }
    if constexpr (!std::is_same_v<T, double> && kHasPersistentKernels<Cell, T>) {
      visitor(Tag<PersistentKernels<Cell, T>>{});
    }
  }
};

template <class Cell, class T>
const CellKernels& kernels_of() {
  using Kernels = KernelsOf<Cell, T>;
  static constexpr CellKernels kernels{&Kernels::template run<ForwardViews>, &Kernels::template run<BackwardViews>,
                                       &PerStepKernels<Cell, T>::workspace_bytes, &Kernels::resident_groups};
  return kernels;
}

}  // namespace fused_rnn::cuda
