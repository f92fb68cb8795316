// The kernels of cells in one type, by functions that hand them out. instantiate.h defines them; each file of isa/ that
// includes it compiles those of its types, so that a unit is several sources of about the same size.
#pragma once

#include <memory>
#include <type_traits>

#include "cells/table.h"
#include "cpu/dispatch.h"
#include "cpu/simd/terms.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Single steps read weights once, where they lie, and round none. Variants take single terms on every processor.
template <class T>
using Exact = std::conditional_t<std::is_same_v<T, PairedFloat>, float, T>;
template <class T>
using Unpaired = std::conditional_t<std::is_same_v<T, PairedBFloat16>, BFloat16, Exact<T>>;

// `cell` is the place of the problem's cell in Cells. A type whose GEMMs take pairs has the plain sweeps, and single
// steps if they are exact; the rest is that of the other type (unit.h), and compiled once.
template <class Cells, class T>
struct LayerKernels {
  static const ForwardSchedule& forward(const Problem& problem, int cell);
  static const BackwardSchedule& backward(const Problem& problem, int cell);
  static const Products& products();
};

// Of layers with int8 weights; null for a cell that has none.
template <class Cells, class T>
struct QuantizedKernels {
  static const ForwardSchedule* forward(int cell);
};

template <class Cells, class T>
struct StepKernels {
  static std::unique_ptr<StepLayer> make(const StepProblem& problem, const StepParameters& parameters, int cell);
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
