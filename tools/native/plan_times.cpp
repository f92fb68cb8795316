// Times the ways in which two threads share a step against one thread, and says what the model would choose.
//
// Usage: plan_times SECONDS, of which each sample takes a part. A line for each cell, pass, batch and hidden size:
// microseconds of 100 steps on one thread, by rows and by units, and the choice. What the model misses by more than
// a tenth is marked: then a row of csrc/cpu/runtime/machine.cpp is wrong for this processor.
#include "schedule_checks.h"
// (first: what follows needs its names)
#include "cpu/schedules/sweep_backward.h"
#include "cpu/schedules/sweep_forward.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "cells/elman.h"
#include "cells/gru.h"
#include "cells/lstm.h"
#include "cpu/runtime/machine.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;
using Clock = std::chrono::steady_clock;

constexpr Plan kWays[] = {{1, 1, 1}, {1, 2, 1}, {1, 1, 2}};
constexpr const char* kNames[] = {"one", "rows", "units"};
constexpr int kWayCount = 3, kRounds = 3;

template <class Sweep, class Views>
double least_microseconds(const Problem& problem, const Views& views, const Plan& plan, double seconds) {
  Arena counting(nullptr);
  Sweep(problem, views, plan, counting);
  const std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(Arena::kAlignment, counting.used()),
                                                         std::free);
  std::memset(workspace.get(), 0, counting.used());
  Arena arena(workspace.get());
  Sweep sweep(problem, views, plan, arena);
  const auto body = [](void* context, int thread) { static_cast<const Sweep*>(context)->run(thread); };
  double least = 1e12;
  const auto start = Clock::now();
  do {
    sweep.before_team();
    const auto begin = Clock::now();
    check(run_team(plan.threads(), body, &sweep), "a team of two");
    least = std::min(least, std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return least;
}

template <class Sweep, class Views>
void time_pass(const Problem& problem, const Views& views, double seconds) {
  double times[kWayCount] = {1e12, 1e12, 1e12};
  for (int round = 0; round < kRounds; ++round) {
    for (int way = 0; way < kWayCount; ++way) {
      if (problem.batch < kWays[way].row_parts) continue;
      times[way] = std::min(times[way], least_microseconds<Sweep>(problem, views, kWays[way], seconds / kRounds));
    }
  }
  const Plan plan = make_plan(problem, Sweep::tiling(problem), 2);
  const int chosen = plan.row_parts > 1 ? 1 : plan.unit_parts > 1 ? 2 : 0;
  const int best = static_cast<int>(std::min_element(times, times + kWayCount) - times);
  std::printf("%-9s %-8s B %-3d H %-4d", problem.cell.name, problem.backward ? "backward" : "forward",
              static_cast<int>(problem.batch), static_cast<int>(problem.hidden_size));
  for (int way = 0; way < kWayCount; ++way) {
    if (times[way] < 1e12) std::printf("  %s %.0f", kNames[way], times[way]);
  }
  std::printf("  chosen %s%s\n", kNames[chosen], times[chosen] > 1.1 * times[best] ? "  MISSED" : "");
}

template <class Cell>
void time_cell(double seconds) {
  for (const int64_t hidden_size : {16, 32, 64, 128, 256, 512}) {
    for (const int64_t batch : {1, 2, 4, 8, 16, 32, 64}) {
      Shape shape{100, batch, 1, hidden_size, hidden_size};
      shape.input_size = hidden_size;
      const Inputs<float> inputs = random_inputs<Cell, float>(shape, 1);
      Results<float> results = empty_results<Cell, float>(shape);
      Problem problem = problem_of<Cell>(shape, DataType::kFloat32);
      time_pass<ForwardSweep<Cell, float>>(problem, forward_views(inputs, results), seconds);
      problem.backward = true;
      problem.input_size = 0;
      time_pass<BackwardSweep<Cell, float>>(problem, backward_views(inputs, results), seconds);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  const double seconds = count == 2 ? std::atof(arguments[1]) : 0;
  if (!(seconds > 0)) {
    std::fprintf(stderr, "usage: plan_times SECONDS, more than 0\n");
    return 2;
  }
  std::printf("model of %s\n", this_machine().name);
  time_cell<LstmCell>(seconds);
  time_cell<GruCell>(seconds);
  time_cell<ElmanCell<Tanh>>(seconds);
  return test::failures == 0 ? 0 : 1;
}
