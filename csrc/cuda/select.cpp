// Which CUDA schedule runs a problem: every shape of every schedule that fits, the cheapest by a model of one step.
#include <algorithm>
#include <cstdio>
#include <optional>

#include "cuda/norm_shape.h"
#include "cuda/schedule.h"
#include "cuda/tuning.h"

namespace fused_rnn::cuda {

namespace {

// What a schedule demands of a shape.
struct Rules {
  Schedule schedule;
  const char* name;
  int min_capability;
  int min_ranks, max_ranks;  // 0: as many as there are multiprocessors
  int buffers, stages;
  double (*exchange_us)(const StepCosts& costs, double received_kb);
};

constexpr int kOldestCapability = 80;  // that the kernels are built for
constexpr int kMostGroups = 65535;     // of a launch; the hardware queues them

constexpr Rules kRules[] = {
    {Schedule::kOneBlock, "one_block", kOldestCapability, 1, 1, 2, 0,
     [](const StepCosts& c, double) { return c.one_block; }},
    {Schedule::kCluster, "cluster", 90, 2, 16, 2, 2,
     [](const StepCosts& c, double kb) { return c.cluster + c.cluster_kb * kb; }},
    {Schedule::kGrid, "grid", kOldestCapability, 1, 0, 1, 0,
     [](const StepCosts& c, double kb) { return c.grid + c.grid_kb * kb; }},
};

bool is_exact(const Problem& problem) { return problem.type == DataType::kFloat32 && !problem.rounds_factors; }

double model_step_us(const Rules& rules, const Problem& problem, const Option& option, const StepCosts& costs) {
  const PersistentShape& s = option.shape;
  const int vectors = problem.backward ? s.gates : 1;
  // Weights beyond the registers are read from shared memory, 128 bytes a cycle.
  constexpr double kWarpsOfScheduler = kPersistentWarps / 4.0, kSharedBytes = 128;
  const double rows = s.rows, tile_bytes = s.tile_units * 32.0 * s.element_bytes;
  // Exact float32 leaves out the columns beyond the batch.
  const double columns = is_exact(problem) ? rows / s.columns() : 1;
  const double gemm = kWarpsOfScheduler * s.gates * s.split_tiles() * columns *
                      tile_cycles(is_exact(problem), problem.type == DataType::kFloat32);
  const double shared = kPersistentWarps * s.gates * s.shared_tiles() * tile_bytes / kSharedBytes;
  const double tile_us = costs.tile + (gemm + shared) / (costs.clock_ghz * 1e3);
  const double received_kb = s.scatters ? (s.rows + 1) / 2 * 2 * s.ranks * kScatterUnits * 4 / 1024.0
                                        : rows * vectors * 32 * s.hidden_tiles() * s.element_bytes / 1024.0;
  double instructions = added_instructions(problem) - (s.scatters ? kScatteredInstructions : 0.0), meetings_us = 0;
  if (problem.normalized) {
    const NormInstructions& of_norms = kNormInstructions[has_norm_of_c(problem.cell) ? 1 : 0];
    instructions += problem.backward ? of_norms.backward : of_norms.forward;
    const double pairs_kb = rows * s.ranks * 2 * sizeof(float) / 1024.0;
    meetings_us = norm_meetings(problem.cell) * rules.exchange_us(costs, pairs_kb);
  }
  const double turn_us = costs.turn + instructions * kInstructionCycles / (costs.clock_ghz * 1e3);
  const double waves = (option.groups + option.groups_at_once - 1) / option.groups_at_once;
  return waves * (s.column_tiles * tile_us + s.turns() * turn_us + rules.exchange_us(costs, received_kb) + meetings_us);
}

// Of a cell without a GEMM in its steps: what one step reads and writes, at the rate of the memory.
double diagonal_step_us(const Problem& problem) {
  const CellSpec& cell = problem.cell;
  const auto values = static_cast<double>(cell.gates + cell.states + (problem.backward ? cell.states : 0) + cell.saved);
  const auto units = static_cast<double>(problem.batch * problem.directions * problem.hidden_size);
  return values * units * static_cast<double>(element_size(problem.type)) / (kMemoryGbPerUs * 1e9);
}

double library_step_us(const Problem& problem, const StepCosts& costs) {
  const LibraryRates& rates = kLibraryRates;
  const double weights = static_cast<double>(problem.cell.recurrent_gates * problem.hidden_size) *
                         static_cast<double>(problem.output_size);
  const double bytes = weights * static_cast<double>(element_size(problem.type));
  const bool exact = problem.type == DataType::kFloat64 || is_exact(problem);
  const double rounded_tflops = problem.type == DataType::kFloat32 ? rates.tf32_tflops : rates.half_tflops;
  const double tflops = exact ? rates.exact_tflops : rounded_tflops;
  const double gemm =
      std::max(bytes / (rates.gb_per_us * 1e9), 2 * weights * static_cast<double>(problem.batch) / (tflops * 1e6));
  return static_cast<double>(problem.directions) * (costs.library_call + gemm);
}

// The one schedule that is not persistent.
Option per_step_option(const Problem& problem, const Device& device, const StepCosts& costs) {
  Option option{{Schedule::kPerStep}, "per_step", "", library_step_us(problem, costs), costs.source};
  if (problem.cell.recurrent_gates == 0) {
    option.step_us = diagonal_step_us(problem);
    option.estimate = "not measured; one kernel for all steps";
  }
  if (device.capability < kOldestCapability) {
    option.refusal = "the kernels are built for compute capability 8.0 and newer";
  } else if (problem.directions > kMostGroups) {
    option.refusal = "more than " + std::to_string(kMostGroups) + " heads of all directions";
  }
  return option;
}

bool fits(int64_t elements) { return elements < (int64_t{1} << 31); }

// Why no kernel that keeps the weights on the chip runs the problem; empty: nothing is against it.
std::string common_refusal(const Problem& problem, const Device& device, int min_capability) {
  constexpr int64_t kMost = int64_t{1} << 24, kMostSteps = int64_t{1} << 30;
  if (problem.cell.recurrent_gates == 0) return "no gate reads h, so that there is no W_hh to keep on the chip";
  if (problem.projected) return "a projection needs a second product in each step";
  if (problem.type == DataType::kFloat64) return "there is no float64 kernel";
  if (const int most = most_gates(is_exact(problem)); problem.cell.recurrent_gates > most) {
    return "the registers hold " + std::to_string(most) + " gates that read h at most";
  }
  if (problem.hidden_size > kMost || problem.batch > kMost) return "sizes beyond 2^24";
  if (problem.time_steps > kMostSteps) return "more than 2^30 steps";
  const double rows = static_cast<double>(problem.batch) * static_cast<double>(problem.directions);
  if (rows * static_cast<double>(problem.cell.gates * problem.hidden_size) >= 0x1p31) {
    return "one step of the gates has 2^31 elements or more";
  }
  if (problem.batch == 0) return "the batch is empty";
  if (device.capability >= min_capability) return "";
  return "needs compute capability " + std::to_string(min_capability / 10) + "." + std::to_string(min_capability % 10);
}

// What a step of a block of small_block takes of a scheduler besides latencies: instructions, and of matrix units and
// shared memory whichever takes longer.
double small_step_cycles(const Problem& problem, const SmallShape& s, int vectors, int results) {
  const double warps = s.threads() / (4.0 * 32);
  const SmallInstructions& counted =
      (problem.normalized ? kSmallNormInstructions : kSmallInstructions)[is_exact(problem) ? 0 : 1];
  const double update = (problem.backward ? counted.backward : counted.forward) + added_instructions(problem);
  if (is_exact(problem)) {
    const int products = problem.backward ? tile_units(vectors) : results;  // of an element of the vector
    const double of_row = vector_chunks(vectors, s.hidden_size, s.lanes) * (kSmallChunk * products + 1) +
                          (problem.backward ? counted.row_backward : counted.row_forward);
    return warps * (update + s.rows * of_row);
  }
  const int bytes = static_cast<int>(element_size(problem.type));
  const int turns = s.rows > kTileRows ? s.rows / kTileRows : 1;
  const SmallTiles tiles = small_tiles(bytes, vectors, results, s.hidden_size, s.rows);
  const double mma = kSmallMmaCycles * kChunkTiles * tiles.chunks * results;
  // All four schedulers read 128 bytes a cycle, a warp 512 at once: the vector, and weights.
  const double shared = 4.0 * 512 / 128 * (tiles.chunks + kChunkTiles * (tiles.chunks - tiles.held) * results);
  return warps * turns * (update + std::max(mma, shared));
}

// Every number of rows that small_block could give to a block; where there is none, `refusal` says why.
std::vector<Option> small_shapes(const Problem& problem, const Device& device, std::string* refusal) {
  const bool exact = is_exact(problem);
  const CellSpec& cell = problem.cell;
  const int bytes = static_cast<int>(element_size(problem.type)), gates = cell.recurrent_gates;
  const int values = cell.gates + cell.states + cell.unit_weights;
  *refusal = common_refusal(problem, device, kOldestCapability);
  const bool normalized = problem.normalized;
  if (const int most = most_small_units(bytes, exact, normalized, values, 1);
      refusal->empty() && problem.hidden_size > most) {
    *refusal = "a block holds the weights of " + std::to_string(most) + " units at most";
  }
  if (!refusal->empty()) return {};
  const StepCosts& costs = step_costs(device.capability);
  const int vectors = problem.backward ? gates : 1, results = problem.backward ? 1 : gates;
  std::vector<Option> found;
  for (const int rows : kSmallRows) {
    const int most = most_small_units(bytes, exact, normalized, values, rows);
    SmallShape s{static_cast<int>(problem.time_steps),
                 static_cast<int>(problem.batch),
                 static_cast<int>(problem.hidden_size),
                 rows,
                 0,
                 static_cast<int>(problem.heads),
                 unit_lanes(exact, rows)};
    s.row_groups = (s.batch + rows - 1) / rows;
    if (rows >= 2 * s.batch || s.hidden_size > most || !has_small_rows(exact, normalized, rows)) continue;
    Option option{{Schedule::kSmallBlock}, "small_block", "", 0, costs.small_source};
    option.small = s;
    option.shared_bytes = small_shared_bytes(s, exact, bytes, vectors, results);
    if (normalized) option.shared_bytes += SmallNormMap::of(norms(cell), most, problem.backward).total;
    if (option.shared_bytes > static_cast<size_t>(device.shared_bytes)) continue;
    option.groups = s.row_groups * static_cast<int>(problem.directions);
    option.groups_at_once = std::min(option.groups, device.multiprocessors * small_blocks_at_once(s, most));
    // Blocks of one multiprocessor share its four schedulers.
    const int beside = (option.groups_at_once + device.multiprocessors - 1) / device.multiprocessors;
    const int waves = (option.groups + option.groups_at_once - 1) / option.groups_at_once;
    const double latency = costs.small_cycles + (normalized ? norm_meetings(cell) * kSmallMeetingCycles : 0);
    const double cycles = latency + beside * small_step_cycles(problem, s, vectors, results);
    option.step_us = waves * cycles / (costs.clock_ghz * 1e3);
    found.push_back(option);
  }
  if (found.empty()) *refusal = "the weights do not fit the registers and shared memory of one block";
  return found;
}

// Shares the batch evenly among the fewest groups that hold it, or among `groups` where these are more.
void share_rows(PersistentShape& s, int groups) {
  const auto quotient = [](int a, int b) { return (a + b - 1) / b; };
  s.rows = quotient(s.batch, std::clamp(groups, quotient(s.batch, s.columns()), s.batch));
  s.row_groups = quotient(s.batch, s.rows);
}

// The option with sums that are scattered, where its shape has such a kernel.
std::optional<Option> scattering(const Rules& rules, const Problem& problem, const Option& option, int states,
                                 const StepCosts& costs) {
  if (rules.schedule != Schedule::kCluster || !problem.backward || problem.normalized || is_exact(problem)) return {};
  const PersistentShape& s = option.shape;
  const auto size = static_cast<size_t>(s.element_bytes);
  if (s.units() != kScatterUnits || s.scattered_tiles() > scatter_tiles(s.gates, size)) return {};
  Option other = option;
  other.shape.scatters = true;
  other.estimate = kScatterSource;
  other.shared_bytes = scatter_map(s, size, states).total;
  other.step_us = model_step_us(rules, problem, other, costs);
  other.groups_at_once = std::min(option.groups, kMostGroups);
  return other;
}

// Every shape of a schedule that fits; where there is none, `refusal` says what stands against it.
std::vector<Option> feasible(const Rules& rules, const Problem& problem, const Device& device, std::string* refusal) {
  const auto refuse = [&](const std::string& reason) {
    *refusal = reason;
    return std::vector<Option>{};
  };
  constexpr int kFill = 0;  // one tile of columns, and as many groups as run at once
  *refusal = common_refusal(problem, device, rules.min_capability);
  if (!refusal->empty()) return {};
  const StepCosts& costs = step_costs(device.capability);
  const auto size = static_cast<size_t>(element_size(problem.type));
  const int gates = problem.cell.recurrent_gates;
  const int vectors = problem.backward ? gates : 1, results = problem.backward ? 1 : gates;
  // With the sums of the gradients of the unit's weights.
  const int states = problem.cell.states + (problem.backward ? problem.cell.unit_weights : 0);
  const int most_ranks =
      std::min(rules.max_ranks > 0 ? rules.max_ranks : device.multiprocessors, device.multiprocessors);
  const char* measured = is_exact(problem) ? kExactSource : costs.source;
  const char* source = problem.normalized ? kNormSource : measured;
  int fewest_ranks = 0;
  size_t least_shared = 0;
  std::vector<Option> found;
  PersistentShape s{};
  s.time_steps = static_cast<int>(problem.time_steps);
  s.batch = static_cast<int>(problem.batch);
  s.hidden_size = static_cast<int>(problem.hidden_size);
  s.heads = static_cast<int>(problem.heads);
  s.gates = gates;
  s.element_bytes = static_cast<int>(size);
  s.tile_units = weight_tile_units(is_exact(problem));
  s.register_tiles = register_tiles(s.gates, size, is_exact(problem));
  s.interleaved = interleaves_gates(results, is_exact(problem), problem.normalized);
  for (const int splits : {1, 2, 4, 8}) {
    std::vector<int> tried;  // rows of a group; the same rows in more tiles are no better
    for (const int column_tiles : {1, 2, 3, 4, 6, 8, kFill}) {
      s.splits = splits;
      s.column_tiles = std::max(column_tiles, 1);
      s.ranks = (s.hidden_size + s.units() - 1) / s.units();
      if (problem.normalized && s.turns() > 1) continue;
      if (fewest_ranks == 0 || s.ranks < fewest_ranks) fewest_ranks = s.ranks;
      if (s.ranks < rules.min_ranks || s.ranks > most_ranks) continue;
      const int at_once = rules.schedule == Schedule::kCluster ? clusters_at_once(device.multiprocessors, s.ranks)
                                                               : device.multiprocessors / s.ranks;
      share_rows(s, column_tiles == kFill ? at_once / static_cast<int>(problem.directions) : 0);
      if (std::find(tried.begin(), tried.end(), s.rows) != tried.end()) continue;
      tried.push_back(s.rows);
      Option option{{rules.schedule, s}, rules.name, "", 0, source};
      option.groups = s.row_groups * static_cast<int>(problem.directions);
      option.groups_at_once = std::min(option.groups, at_once);
      if (const auto other = scattering(rules, problem, option, states, costs)) {
        if (other->shared_bytes <= static_cast<size_t>(device.shared_bytes)) found.push_back(*other);
      }
      option.shared_bytes = shared_map(s, size, vectors, results, states, rules.buffers, rules.stages).total;
      if (problem.normalized) {
        option.shared_bytes =
            norm_map(s, option.shared_bytes, norms(problem.cell), norm_rows(problem.cell) / 2, problem.backward).total;
        if (problem.backward) option.step_bytes = norm_moments_bytes(problem);
      }
      if (least_shared == 0 || option.shared_bytes < least_shared) least_shared = option.shared_bytes;
      if (option.shared_bytes > static_cast<size_t>(device.shared_bytes)) continue;
      if (rules.schedule == Schedule::kGrid) {
        const size_t vector_bytes = size * s.columns() * vectors * s.padded();
        option.workspace_bytes = option.groups_at_once * (sizeof(BlockBarrier) + 2 * vector_bytes);
        if (problem.normalized) {
          option.workspace_bytes +=
              option.groups_at_once * (kNormMeetings * sizeof(BlockBarrier) + norm_pairs_bytes(s, norms(problem.cell)));
        }
      }
      option.step_us = model_step_us(rules, problem, option, costs);
      if (rules.schedule != Schedule::kGrid) option.groups_at_once = std::min(option.groups, kMostGroups);
      found.push_back(option);
    }
  }
  if (!found.empty()) return found;
  if (least_shared == 0 && s.hidden_size <= s.units()) return refuse("one block owns all units");
  if (least_shared == 0) {
    return refuse("needs at least " + std::to_string(fewest_ranks) + " blocks, may have " + std::to_string(most_ranks));
  }
  return refuse("needs " + std::to_string(least_shared) + " bytes of shared memory, has " +
                std::to_string(device.shared_bytes));
}

}  // namespace

std::vector<Option> shapes(Schedule schedule, const Problem& problem, const Device& device) {
  std::string refusal;
  if (schedule == Schedule::kSmallBlock) return small_shapes(problem, device, &refusal);
  for (const Rules& rules : kRules) {
    if (rules.schedule == schedule) return feasible(rules, problem, device, &refusal);
  }
  return {};
}

void sort_options(std::vector<Option>& options) {
  std::stable_sort(options.begin(), options.end(), [](const Option& a, const Option& b) {
    return a.refusal.empty() != b.refusal.empty() ? a.refusal.empty() : a.step_us < b.step_us;
  });
}

std::vector<Option> options(const Problem& problem, const Device& device) {
  std::vector<Option> all;
  const StepCosts& costs = step_costs(device.capability);
  const auto add = [&](const Option& refused, const std::vector<Option>& found) {
    const auto cheapest = std::min_element(found.begin(), found.end(),
                                           [](const Option& a, const Option& b) { return a.step_us < b.step_us; });
    all.push_back(cheapest == found.end() ? refused : *cheapest);
  };
  Option small{{Schedule::kSmallBlock}, "small_block", "", 0, costs.small_source};
  const std::vector<Option> of_small = small_shapes(problem, device, &small.refusal);
  add(small, of_small);
  for (const Rules& rules : kRules) {
    Option refused{{rules.schedule}, rules.name, "", 0, costs.source};
    const std::vector<Option> found = feasible(rules, problem, device, &refused.refusal);
    add(refused, found);
  }
  all.push_back(per_step_option(problem, device, costs));
  sort_options(all);
  return all;
}

namespace {

// Values of a unit that lie side by side in some buffer, at most.
int64_t most_values(const Problem& p) {
  return std::max({p.cell.gates, p.cell.states, p.cell.unit_weights, saved_values(p)});
}

template <class Void>
bool fits(const Problem& p, const SequenceView<Void>& view) {
  return fits(view.time_stride * element_size(p.type)) &&  // bytes
         fits(p.batch * view.row_stride + p.directions * view.direction_stride + most_values(p) * p.hidden_size);
}
template <class Void>
bool fits(const Problem& p, const StateView<Void>& view) {
  return fits(p.batch * view.row_stride + p.directions * view.direction_stride + most_values(p) * p.hidden_size);
}
template <class... Views>
bool all_fit(const Problem& p, const Views&... views) {
  return (fits(p, views) && ...);
}
bool fit(const Problem& p, const VariantViews& v) {
  const StateView<const void>& weights = v.unit_weights;  // [D, K, H]
  return all_fit(p, v.zoneout, v.recurrent_mask) &&
         fits(p.directions * weights.direction_stride + p.cell.unit_weights * weights.row_stride + p.hidden_size);
}

}  // namespace

bool offsets_fit(const Problem& p, const ForwardViews& v) {
  return all_fit(p, v.gates, v.output, v.cells, v.saved, v.h_0, v.c_0, v.h_n, v.c_n) && fit(p, v.variant);
}
bool offsets_fit(const Problem& p, const BackwardViews& v) {
  return all_fit(p, v.d_output, v.d_cells, v.output, v.cells, v.saved, v.d_gates, v.d_gates_h, v.d_h_n, v.d_c_n, v.h_0,
                 v.c_0, v.d_h_0, v.d_c_0, v.d_unit_weights) &&
         fit(p, v.variant);
}

std::string describe(const Option& option) {
  if (!option.refusal.empty()) return option.refusal;
  char estimate[64];
  std::snprintf(estimate, sizeof estimate, "about %.2f us a step (", option.step_us);
  std::string text = estimate + option.estimate + ")";
  if (option.schedule == Schedule::kPerStep) return text;
  if (option.schedule == Schedule::kSmallBlock) {
    return text + ": " + std::to_string(option.groups) + " blocks of " + std::to_string(option.small.rows) + " rows, " +
           std::to_string(option.small.threads()) + " threads";
  }
  const PersistentShape& s = option.shape;
  return text + ": " + std::to_string(option.groups) + " groups of " + std::to_string(s.ranks) + " blocks, each " +
         std::to_string(s.units()) + " units of " + std::to_string(s.rows) + " rows, hidden indices in " +
         std::to_string(s.splits) + ", " + std::to_string(s.shared_tiles()) + " of " + std::to_string(s.split_tiles()) +
         " tiles in shared memory, " + std::to_string(option.shared_bytes) + " bytes" +
         (s.scatters ? ", sums scattered" : "");
}

}  // namespace fused_rnn::cuda
