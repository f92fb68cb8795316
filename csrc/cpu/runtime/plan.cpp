// The model behind make_plan: cycles of one time step of the busiest thread.
#include "cpu/runtime/plan.h"

#include <algorithm>

#include "cpu/runtime/machine.h"

namespace fused_rnn {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

double step_cycles(const Problem& problem, const Tiling& tiling, const Plan& plan) {
  const Machine& m = this_machine();
  const double directions = static_cast<double>(ceil_div(problem.directions, plan.direction_parts));
  const int64_t rows = ceil_div(problem.batch, plan.row_parts);
  const int64_t blocks = ceil_div(tiling.blocks, plan.unit_parts);
  const int64_t tiles = ceil_div(rows, tiling.tile_rows);
  const double vectors =
      static_cast<double>(ceil_div(problem.output_size * tiling.reduction, tiling.terms)) * tiling.columns;
  const double element_bytes = problem.type == DataType::kFloat64 ? 8 : 4;
  const double weight_bytes = directions * static_cast<double>(blocks) * vectors * tiling.lanes * element_bytes;
  const bool in_l3 = weight_bytes > m.l2_bytes;
  // A block's first tile brings the weights; the tiles after it are bound by arithmetic or by L2.
  const double per_tile_rows = static_cast<double>(rows) / static_cast<double>(std::max<int64_t>(tiles, 1));
  const double multiplying = per_tile_rows * vectors / m.fmas_per_cycle;
  const double loading = vectors * (in_l3 ? m.l3_load : m.l2_load);
  const double first = std::max(multiplying, loading);
  const double later = std::max(multiplying, vectors * m.l2_load);
  const bool diagonal = tiling.reduction == 0;
  const double gemm = diagonal ? 0
                               : first + static_cast<double>(std::max<int64_t>(tiles - 1, 0)) * later +
                                     static_cast<double>(tiles) * m.tile;
  const double input =
      static_cast<double>(rows * ceil_div(problem.input_size, tiling.terms)) * tiling.columns / m.fmas_per_cycle;
  // A thread that has a share of each row enters as many of them.
  const double entering = diagonal ? static_cast<double>(rows) * m.tile : 0;
  const double update = static_cast<double>(rows * std::max(tiling.reduction, 1) * tiling.columns) * m.update;
  const double stages = problem.projected ? 2 : 1;
  const double from_others = static_cast<double>(rows * problem.output_size * tiling.reduction) * element_bytes / 64 *
                             (1 - 1.0 / plan.unit_parts);
  const double meeting = plan.unit_parts > 1 && !diagonal ? stages * (m.barrier + from_others * m.exchanged_line) : 0;
  return directions * (static_cast<double>(blocks) * (stages * gemm + input + update) + entering + meeting);
}

// Calls visit(plan, cycles of the whole pass) for every way to share the work.
template <class Visit>
void for_each_plan(const Problem& problem, const Tiling& tiling, int threads, const Visit& visit) {
  const int most_directions = static_cast<int>(std::min<int64_t>(problem.directions, threads));
  for (int directions = 1; directions <= most_directions; ++directions) {
    const int most_rows =
        static_cast<int>(std::min<int64_t>(std::max<int64_t>(problem.batch, 1), threads / directions));
    for (int rows = 1; rows <= most_rows; ++rows) {
      const int most_units =
          tiling.whole_rows ? 1 : static_cast<int>(std::min<int64_t>(tiling.blocks, threads / directions / rows));
      for (int units = 1; units <= most_units; ++units) {
        Plan plan{directions, rows, units, 0};
        plan.step_cycles = step_cycles(problem, tiling, plan);
        visit(plan, plan.step_cycles * static_cast<double>(problem.time_steps) +
                        this_machine().region * (plan.threads() - 1));
      }
    }
  }
}

}  // namespace

Plan make_plan(const Problem& problem, const Tiling& tiling, int threads) {
  Plan best;
  double best_cycles = -1;
  for_each_plan(problem, tiling, threads, [&](const Plan& plan, double cycles) {
    if (best_cycles >= 0 && cycles >= best_cycles) return;
    best = plan;
    best_cycles = cycles;
  });
  return best;
}

std::vector<Plan> plan_options(const Problem& problem, const Tiling& tiling, int threads) {
  struct Option {
    Plan plan;
    double cycles;
  };
  std::vector<Option> options;  // the best of each kind
  const auto same_kind = [](const Plan& a, const Plan& b) {
    return (a.direction_parts > 1) == (b.direction_parts > 1) && (a.row_parts > 1) == (b.row_parts > 1) &&
           (a.unit_parts > 1) == (b.unit_parts > 1);
  };
  for_each_plan(problem, tiling, threads, [&](const Plan& plan, double cycles) {
    const auto found = std::find_if(options.begin(), options.end(),
                                    [&](const Option& option) { return same_kind(option.plan, plan); });
    if (found == options.end()) {
      options.push_back({plan, cycles});
    } else if (cycles < found->cycles) {
      *found = {plan, cycles};
    }
  });
  std::stable_sort(options.begin(), options.end(),
                   [](const Option& a, const Option& b) { return a.cycles < b.cycles; });
  std::vector<Plan> plans;
  for (const Option& option : options) plans.push_back(option.plan);
  return plans;
}

std::string name_of(const Plan& plan, const Problem& problem) {
  if (plan.threads() == 1) return "one thread";
  std::string text = std::to_string(plan.threads()) + " threads";
  const char* joint = " share ";
  if (plan.direction_parts > 1) {
    text += std::string(joint) + "the " + std::to_string(problem.directions) +
            (problem.heads == 1                    ? " directions"
             : problem.heads == problem.directions ? " heads"
                                                   : " heads of both directions");
    joint = " and ";
  }
  if (plan.row_parts > 1) {
    text += std::string(joint) + "the rows of the batch";
    joint = " and ";
  }
  if (plan.unit_parts > 1) text += std::string(joint) + "the hidden units";
  return text;
}

std::string expectation(const Plan& plan) {
  return "model of " + std::string(this_machine().name) + ": " +
         std::to_string(static_cast<int64_t>(plan.step_cycles)) + " cycles per step";
}

std::string describe(const Plan& plan, const Problem& problem, int threads) {
  const bool single = is_single_step(problem);  // which has no model
  const std::string estimate = single ? "" : " (" + expectation(plan) + ")";
  const char* input = single                   ? "; the weights are read where they lie"
                      : problem.input_size > 0 ? "; W_ih x is made a few steps at a time"
                                               : "";
  std::string text = name_of(plan, problem);
  if (plan.threads() == 1) {
    text +=
        std::string(", since ") + (threads == 1 ? "one thread is allowed" : "a step is too short to be worth sharing");
  } else if (plan.unit_parts > 1 && !single && problem.cell.recurrent_gates > 0) {
    text += ", with a barrier each step";
  }
  return text + input + estimate;
}

}  // namespace fused_rnn
