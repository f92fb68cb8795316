// What one instruction set offers to streams, behind a table of functions: included once by each unit under isa/.
#pragma once

#include "cells/cell_math.h"
#include "cpu/schedules/packed_step.h"
#include "cpu/simd/cell_math.h"
#include "stream/activation_stage.h"
#include "stream/cells.h"
#include "stream/linear_stage.h"
#include "stream/stage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// `Quantized` is the type of int8 products. The index of a cell is that of FileCells.
template <class Quantized>
std::unique_ptr<StepLayer> make_recurrent(const StepProblem& problem, const StepParameters& parameters) {
  std::unique_ptr<StepLayer> layer;
  visit_type(FileCells{}, problem.cell.index, [&](auto tag) {
    using Cell = typename decltype(tag)::type;
    if (problem.storage == StepStorage::kExact) layer = std::make_unique<PackedStep<Cell, float>>(problem, parameters);
    if constexpr (kInAnyStorage<Cell>) {
      if (problem.storage == StepStorage::kBFloat16) {
        layer = std::make_unique<PackedStep<Cell, HalfKeptFloat>>(problem, parameters);
      } else if (problem.storage == StepStorage::kInt8) {
        layer = std::make_unique<PackedStep<Cell, Quantized>>(problem, parameters);
      }
    }
  });
  return layer;
}

template <class Quantized>
const StreamUnit& stream_unit_for() {
  static constexpr StreamUnit kUnit{make_recurrent<Quantized>, make_linear, make_activation};
  return kUnit;
}

// Named by dispatch.cpp.
const StreamUnit& stream_unit();
const StreamUnit& stream_unit() { return stream_unit_for<QuantizedFloat>(); }

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
