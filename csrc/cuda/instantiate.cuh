// Defines the kernels of one cell: what a file of instantiate/ says in one line for each type.
#pragma once

#include "cuda/kernels.h"
#include "cuda/per_step.cuh"
#include "cuda/run_persistent.cuh"

namespace fused_rnn::cuda {

// A cell with weights of single units is a variant itself: its kernels are compiled once, with all features.
template <class Cell>
inline constexpr Features kFewestFeatures = Cell::kUnitWeights > 0 ? Features::kAll : Features::kNone;

template <class Pass, class Views>
void run_with_norms(const Plan& plan, const Views& views, void* workspace, void* stream) {
  if constexpr (Pass::Cell::kNormGroups > 0) {
    if (has(views.variant.norm)) return run_persistent<NormPass<Pass>>(plan, views, workspace, stream);
  }
  run_persistent<Pass>(plan, views, workspace, stream);
}
template <template <class, class, class, Features> class PassOf, class Cell, class T, class Views>
void run_with_features(const Plan& plan, const Views& views, void* workspace, void* stream) {
  if (needs_no_features(views)) {
    run_with_norms<PassOf<Cell, T, int, kFewestFeatures<Cell>>>(plan, views, workspace, stream);
  } else {
    run_with_norms<PassOf<Cell, T, int, Features::kAll>>(plan, views, workspace, stream);
  }
}

template <class Cell, class T>
void PersistentKernels<Cell, T>::run(const Plan& plan, const ForwardViews& views, void* workspace, void* stream) {
  run_with_features<ForwardPass, Cell, T>(plan, views, workspace, stream);
}
template <class Cell, class T>
void PersistentKernels<Cell, T>::run(const Plan& plan, const BackwardViews& views, void* workspace, void* stream) {
  run_with_features<BackwardPass, Cell, T>(plan, views, workspace, stream);
}
template <template <class, class, class, Features> class PassOf, class Cell, class T>
int resident_groups_of(const Plan& plan, bool normalized) {
  if constexpr (Cell::kNormGroups > 0) {
    if (normalized) return resident_groups<NormPass<PassOf<Cell, T, int, Features::kAll>>>(plan);
  }
  return resident_groups<PassOf<Cell, T, int, kFewestFeatures<Cell>>>(plan);
}
template <class Cell, class T>
int PersistentKernels<Cell, T>::resident_groups(const Problem& problem, const Plan& plan) {
  return problem.backward ? resident_groups_of<BackwardPass, Cell, T>(plan, problem.normalized)
                          : resident_groups_of<ForwardPass, Cell, T>(plan, problem.normalized);
}

template <class Cell, class T>
void PerStepKernels<Cell, T>::run(const Problem& problem, const ForwardViews& views, Products& products,
                                  void* workspace, void* stream) {
  PerStepOf<ForwardPass<Cell, T, int64_t, Features::kAll>>(problem, views, products, workspace, stream).run();
}
template <class Cell, class T>
void PerStepKernels<Cell, T>::run(const Problem& problem, const BackwardViews& views, Products& products,
                                  void* workspace, void* stream) {
  PerStepOf<BackwardPass<Cell, T, int64_t, Features::kAll>>(problem, views, products, workspace, stream).run();
}
template <class Cell, class T>
size_t PerStepKernels<Cell, T>::workspace_bytes(const Problem& problem) {
  return problem.backward ? PerStepOf<BackwardPass<Cell, T, int64_t, Features::kAll>>::workspace_bytes(problem)
                          : PerStepOf<ForwardPass<Cell, T, int64_t, Features::kAll>>::workspace_bytes(problem);
}

}  // namespace fused_rnn::cuda
