// Defines the kernels of one cell: what a file of instantiate/ says in one line for each type.
#pragma once

#include "cuda/kernels.h"
#include "cuda/per_step.cuh"
#include "cuda/run_persistent.cuh"

namespace fused_rnn::cuda {

template <class Cell, class T>
void PersistentKernels<Cell, T>::run(const Option& option, const ForwardViews& views, void* workspace, void* stream) {
  if (is_ragged(views)) {
    run_persistent<ForwardPass<Cell, T, int, Rows::kRagged, false>>(option, views, workspace, stream);
  } else {
    run_persistent<ForwardPass<Cell, T, int, Rows::kWhole, false>>(option, views, workspace, stream);
  }
}
template <class Cell, class T>
void PersistentKernels<Cell, T>::run(const Option& option, const BackwardViews& views, void* workspace, void* stream) {
  if (is_ragged(views)) {
    run_persistent<BackwardPass<Cell, T, int, Rows::kRagged, false>>(option, views, workspace, stream);
  } else {
    run_persistent<BackwardPass<Cell, T, int, Rows::kWhole, false>>(option, views, workspace, stream);
  }
}
template <class Cell, class T>
int PersistentKernels<Cell, T>::resident_groups(const Option& option, bool backward) {
  return backward ? cuda::resident_groups<BackwardPass<Cell, T, int, Rows::kWhole, false>>(option)
                  : cuda::resident_groups<ForwardPass<Cell, T, int, Rows::kWhole, false>>(option);
}

template <class Cell, class T>
void PerStepKernels<Cell, T>::run(const Problem& problem, const ForwardViews& views, Products& products,
                                  void* workspace, void* stream) {
  PerStepOf<ForwardPass<Cell, T, int64_t, Rows::kRagged, true>>(problem, views, products, workspace, stream).run();
}
template <class Cell, class T>
void PerStepKernels<Cell, T>::run(const Problem& problem, const BackwardViews& views, Products& products,
                                  void* workspace, void* stream) {
  PerStepOf<BackwardPass<Cell, T, int64_t, Rows::kRagged, true>>(problem, views, products, workspace, stream).run();
}
template <class Cell, class T>
size_t PerStepKernels<Cell, T>::workspace_bytes(const Problem& problem) {
  return problem.backward ? PerStepOf<BackwardPass<Cell, T, int64_t, Rows::kRagged, true>>::workspace_bytes(problem)
                          : PerStepOf<ForwardPass<Cell, T, int64_t, Rows::kRagged, true>>::workspace_bytes(problem);
}

}  // namespace fused_rnn::cuda
