// Shows that the tests of own cells bite: with any one mistake of tests/cuda_mutants.py in the kernels, some result of
// a cell with four states, heads, a gate of x alone or no W_hh is wrong.
#include "cells/cell_math.h"
// (first: the cells need its names)
#include "DiagonalLSTM.h"
#include "InputGatedGRU.h"
#include "SLSTMCell.h"
#include "mutants.h"
#include "variant_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;
using cuda::Option;
using cuda::Schedule;

// Two heads in two directions, rows that end and restart, also at their first step.
const Shape kShape = [] {
  Shape shape{6, 5, 4, 20, 20, true, true, false, true, true};
  shape.heads = 2;
  return shape;
}();

template <class T>
bool is_close(const VariantResults<T>& actual, const VariantResults<double>& expected) {
  bool close = true;
  const auto look = [&](const char* name, const Buffer<T>& a, const Buffer<double>& e) {
    const double error = largest_error(a, e).relative;
    close &= error <= (is_gradient(name) ? kTolerance<T>.gradients : kTolerance<T>.outputs);
  };
  for_each_buffer(actual.plain, expected.plain, look);
  look("d_unit_weights", actual.d_unit_weights, expected.d_unit_weights);
  return close;
}

// One cell in one schedule, with what it should make, computed once.
class Run {
 public:
  virtual ~Run() = default;
  virtual bool is_right() const = 0;
};

template <class Cell, class T>
class RunOf : public Run {
 public:
  explicit RunOf(const Option& option) : forward_(option), backward_(option), in_(inputs()), expected_(oracle()) {
    if (option.schedule == Schedule::kPerStep) return;
    Problem problem = cuda_problem_of<Cell, T>(kShape);
    forward_ = shapes(option.schedule, problem, kHopper).front();
    problem.backward = true;
    backward_ = shapes(option.schedule, problem, kHopper).front();
  }

  bool is_right() const override {
    emulator::set_seed(1);
    if (forward_.schedule == Schedule::kPerStep) {
      return is_close(run_per_step<Cell, T>(kShape, {}, in_), expected_);
    }
    return is_close<T>({run<Cell, T>(kShape, in_.plain, forward_, backward_), {}}, expected_);
  }

 private:
  // The sLSTM divides by a state that is positive.
  static VariantInputs<T> inputs() {
    VariantInputs<T> in = random_variant_inputs<Cell, T>(kShape, {}, 7);
    Buffer<T>& c_0 = in.plain.c_0;
    c_0.for_each([&](int64_t d, int64_t b, int64_t i, int64_t u) {
      c_0.at(d, b, i, u) = from_double<T>(0.5 + std::abs(c_0.get(d, b, i, u)));
    });
    return in;
  }
  VariantResults<double> oracle() const { return VariantOracle<Cell, T>(kShape, {}, in_).compute(); }

  Option forward_, backward_;
  VariantInputs<T> in_;
  VariantResults<double> expected_;
};

using Runs = std::vector<std::unique_ptr<Run>>;

bool all_are_right(const Runs& runs) {
  try {
    return std::all_of(runs.begin(), runs.end(), [](const auto& one) { return one->is_right(); });
  } catch (const std::logic_error&) {  // of the machine
    return false;
  }
}

void every_mistake_shows() {
  const auto option = [](Schedule schedule) { return Option{{schedule}, "", "", 0, ""}; };
  Runs runs;
  runs.push_back(std::make_unique<RunOf<own::DiagonalLSTM, double>>(option(Schedule::kPerStep)));
  runs.push_back(std::make_unique<RunOf<own::InputGatedGRU, double>>(option(Schedule::kPerStep)));
  runs.push_back(std::make_unique<RunOf<own::SLSTMCell, double>>(option(Schedule::kPerStep)));
  for (const Schedule schedule : {Schedule::kSmallBlock, Schedule::kOneBlock}) {
    runs.push_back(std::make_unique<RunOf<own::InputGatedGRU, float>>(option(schedule)));
    runs.push_back(std::make_unique<RunOf<own::SLSTMCell, float>>(option(schedule)));
  }
  check(all_are_right(runs), "nothing goes wrong without a mistake");
  for (const char* name : kMutants) {
    ++mutant;
    check(!all_are_right(runs), std::string("no test sees that ") + name);
  }
}

}  // namespace

int main() { return test::run({{"every mistake shows", every_mistake_shows}}); }
