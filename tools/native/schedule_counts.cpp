// Runs each CPU schedule once on a named problem, in one thread, for a tool that counts instructions.
//
// Usage: schedule_counts SCHEDULE runs one of kSchedules and prints its problem; without an argument it lists them.
// What is to be counted is all within the function `counted_pass`: the workspace, the packing of weights and the steps.
#include "schedules.h"
// (first: what follows needs its names)
#include "cpu/schedules/diagonal_backward.h"
#include "cpu/schedules/diagonal_forward.h"
#include "cpu/schedules/rows_backward.h"
#include "cpu/schedules/rows_forward.h"
#include "cpu/schedules/single_step.h"
#include "cpu/schedules/sweep_backward.h"
#include "cpu/schedules/sweep_forward.h"

#include <cstdio>
#include <functional>
#include <string_view>

#include "linear_cells.h"

#if defined(COUNTED_HEADER)  // of a cell that fused_rnn.cells wrote, whose class is COUNTED_CELL
#include "cpu/simd/cell_math.h"
// (first: the cell needs its names)
#include COUNTED_HEADER
#else
#include "cells/table.h"
#endif
#if !defined(COUNTED_CELL)
#define COUNTED_CELL LstmCell
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

struct Schedule {
  std::string_view name;
  void (*run)();
};
constexpr Schedule kSchedules[] = {
    {"forward_sweep", [] { run<ForwardSweep, BackwardSweep>(kPlain, false); }},
    {"backward_sweep", [] { run<ForwardSweep, BackwardSweep>(kPlain, true); }},
#if !defined(COUNTED_HEADER)  // no norms, and gates that read h
    {"row_forward", [] { run<RowForward, RowBackward>(kNormalized, false); }},
    {"row_backward", [] { run<RowForward, RowBackward>(kNormalized, true); }},
    {"diagonal_forward", [] { run<DiagonalForward, DiagonalBackward, DiagonalCell>(kPlain, false); }},
    {"diagonal_backward", [] { run<DiagonalForward, DiagonalBackward, DiagonalCell>(kPlain, true); }},
#endif
    {"input_gates", [] { run<ForwardSweep, BackwardSweep>(kFromInput, false); }},
    {"single_step", [] { run<SingleStep, BackwardSweep>(kOneStep, false); }},
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
