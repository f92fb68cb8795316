// Tests every CUDA schedule, in every shape that it could take, with every option, against the float64 oracle: one
// cell, named by the build.
#include "cells/table.h"
#include "emulated_schedules.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;
using cuda::BFloat16;
using cuda::Float16;
using cuda::Option;
using cuda::Schedule;
using cuda::TFloat32;
using Cell = FUSED_RNN_TEST_CELL;

// Those that keep the weights on the chip.
constexpr Schedule kOnChip[] = {Schedule::kSmallBlock, Schedule::kOneBlock, Schedule::kCluster, Schedule::kGrid};

uint64_t seed = 1;

template <class T>
void check_options(const Shape& s, const Inputs<T>& in, const Option& forward, const Option& backward) {
  emulator::set_seed(++seed);
  const Results<T> actual = run<Cell, T>(s, in, forward, backward);
  const auto cut = [](const Option& o) {
    return " " + (o.schedule == Schedule::kSmallBlock
                      ? std::to_string(o.small.rows)
                      : std::to_string(o.shape.splits) + "x" + std::to_string(o.shape.column_tiles) +
                            (o.shape.scatters ? " scattered" : ""));
  };
  const std::string what = std::string(Cell::kName) + " " + forward.name + cut(forward) + cut(backward) + " " +
                           name_of(kTypeOf<T>) + (kIsTFloat32<T> ? " (TF32)" : "") + to_string(s);
  check_close(actual, PlainRecurrence<Cell, T>(s, in).compute_after(actual), kTolerance<T>.outputs,
              kTolerance<T>.gradients, what);
}

// In every shape, or the first ones, forward and backward paired in turn; returns how many shapes there were.
template <class T>
size_t check_shapes(const Shape& s, Schedule schedule, const cuda::Device& device = kHopper, size_t most = SIZE_MAX) {
  const Inputs<T> in = random_inputs<Cell, T>(s, 7);
  Problem problem = cuda_problem_of<Cell, T>(s);
  const std::vector<Option> forward = full_shapes(schedule, problem, device);
  problem.backward = true;
  const std::vector<Option> backward = full_shapes(schedule, problem, device);
  if (forward.empty() || backward.empty()) return 0;
  for (size_t i = 0; i < std::min(most, std::max(forward.size(), backward.size())); ++i) {
    check_options<T>(s, in, forward[i % forward.size()], backward[i % backward.size()]);
  }
  return std::min(forward.size(), backward.size());
}

const Option kPerStep{{Schedule::kPerStep}, "per_step", "", 0, ""};

template <class T>
void check_per_step(const Shape& s) {
  check_options<T>(s, random_inputs<Cell, T>(s, 7), kPerStep, kPerStep);
}

// A tile is 16 units, or 8 in float32, by 32 hidden indices by 8 rows; small_block has 64 units in float32.
template <class T>
void sizes_around_a_tile_in_every_shape() {
  constexpr int kTile = cuda::weight_tile_units(std::is_same_v<T, float>);
  for (const Schedule schedule : kOnChip) {
    for (const int64_t hidden_size : {1, kTile, 33, 63}) {
      const bool fits = check_shapes<T>({3, hidden_size % 10, 2, hidden_size, hidden_size}, schedule) > 0;
      const bool one_block_owns_all = hidden_size <= kTile;  // and a cluster has two at least
      check(fits == !(schedule == Schedule::kCluster && one_block_owns_all), "some shape fits");
    }
    const size_t several = schedule == Schedule::kSmallBlock ? 2 : 4;
    check(check_shapes<T>({3, 17, 1, 5 * kTile / 2, 5 * kTile / 2}, schedule) >= several, "several shapes fit");
  }
}

template <class T>
void weights_beyond_the_registers_come_from_shared_memory() {
  const int gates = Cell::kGates;
  const int held = 32 * cuda::register_tiles(gates, sizeof(T), std::is_same_v<T, float>);
  const int64_t hidden_size = std::min(held + 8, 280);  // with one split; larger ones would take the emulator long
  const Shape s{2, 3, 1, hidden_size, hidden_size};
  check(check_shapes<T>(s, Schedule::kGrid) > 0, "some shape fits");
  check(check_shapes<T>(s, Schedule::kCluster) > 0, "some shape fits");
}

// A block of small_block has more units where weights are of 16 bits, or some of them in shared memory.
template <class T>
void small_blocks_have_more_units_than_registers_for_float32() {
  for (const int64_t hidden_size : {65, 128}) {
    const bool fits = check_shapes<T>({2, 5, 1, hidden_size, hidden_size}, Schedule::kSmallBlock) > 0;
    check(fits == (!std::is_same_v<T, float> && Cell::kUnitWeights == 0), "some shape fits");
  }
}

template <class T>
void sequences_of_zero_and_one_step_pass_the_states_through() {
  for (const int64_t time_steps : {0, 1}) {
    for (const Schedule schedule : kOnChip) {
      check_shapes<T>({time_steps, 2, 2, 19, 19}, schedule);
    }
    check_per_step<T>({time_steps, 2, 2, 19, 19});
  }
}

template <class T>
void optional_inputs_may_be_absent_and_weights_may_be_transposed() {
  for (const bool given : {false, true}) {
    const Shape s{3, 5, 2, 20, 20, given, !given, given};
    for (const Schedule schedule : kOnChip) {
      check_shapes<T>(s, schedule);
    }
    check_per_step<T>(s);
  }
}

// Rows are a matter of the pass, and shapes of the product: one shape shows each option alone.
template <class T>
void rows_end_and_start_anew_where_they_like() {
  for (const auto& [lengths, resets] : {std::pair{true, false}, {false, true}, {true, true}}) {
    const Shape s{5, 9, 2, 20, 20, lengths, true, false, lengths, resets};
    for (const Schedule schedule : kOnChip) {
      check_shapes<T>(s, schedule, kHopper, lengths && resets ? SIZE_MAX : 1);
    }
    check_per_step<T>(s);
    if constexpr (!Cell::kReadsHidden) check_per_step<T>({5, 9, 2, 20, 7, lengths, true, false, lengths, resets});
  }
}

// So are variants. The other options come with one of them each, and without.
template <class T>
void variants_run_in_every_schedule() {
  for (const auto& [zoneout, mask] : {std::pair{true, false}, {false, true}, {true, true}}) {
    Shape s{4, 9, 2, 20, 20, mask, true, false, zoneout && mask, zoneout && mask};
    s.zoneout = zoneout, s.recurrent_mask = mask;
    for (const Schedule schedule : kOnChip) check_shapes<T>(s, schedule, kHopper, zoneout && mask ? SIZE_MAX : 1);
    check_per_step<T>(s);
    s.time_steps = 0;
    for (const Schedule schedule : kOnChip) check_shapes<T>(s, schedule, kHopper, 1);
    check_per_step<T>(s);
  }
  if (Cell::kReadsHidden) return;
  Shape projected{4, 9, 2, 20, 7, true, true, true, true, true};
  projected.recurrent_mask = true;
  check_per_step<T>(projected);
}

Shape normalized(Shape s) {
  s.normalized = true;
  s.bias = false;  // the norms have it
  return s;
}

// A block of 256 threads has all units of a row.
template <class T>
void layer_norms_run_step_by_step() {
  if constexpr (Cell::kNormGroups > 0) {
    for (const int64_t hidden_size : {1, 40}) check_per_step<T>(normalized({4, 3, 2, hidden_size, hidden_size}));
    check_per_step<T>(normalized({2, 2, 1, 260, 260, false}));
    check_per_step<T>(normalized({0, 3, 2, 5, 5}));
    check_per_step<T>(normalized({3, 0, 1, 5, 5}));
    Shape all = normalized({5, 9, 4, 20, 20, true, false, false, true, true});
    all.heads = 2, all.zoneout = true, all.recurrent_mask = true;
    check_per_step<T>(all);
    // A projected h may be so small that its norm magnifies roundings.
    if (Cell::kReadsHidden || !std::is_same_v<T, double>) return;
    all.output_size = 7, all.zoneout = false, all.heads = 1, all.directions = 2;
    check_per_step<T>(all);
  }
}

// One unit, a block with a rest and a full one, several blocks; then each option.
template <class T>
void layer_norms_run_where_the_weights_stay_on_the_chip() {
  if constexpr (kRunsNorms<Cell, T>) {
    for (const int64_t hidden_size : {1, 20, 32}) {
      const Shape s = normalized({4, 3, 2, hidden_size, hidden_size, hidden_size > 1});
      check(check_shapes<T>(s, Schedule::kSmallBlock) > 0, "some shape fits");
      check(check_shapes<T>(s, Schedule::kOneBlock) > 0, "some shape fits");
      if (hidden_size > 16) check(check_shapes<T>(s, Schedule::kCluster) > 0, "some shape fits");
      check(check_shapes<T>(s, Schedule::kGrid, kHopper, 1) > 0, "some shape fits");
    }
    for (const int64_t hidden_size : {63, 150}) {
      const Shape s = normalized({3, 2, 1, hidden_size, hidden_size});
      check(check_shapes<T>(s, Schedule::kCluster) > 0, "some shape fits");
      check(check_shapes<T>(s, Schedule::kGrid, kHopper, 1) > 0, "some shape fits");
    }
    const bool large_blocks = check_shapes<T>(normalized({3, 5, 1, 100, 100}), Schedule::kSmallBlock) > 0;
    check(large_blocks == (Cell::kGates == 1), "some shape fits");
    check(check_shapes<T>(normalized({3, 20, 2, 40, 40}), Schedule::kGrid, kSmall) > 0, "some shape fits");
    Shape all = normalized({4, 9, 4, 20, 20, true, false, false, true, true});
    all.heads = 2, all.zoneout = true, all.recurrent_mask = true;
    for (const Schedule schedule : {Schedule::kSmallBlock, Schedule::kOneBlock, Schedule::kCluster, Schedule::kGrid}) {
      check_shapes<T>(all, schedule, kHopper, 2);
      check_shapes<T>(normalized({0, 3, 1, 20, 20}), schedule, kHopper, 1);
    }
  }
}

template <class T>
void heads_go_the_way_of_their_direction() {
  for (const int64_t directions : {2, 4}) {
    Shape s{4, 9, directions, 20, 20, true, true, false, true, true};
    s.heads = 2;
    for (const Schedule schedule : kOnChip) check_shapes<T>(s, schedule, kHopper, 1);
    check_per_step<T>(s);
  }
}

template <class T>
void groups_that_do_not_fit_follow_in_another_launch() {
  check(check_shapes<T>({3, 20, 2, 40, 40}, Schedule::kGrid, kSmall) > 0, "some shape fits");
}

// Two groups of three and two rows, where one of five would do; one_block has a group for each.
template <class T>
void check_shared_rows(const Shape& s, std::initializer_list<Schedule> schedules) {
  const Inputs<T> in = random_inputs<Cell, T>(s, 7);
  for (const Schedule schedule : schedules) {
    Problem problem = cuda_problem_of<Cell, T>(s);
    const auto shared = [&] {
      for (const Option& option : shapes(schedule, problem, kSmall)) {
        if (option.shape.rows == (schedule == Schedule::kOneBlock ? 1 : 3)) return option;
      }
      check(false, "some shape shares the rows");
      return Option{};
    };
    const Option forward = shared();
    problem.backward = true;
    check_options<T>(s, in, forward, shared());
  }
}
template <class T>
void idle_blocks_take_a_part_of_the_rows() {
  const Shape s{4, 5, 1, 20, 20};
  check_shared_rows<T>(s, {Schedule::kOneBlock, Schedule::kCluster, Schedule::kGrid});
  if constexpr (kRunsNorms<Cell, T>) check_shared_rows<T>(normalized(s), {Schedule::kOneBlock, Schedule::kCluster});
}

// To the last bit: a race that the tolerance hides shows here.
template <class T>
void check_order(const Shape& s, Schedule schedule, size_t most, int repeats) {
  const Inputs<T> in = random_inputs<Cell, T>(s, 11);
  Problem problem = cuda_problem_of<Cell, T>(s);
  const std::vector<Option> forward = full_shapes(schedule, problem);
  problem.backward = true;
  const std::vector<Option> backward = full_shapes(schedule, problem);
  for (size_t i = 0; i < std::min({forward.size(), backward.size(), most}); ++i) {
    Results<T> first;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      emulator::set_seed(++seed);
      const Results<T> actual = run<Cell, T>(s, in, forward[i], backward[i]);
      if (repeat == 0) first = actual;
      check_identical(actual, first, forward[i].name);
    }
  }
}

template <class T>
void results_do_not_depend_on_the_order_of_the_threads() {
  for (const Schedule schedule : kOnChip) {
    check_order<T>({4, 9, 1, 40, 40}, schedule, 8, 4);
  }
}

// Two blocks whose warps meet nowhere but in the exchange, so that one may fall far behind.
[[maybe_unused]] void a_slow_warp_changes_nothing() {
  check_order<BFloat16>({3, 3, 1, 136, 136}, Schedule::kCluster, 1, 16);
}

template <class T>
void per_step_runs_every_size() {
  for (const int64_t hidden_size : {1, 31, 64}) check_per_step<T>({4, 3, 2, hidden_size, hidden_size});
  check_per_step<T>({3, 0, 1, 5, 5});
  if (Cell::kReadsHidden) return;
  check_per_step<T>({4, 3, 2, 20, 7});
  check_per_step<T>({0, 3, 2, 20, 7});
  check_per_step<T>({1, 3, 1, 7, 6, false});
}

template <class T>
void check_type() {
  sizes_around_a_tile_in_every_shape<T>();
  weights_beyond_the_registers_come_from_shared_memory<T>();
  small_blocks_have_more_units_than_registers_for_float32<T>();
  sequences_of_zero_and_one_step_pass_the_states_through<T>();
  optional_inputs_may_be_absent_and_weights_may_be_transposed<T>();
  groups_that_do_not_fit_follow_in_another_launch<T>();
  // The other types differ from one of these in the tiles of their products alone.
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, BFloat16>) {
    rows_end_and_start_anew_where_they_like<T>();
    variants_run_in_every_schedule<T>();
    layer_norms_run_step_by_step<T>();
    layer_norms_run_where_the_weights_stay_on_the_chip<T>();
    heads_go_the_way_of_their_direction<T>();
    idle_blocks_take_a_part_of_the_rows<T>();
    results_do_not_depend_on_the_order_of_the_threads<T>();
  }
  if constexpr (!kIsTFloat32<T>) per_step_runs_every_size<T>();
}

// What reads and writes at every edge, for a build under sanitizers, which is several times slower.
template <class T>
void check_edges() {
  sizes_around_a_tile_in_every_shape<T>();
  weights_beyond_the_registers_come_from_shared_memory<T>();
  small_blocks_have_more_units_than_registers_for_float32<T>();
  sequences_of_zero_and_one_step_pass_the_states_through<T>();
  groups_that_do_not_fit_follow_in_another_launch<T>();
  variants_run_in_every_schedule<T>();
  layer_norms_run_step_by_step<T>();
  per_step_runs_every_size<T>();
}

}  // namespace

int main() {
#if defined(FUSED_RNN_TEST_EDGES)
  return test::run({{"edges", check_edges<FUSED_RNN_TEST_EDGES>}});
#else
  return test::run({{"float32", check_type<float>},
                    {"float32 with TF32 products", check_type<TFloat32>},
                    {"bfloat16", check_type<BFloat16>},
                    {"float16", check_type<Float16>},
                    {"a slow warp changes nothing", a_slow_warp_changes_nothing},
                    {"float64", per_step_runs_every_size<double>},
                    {"float64 with layer norms", layer_norms_run_step_by_step<double>}});
#endif
}
