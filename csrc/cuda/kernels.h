// What the instantiations (instantiate/*.cu) offer: the kernels of one cell in one type, forward and backward.
//
// Declared here for every cell of cells/table.h and every type: PerStepKernels are defined by one file for each cell,
// PersistentKernels by one for each pair of a cell that has them and a type. What has not its file does not link.
#pragma once

#include "core/visit.h"
#include "cuda/device.h"
#include "cuda/schedule.h"

namespace fused_rnn::cuda {

// Weights of single units are the per-step schedule's alone.
template <class Cell>
inline constexpr bool kHasPersistentKernels = Cell::kUnitWeights == 0;

template <class Cell, class T>
struct PersistentKernels {
  static void run(const Option& option, const ForwardViews& views, void* workspace, void* stream);
  static void run(const Option& option, const BackwardViews& views, void* workspace, void* stream);
  // How many groups of the option's blocks the current device can hold at once.
  static int resident_groups(const Option& option, bool backward);
};

template <class Cell, class T>
struct PerStepKernels {
  static void run(const Problem& problem, const ForwardViews& views, Products& products, void* workspace, void* stream);
  static void run(const Problem& problem, const BackwardViews& views, Products& products, void* workspace,
                  void* stream);
  static size_t workspace_bytes(const Problem& problem);
};

}  // namespace fused_rnn::cuda
