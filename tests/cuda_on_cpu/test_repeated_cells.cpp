// Tests the LSTM, the GRU and the Elman RNN as cells written in Python on every CUDA schedule, against the float64
// recurrence of the hand-written cells, whose formulas and gradients another hand wrote.
//
// One type stands for all: a cell knows no type, and test_schedules.cpp has the types. Float32 has the narrowest
// tolerance of those that run in every schedule. tests/test_cuda_emulator.py writes the headers of the cells.
#include "cells/cell_math.h"
// (first: the cells need its names)
#include "OwnElman.h"
#include "OwnGRU.h"
#include "OwnLSTM.h"
#include "cells/table.h"
#include "emulated_schedules.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;
using cuda::Option;
using cuda::Schedule;
using T = float;

uint64_t seed = 1;

// What is saved is the cell's own affair.
Results<double> without_saved(Results<double> results) {
  results.saved = {};
  return results;
}

template <class Own, class HandWritten>
void check_options(const Shape& s, const Option& forward, const Option& backward) {
  emulator::set_seed(++seed);
  const Inputs<T> in = random_inputs<HandWritten, T>(s, 7);
  const Results<T> actual = run<Own, T>(s, in, forward, backward);
  const Results<double> expected = without_saved(PlainRecurrence<HandWritten, T>(s, in).compute());
  check_close(actual, expected, kTolerance<T>.outputs, kTolerance<T>.gradients,
              std::string(Own::kName) + " " + forward.name + to_string(s));
}

// Two directions, rows that end and restart and every variant, with several tiles of units; heads; and nothing.
const Shape kEverything = [] {
  Shape shape{5, 9, 2, 40, 40, true, true, false, true, true};
  shape.zoneout = shape.recurrent_mask = true;
  return shape;
}();
const Shape kHeads = [] {
  Shape shape{4, 3, 4, 20, 20};
  shape.heads = 2;
  return shape;
}();
const Shape kPlain{3, 2, 1, 16, 16, false};

template <class Own, class HandWritten>
void results_are_those_of_the_hand_written_cell() {
  static_assert(Own::kGates == HandWritten::kGates && Own::kStates == HandWritten::kStates);
  static_assert(Own::kSplit == HandWritten::kSplit && Own::kReadsHidden == HandWritten::kReadsHidden);
  const Option per_step{{Schedule::kPerStep}, "per_step", "", 0, ""};
  for (const Shape& s : {kEverything, kHeads, kPlain}) {
    check_options<Own, HandWritten>(s, per_step, per_step);
    for (const Schedule schedule : {Schedule::kSmallBlock, Schedule::kOneBlock, Schedule::kCluster, Schedule::kGrid}) {
      Problem problem = cuda_problem_of<Own, T>(s);
      const std::vector<Option> forward = full_shapes(schedule, problem);
      problem.backward = true;
      const std::vector<Option> backward = full_shapes(schedule, problem);
      check(s.hidden_size == 16 || (!forward.empty() && !backward.empty()), "some shape fits");
      if (forward.empty() || backward.empty()) continue;
      check_options<Own, HandWritten>(s, forward.front(), backward.back());
    }
  }
}

}  // namespace

int main() {
  return test::run({{"LSTM", results_are_those_of_the_hand_written_cell<own::OwnLSTM, LstmCell>},
                    {"GRU", results_are_those_of_the_hand_written_cell<own::OwnGRU, GruCell>},
                    {"Elman", results_are_those_of_the_hand_written_cell<own::OwnElman, ElmanCell<Tanh>>}});
}
