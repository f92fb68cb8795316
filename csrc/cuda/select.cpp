// Which CUDA schedule runs a problem: every shape of every schedule that fits, the cheapest by a model of one step.
#include <algorithm>
#include <cstdio>

#include "cuda/schedule.h"
#include "cuda/tuning.h"

namespace fused_rnn::cuda {

namespace {

// What a schedule demands of a shape.
struct Rules {
  Schedule schedule;
  const char* name;
  int min_capability;
  int max_ranks;  // 0: as many as there are multiprocessors
  int buffers, stages;
  double (*exchange_us)(const StepCosts& costs, double received_kb);
};

constexpr Rules kRules[] = {
    {Schedule::kOneBlock, "one_block", 80, 1, 2, 0, [](const StepCosts& c, double) { return c.block_barrier; }},
    {Schedule::kCluster, "cluster", 90, 16, 2, 1,
     [](const StepCosts& c, double kb) { return c.block_barrier + c.cluster_push + c.cluster_kb * kb; }},
    {Schedule::kGrid, "grid", 80, 0, 1, 0,
     [](const StepCosts& c, double kb) { return c.grid_barrier + c.grid_kb * kb + c.block_barrier; }},
};

size_t element_bytes(DataType type) { return type == DataType::kFloat32 ? 4 : 2; }

double model_step_us(const Rules& rules, const Problem& problem, bool tfloat32, const Option& option,
                     const StepCosts& costs) {
  const PersistentShape& s = option.shape;
  const bool exact = problem.type == DataType::kFloat32 && !tfloat32;
  const int vectors = problem.backward ? s.gates : 1, results = problem.backward ? 1 : s.gates;
  const double schedulers = 4, warps = kPersistentWarps / schedulers;
  // Weights beyond the registers are read from shared memory, 128 bytes a cycle.
  const double shared_cycles = s.shared_tiles() * s.gates * 64.0 * s.element_bytes * kPersistentWarps / 8;
  const double product = warps * s.gates * s.split_tiles() * tile_cycles(exact, tfloat32) + shared_cycles;
  const double meeting = s.splits > 1 ? 2.0 * results * 4 * kPersistentWarps : 0;  // partial sums out and in
  const double tile_us = (product + meeting) / (costs.clock_ghz * 1e3) + (s.splits > 1 ? costs.block_barrier : 0);
  const double received_kb = s.columns() * vectors * s.padded() * s.element_bytes / 1024.0;
  const double waves = (option.groups + option.groups_at_once - 1) / option.groups_at_once;
  return waves * (s.column_tiles * tile_us + costs.update * (0.75 + 0.25 * s.column_tiles) +
                  rules.exchange_us(costs, received_kb));
}

// The cheapest shape of a schedule; its refusal says what stood against the last one tried.
Option best_option(const Rules& rules, const Problem& problem, bool tfloat32, const Device& device) {
  const StepCosts& costs = step_costs(device.capability);
  Option best{rules.schedule, rules.name, "", 0, costs.source};
  const auto refuse = [&](const std::string& reason) {
    best.refusal = reason;
    return best;
  };
  if (problem.projected) return refuse("a projection needs a second product in each step");
  if (problem.type == DataType::kFloat64) return refuse("no float64 kernel");
  if (device.capability < rules.min_capability) {
    return refuse("needs compute capability " + std::to_string(rules.min_capability / 10) + "." +
                  std::to_string(rules.min_capability % 10));
  }
  constexpr int64_t kMost = int64_t{1} << 24;
  if (problem.hidden_size > kMost || problem.batch > kMost) return refuse("sizes beyond 2^24");
  if (problem.batch == 0) return refuse("an empty batch");
  const int vectors = problem.backward ? problem.cell.gates : 1, results = problem.backward ? 1 : problem.cell.gates;
  const int max_ranks = rules.max_ranks > 0 ? rules.max_ranks : device.multiprocessors;
  int fewest_ranks = 1 << 30;
  size_t least_shared = ~size_t{0};
  for (const int splits : {1, 2, 4, 8}) {
    for (const int column_tiles : {1, 2, 3, 4, 6, 8}) {
      PersistentShape s{};
      s.time_steps = problem.time_steps;
      s.batch = static_cast<int>(problem.batch);
      s.hidden_size = static_cast<int>(problem.hidden_size);
      s.gates = problem.cell.gates;
      s.element_bytes = static_cast<int>(element_bytes(problem.type));
      s.register_tiles =
          register_tiles(s.gates, element_bytes(problem.type), problem.type == DataType::kFloat32 && !tfloat32);
      s.splits = splits;
      s.column_tiles = column_tiles;
      s.ranks = (s.hidden_size + s.units() - 1) / s.units();
      s.row_groups = (s.batch + s.columns() - 1) / s.columns();
      if (column_tiles > 1 && s.row_groups == (s.batch + s.columns() - 9) / (s.columns() - 8)) continue;  // in vain
      fewest_ranks = std::min(fewest_ranks, s.ranks);
      if (s.ranks > std::min(max_ranks, device.multiprocessors)) continue;
      Option option{rules.schedule, rules.name, "", 0, costs.source, s};
      option.shared_bytes =
          shared_map(s, element_bytes(problem.type), vectors, results, problem.cell.states, rules.buffers, rules.stages)
              .total;
      least_shared = std::min(least_shared, option.shared_bytes);
      if (option.shared_bytes > static_cast<size_t>(device.shared_bytes)) continue;
      option.groups = s.row_groups * static_cast<int>(problem.directions);
      option.groups_at_once = std::min(option.groups, device.multiprocessors / s.ranks);
      if (rules.schedule == Schedule::kGrid) {
        const size_t vector_bytes = element_bytes(problem.type) * s.columns() * vectors * s.padded();
        option.workspace_bytes = option.groups_at_once * (sizeof(uint32_t) * 32 + 2 * vector_bytes);
      }
      option.step_us = model_step_us(rules, problem, tfloat32, option, costs);
      if (rules.schedule != Schedule::kGrid) option.groups_at_once = option.groups;  // the hardware queues them
      if (best.shape.ranks == 0 || option.step_us < best.step_us) best = option;
    }
  }
  if (best.shape.ranks > 0) return best;
  if (least_shared == ~size_t{0}) {
    return refuse("needs at least " + std::to_string(fewest_ranks) + " blocks, may have " +
                  std::to_string(std::min(max_ranks, device.multiprocessors)));
  }
  return refuse("needs " + std::to_string(least_shared) + " bytes of shared memory, has " +
                std::to_string(device.shared_bytes));
}

}  // namespace

std::vector<Option> options(const Problem& problem, bool tfloat32, const Device& device) {
  std::vector<Option> all;
  for (const Rules& rules : kRules) all.push_back(best_option(rules, problem, tfloat32, device));
  const StepCosts& costs = step_costs(device.capability);
  Option library{Schedule::kPerStep, "per_step", "", costs.library_step, costs.source};
  if (device.capability < 80) library.refusal = "the kernels are built for compute capability 8.0 and newer";
  all.push_back(library);
  std::stable_sort(all.begin(), all.end(), [](const Option& a, const Option& b) {
    return a.refusal.empty() != b.refusal.empty() ? a.refusal.empty() : a.step_us < b.step_us;
  });
  return all;
}

std::string describe(const Option& option) {
  if (!option.refusal.empty()) return option.refusal;
  char estimate[64];
  std::snprintf(estimate, sizeof estimate, "about %.2f us a step (", option.step_us);
  std::string text = estimate + option.estimate + ")";
  if (option.schedule == Schedule::kPerStep) return text;
  const PersistentShape& s = option.shape;
  return text + ": " + std::to_string(option.groups) + " groups of " + std::to_string(s.ranks) + " blocks, each " +
         std::to_string(s.units()) + " units of " + std::to_string(s.columns()) + " rows, hidden indices in " +
         std::to_string(s.splits) + ", " + std::to_string(s.shared_tiles()) + " of " + std::to_string(s.split_tiles()) +
         " tiles in shared memory, " + std::to_string(option.shared_bytes) + " bytes";
}

}  // namespace fused_rnn::cuda
