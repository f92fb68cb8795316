// Runs each CPU schedule once on a named problem, in one thread, for a tool that counts instructions.
//
// Usage: schedule_counts SCHEDULE runs one of kSchedules and prints its problem; without an argument it lists them.
// What is to be counted is all within the function `counted_pass`: the workspace, the packing of weights and the steps.
#include "schedules.h"
// (first: what follows needs its names)
#include "cpu/schedules/diagonal_backward.h"
#include "cpu/schedules/diagonal_forward.h"
#include "cpu/schedules/packed_step.h"
#include "cpu/schedules/rows_backward.h"
#include "cpu/schedules/rows_forward.h"
#include "cpu/schedules/single_step.h"
#include "cpu/schedules/sweep_backward.h"
#include "cpu/schedules/sweep_forward.h"
#include "cpu/schedules/sweep_with_gradients.h"
#include "cpu/schedules/weight_gradients.h"

#include <cstdio>
#include <functional>
#include <string_view>
#include <vector>

#include "core/problem_text.h"
#include "linear_cells.h"

#if defined(COUNTED_HEADER)  // of cells that fused_rnn.cells wrote, whose classes are COUNTED_CELL and COUNTED_DIAGONAL
#include "cpu/simd/cell_math.h"
// (first: the cell needs its names)
#include COUNTED_HEADER
#else
#include "cells/table.h"
#endif
#if !defined(COUNTED_CELL)
#define COUNTED_CELL LstmCell
#endif
#if !defined(COUNTED_DIAGONAL)
#define COUNTED_DIAGONAL test::DiagonalCell
#endif

extern "C" [[gnu::noinline, gnu::visibility("default")]] void counted_pass(const std::function<void()>& pass);
extern "C" void counted_pass(const std::function<void()>& pass) {
  pass();
  asm volatile("" ::: "memory");  // else a jump in the place of a call could leave this function early
}

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;
using Counted = COUNTED_CELL;
using Diagonal = COUNTED_DIAGONAL;

constexpr Shape kPlain{.time_steps = 20, .batch = 7, .directions = 1, .hidden_size = 72, .output_size = 72};
[[maybe_unused]] constexpr Shape kNormalized = [] {
  Shape shape = kPlain;
  shape.normalized = true;
  return shape;
}();

constexpr Shape kFromInput = [] {
  Shape shape = kPlain;
  shape.input_size = 72;
  return shape;
}();
constexpr Shape kOneStep = [] {
  Shape shape = kFromInput;
  shape.time_steps = 1;
  return shape;
}();

// More rows than the weight gradients take at once.
constexpr Shape kManyRows = [] {
  Shape shape = kFromInput;
  shape.batch = 27;
  return shape;
}();

template <template <class, class> class Forward, template <class, class> class Backward, class Cell = Counted>
void run(const Shape& shape, bool backward) {
  const Inputs<float> inputs = random_inputs<Cell, float>(shape, 1);
  Results<float> results = empty_results<Cell, float>(shape);
  Problem problem = problem_of<Cell>(shape, DataType::kFloat32);
  const auto forward = [&] { run_schedule<Forward<Cell, float>>(problem, forward_views(inputs, results), Plan{}); };
  if (backward) {
    forward();
    problem.backward = true;
    counted_pass([&] { run_schedule<Backward<Cell, float>>(problem, backward_views(inputs, results), Plan{}); });
  } else {
    counted_pass(forward);
  }
  std::printf("%s\n", to_string(problem).c_str());
}

// [T, B, size] without gaps, of which a layer's backward pass reads x and writes the gate gradients.
SequenceView<void> dense(std::vector<float>& data, const Shape& shape, int64_t size) {
  data.assign(static_cast<size_t>(shape.time_steps * shape.batch * size), 0.5F);
  return {data.data(), shape.batch * size, size, size};
}

void run_gradients() {
  constexpr int64_t kRows = Counted::kGates * kManyRows.hidden_size, kColumns = kManyRows.hidden_size;
  const Inputs<float> inputs = random_inputs<Counted, float>(kManyRows, 1);
  Results<float> results = empty_results<Counted, float>(kManyRows);
  Problem problem = problem_of<Counted>(kManyRows, DataType::kFloat32);
  run_schedule<PlainForward<Counted, float>>(problem, forward_views(inputs, results), Plan{});
  problem.backward = true;
  problem.input_size = 0;
  BackwardViews views = backward_views(inputs, results);
  std::vector<float> x, d_x, d_gates, d_gates_h, d_w_ih(kRows * kColumns), d_w_hh(kRows * kColumns), d_b_ih(kRows);
  std::vector<float> d_b_hh(Counted::kSplit ? kRows : 0);
  views.d_gates = dense(d_gates, kManyRows, kRows);
  if (Counted::kSplit) views.d_gates_h = dense(d_gates_h, kManyRows, kRows);
  const LayerGradientViews layer{.input_size = kColumns,
                                 .x = dense(x, kManyRows, kColumns).data,
                                 .w_ih = inputs.w_ih.view(),
                                 .d_x = dense(d_x, kManyRows, kColumns).data,
                                 .d_w_ih = d_w_ih.data(),
                                 .d_w_hh = d_w_hh.data(),
                                 .d_b_ih = d_b_ih.data(),
                                 .d_b_hh = d_b_hh.empty() ? nullptr : d_b_hh.data()};
  counted_pass([&] {
    Arena counter(nullptr);
    const WeightGradients counting(problem, views, layer, counter);
    const auto memory = poisoned(counter.used());
    Arena arena(memory.get());
    const WeightGradients gradients(problem, views, layer, arena);
    gradients.prepare();
    CompiledGradients<PlainBackward<Counted, float>>::run(problem, views, Plan{}, gradients.work());
  });
  std::printf("%s\n", to_string(problem).c_str());
}

// Steps alone: a Stepper packs the weights once.
void run_packed_steps() {
  const Inputs<float> inputs = random_inputs<Counted, float>(kFromInput, 1);
  const Problem problem = problem_of<Counted>(kFromInput, DataType::kFloat32);
  const StepProblem step{.cell = problem.cell,
                         .type = problem.type,
                         .storage = StepStorage::kExact,
                         .rounds_factors = false,
                         .threads = 1,
                         .batch = problem.batch,
                         .input_size = problem.input_size,
                         .hidden_size = problem.hidden_size,
                         .output_size = problem.output_size,
                         .projected = false};
  PackedStep<Counted, float> layer(step, {inputs.w_ih.data.data(), inputs.w_hh.data.data(), inputs.b_ih.data.data(),
                                          inputs.b_hh.data.data(), nullptr, nullptr});
  counted_pass([&] {
    const SequenceView<const void> x = inputs.x.sequence();
    for (int64_t t = 0; t < problem.time_steps; ++t) {
      layer.take(static_cast<const float*>(x.data) + t * x.time_stride, x.row_stride, 1, 0, 1);
      layer.update(t, 0, 0, 1);
    }
  });
  std::printf("%s\n", to_string(problem).c_str());
}

struct Schedule {
  std::string_view name;
  void (*run)();
};
constexpr Schedule kSchedules[] = {
    {"forward_sweep", [] { run<ForwardSweep, BackwardSweep>(kPlain, false); }},
    {"backward_sweep", [] { run<ForwardSweep, BackwardSweep>(kPlain, true); }},
#if !defined(COUNTED_HEADER)  // which have no norms
    {"row_forward", [] { run<RowForward, RowBackward>(kNormalized, false); }},
    {"row_backward", [] { run<RowForward, RowBackward>(kNormalized, true); }},
#endif
    {"diagonal_forward", [] { run<DiagonalForward, DiagonalBackward, Diagonal>(kPlain, false); }},
    {"diagonal_backward", [] { run<DiagonalForward, DiagonalBackward, Diagonal>(kPlain, true); }},
    {"input_gates", [] { run<ForwardSweep, BackwardSweep>(kFromInput, false); }},
    {"single_step", [] { run<SingleStep, BackwardSweep>(kOneStep, false); }},
    {"packed_step", run_packed_steps},
    {"weight_gradients", run_gradients},
};

}  // namespace

int main(int count, char** arguments) {
  for (const Schedule& schedule : kSchedules) {
    if (count == 1) {
      std::printf("%s\n", schedule.name.data());
    } else if (schedule.name == arguments[1]) {
      schedule.run();
      return test::failures == 0 ? 0 : 1;
    }
  }
  if (count > 1) std::fprintf(stderr, "usage: schedule_counts [SCHEDULE], a name that it lists without one\n");
  return count > 1 ? 2 : 0;
}
