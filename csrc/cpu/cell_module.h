// A library with one cell for one type: what a generated source includes before its cell. The program that loads it
// gives the threads and the plans (see loaded_cells.h).
#pragma once

#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cells/cell_math.h"
#include "cpu/instantiate.h"
#include "cpu/loaded_cells.h"
#include "cpu/simd/cell_math.h"
#include "cpu/unit.h"

#define FUSED_RNN_TEXT_OF(name) #name
#define FUSED_RNN_NAME_OF(macro) FUSED_RNN_TEXT_OF(macro)

namespace fused_rnn {

namespace loaded {

inline const CpuRuntime* runtime = nullptr;

// One cell and one type, instead of UnitTypes.
template <class Cell, class T>
struct OnlyTypes {
  using Cells = TypeList<Cell>;
  using Given = TypeList<T>;
  using Quantized = void;
  using OfSteps = RealOf<T>;

  static int cell_index(const CellSpec& /*cell*/) { return 0; }
  static int type_index(DataType /*type*/, bool /*rounds_factors*/) { return 0; }
};

}  // namespace loaded

bool run_team(int threads, void (*body)(void* context, int thread), void* context) {
  return loaded::runtime->run_team(threads, body, context);
}
Plan make_plan(const Problem& problem, const Tiling& tiling, int threads) {
  return loaded::runtime->make_plan(problem, tiling, threads);
}
std::vector<Plan> plan_options(const Problem& problem, const Tiling& tiling, int threads) {
  return loaded::runtime->plan_options(problem, tiling, threads);
}
void Barrier::make(Barrier* memory, int count) { loaded::runtime->make_barriers(memory, count); }
void Barrier::wait(int count) { (this->*loaded::runtime->wait_at_barrier)(count); }
StepLayer::~StepLayer() = default;

// What the library's function returns; `type` is that of T.
template <class Cell, class T>
const CellModule& cell_module(const CpuRuntime& runtime, DataType type, const char* sources) {
  loaded::runtime = &runtime;
  static const CellModule module{sources, FUSED_RNN_NAME_OF(FUSED_RNN_ISA), spec_of<Cell>(0), type,
                                 &unit_for<loaded::OnlyTypes<Cell, T>>()};
  return module;
}

}  // namespace fused_rnn
