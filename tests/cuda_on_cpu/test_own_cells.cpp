// Tests cells that were written in Python on every CUDA schedule that runs them, against the float64 oracle on a tape:
// the sLSTM with its four states, a split cell with a gate of x alone, and a cell whose gates all read x alone.
//
// tests/test_cuda_emulator.py writes the headers of the cells.
#include "cells/cell_math.h"
// (first: the cells need its names)
#include "DiagonalLSTM.h"
#include "InputGatedGRU.h"
#include "SLSTMCell.h"
#include "variant_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;
using cuda::Option;
using cuda::Schedule;
using own::DiagonalLSTM;
using own::InputGatedGRU;
using own::SLSTMCell;

constexpr Schedule kPersistent[] = {Schedule::kSmallBlock, Schedule::kOneBlock, Schedule::kCluster, Schedule::kGrid};

uint64_t seed = 1;

// The sLSTM divides by a state that is positive.
template <class Cell, class T>
VariantInputs<T> inputs_of(const Shape& s, const Variant& variant) {
  VariantInputs<T> in = random_variant_inputs<Cell, T>(s, variant, 7);
  Buffer<T>& c_0 = in.plain.c_0;
  c_0.for_each([&](int64_t d, int64_t b, int64_t i, int64_t u) {
    c_0.at(d, b, i, u) = from_double<T>(0.5 + std::abs(c_0.get(d, b, i, u)));
  });
  return in;
}

// In every shape, forward and backward paired in turn.
template <class Cell, class T>
void check_persistent(const Shape& s) {
  const VariantInputs<T> in = inputs_of<Cell, T>(s, {});
  const Results<double> expected = VariantOracle<Cell, T>(s, {}, in).compute().plain;
  for (const Schedule schedule : kPersistent) {
    Problem problem = cuda_problem_of<Cell, T>(s);
    const std::vector<Option> forward = full_shapes(schedule, problem);
    problem.backward = true;
    const std::vector<Option> backward = full_shapes(schedule, problem);
    check(!forward.empty() && !backward.empty(), "some shape fits");
    for (size_t i = 0; i < std::min(forward.size(), backward.size()); ++i) {
      check(schedule == Schedule::kSmallBlock || forward[i].shape.gates == recurrent_gates<Cell>(),
            "places for the gates that read h");
      emulator::set_seed(++seed);
      check_close(run<Cell, T>(s, in.plain, forward[i], backward[i]), expected, kTolerance<T>.outputs,
                  kTolerance<T>.gradients, std::string(Cell::kName) + " " + forward[i].name + to_string(s));
    }
  }
}

template <class Cell, class T>
void check_per_step(const Shape& s, const Variant& variant = {}) {
  emulator::set_seed(++seed);
  const VariantInputs<T> in = inputs_of<Cell, T>(s, variant);
  const VariantResults<T> actual = run_per_step<Cell, T>(s, variant, in);
  const VariantResults<double> expected = VariantOracle<Cell, T>(s, variant, in).compute();
  const std::string what = std::string(Cell::kName) + " per_step" + (variant.zoneout ? " zoneout" : "") + to_string(s);
  check_close(actual.plain, expected.plain, kTolerance<T>.outputs, kTolerance<T>.gradients, what);
  check_sums(actual.d_unit_weights, expected.d_unit_weights, kTolerance<T>.gradients, what);
}

// Two directions, rows that end and restart, several blocks and a size that is no multiple of a tile.
const Shape kRagged{5, 9, 2, 40, 40, true, true, false, true, true}, kFromZero{3, 2, 1, 40, 40, false};

template <class Cell, class T, class Single>
void every_schedule_runs_the_cell() {
  for (const Shape& s : {kRagged, kFromZero}) check_persistent<Cell, T>(s);
  for (const Shape& s : {kRagged, kFromZero}) check_per_step<Cell, Single>(s);
  check_per_step<Cell, Single>(kRagged, {true, false});
}

void a_cell_without_recurrent_gates_is_one_kernel() {
  // Fewer steps than are loaded ahead, as many, and more.
  for (const int64_t time_steps : {0, 1, 4, 5, 11}) check_per_step<DiagonalLSTM, double>({time_steps, 2, 2, 5, 5});
  for (const bool zoneout : {false, true}) {
    check_per_step<DiagonalLSTM, double>(kRagged, {zoneout, false});
    check_per_step<DiagonalLSTM, double>(kFromZero, {zoneout, false});
  }
  check_per_step<DiagonalLSTM, double>({3, 0, 1, 5, 5});
  Shape heads = kRagged;
  heads.directions = 6, heads.heads = 3;
  check_per_step<DiagonalLSTM, double>(heads);
  for (const Option& option : options(problem_of<DiagonalLSTM>(kRagged, DataType::kFloat64), kHopper)) {
    const bool per_step = option.schedule == Schedule::kPerStep;
    check(per_step == option.refusal.empty(), option.name);
    check(per_step || option.refusal.find("no gate reads h") == 0, option.refusal);
  }
}

// Those of exact float32 hold the fewest.
void more_gates_than_the_registers_hold_are_refused() {
  Problem problem = problem_of<SLSTMCell>(kRagged, DataType::kFloat32);
  for (const int gates : {4, 5}) {
    problem.cell.gates = problem.cell.recurrent_gates = gates;
    for (const bool rounds_factors : {false, true}) {
      problem.rounds_factors = rounds_factors;
      for (const Schedule schedule : kPersistent) {
        check(shapes(schedule, problem, kHopper).empty() == (gates == 5 && !rounds_factors), "some shape fits");
      }
    }
  }
}

}  // namespace

int main() {
  return test::run(
      {{"four states", every_schedule_runs_the_cell<SLSTMCell, cuda::TFloat32, double>},
       {"a gate of x alone", every_schedule_runs_the_cell<InputGatedGRU, cuda::TFloat32, cuda::BFloat16>},
       {"no gate that reads h", a_cell_without_recurrent_gates_is_one_kernel},
       {"more gates than the registers hold are refused", more_gates_than_the_registers_hold_are_refused}});
}
