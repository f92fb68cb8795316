// Everything one instruction set offers, behind a table of functions: for each unit under isa/, and for cell_module.h.
#pragma once

#include <type_traits>

#include "cpu/kernels.h"

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

// Calls visitor(Tag<T>{}) for the type that stands for `type`.
template <class Types, class Visitor>
void visit_given(DataType type, bool rounds_factors, const Visitor& visitor) {
  visit_type(typename Types::Given{}, Types::type_index(type, rounds_factors), visitor);
}

template <class Types, class T>
using KernelsOf = LayerKernels<typename Types::Cells, T>;

// Whether GEMMs of the problem may take pairs.
inline bool may_take_pairs(const Problem& problem) { return !is_variant(problem) && problem.cell.recurrent_gates > 0; }

template <class Types>
const ForwardSchedule& forward(const Problem& problem) {
  const int cell = Types::cell_index(problem.cell);
  const ForwardSchedule* found = nullptr;
  if constexpr (!std::is_void_v<typename Types::Quantized>) {
    if (problem.quantized) found = QuantizedKernels<typename Types::Cells, typename Types::Quantized>::forward(cell);
    if (found) return *found;
  }
  visit_given<Types>(problem.type, problem.rounds_factors, [&]<class T>(Tag<T> /*type*/) {
    found = &(!may_take_pairs(problem)  ? KernelsOf<Types, Unpaired<T>>::forward(problem, cell)
              : is_single_step(problem) ? KernelsOf<Types, Exact<T>>::forward(problem, cell)
                                        : KernelsOf<Types, T>::forward(problem, cell));
  });
  return *found;
}

template <class Types>
const BackwardSchedule& backward(const Problem& problem) {
  const int cell = Types::cell_index(problem.cell);
  const BackwardSchedule* found = nullptr;
  visit_given<Types>(problem.type, problem.rounds_factors, [&]<class T>(Tag<T> /*type*/) {
    found = &(may_take_pairs(problem) ? KernelsOf<Types, T>::backward(problem, cell)
                                      : KernelsOf<Types, Unpaired<T>>::backward(problem, cell));
  });
  return *found;
}

template <class Types>
std::unique_ptr<StepLayer> make_step_layer(const StepProblem& problem, const StepParameters& parameters) {
  const auto make = [&]<class T>(Tag<T> /*type*/) {
    return StepKernels<typename Types::Cells, T>::make(problem, parameters, Types::cell_index(problem.cell));
  };
  if constexpr (requires { typename Types::OfSteps; }) {  // one type, which is kept exactly
    return problem.storage == StepStorage::kExact ? make(Tag<typename Types::OfSteps>{}) : nullptr;
  } else {
    if (problem.type == DataType::kFloat64) return make(Tag<double>{});
    switch (problem.storage) {
      case StepStorage::kExact:
        return problem.rounds_factors ? make(Tag<typename Types::Rounded>{}) : make(Tag<float>{});
      case StepStorage::kBFloat16:
        return make(Tag<HalfKeptFloat>{});
      case StepStorage::kInt8:
        return make(Tag<typename Types::Quantized>{});
    }
    return nullptr;
  }
}

template <class Types>
const Products& products(DataType type, bool rounds_factors) {
  const Products* found = nullptr;
  visit_given<Types>(type, rounds_factors, [&]<class T>(Tag<T> /*type*/) { found = &KernelsOf<Types, T>::products(); });
  return *found;
}

template <class Types>
const CpuUnit& unit_for() {
  static constexpr CpuUnit kUnit{forward<Types>, backward<Types>, make_step_layer<Types>, products<Types>};
  return kUnit;
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
