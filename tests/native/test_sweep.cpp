// Tests the CPU schedules with cells of nearly exact answers: index, carry and order over long sequences, every tile
// edge, every way to share the work, gaps between rows, and equality to the last bit where it is promised.
#include "isa.h"
// (first: what follows needs its names)
#include "cpu/backward_sweep.h"
#include "cpu/forward_sweep.h"
#include "cpu/storage.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "linear_cells.h"
#include "recurrence_checks.h"

template <>
struct fused_rnn::test::Number<fused_rnn::BFloat16> {
  static double to_double(BFloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
  static BFloat16 from_double(double x) {
    BFloat16 out{};
    store<BFloat16>(&out, Vec<RealOf<BFloat16>>(static_cast<float>(x)), 1);
    return out;
  }
};

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

template <class T>
constexpr DataType kTypeOf = DataType::kFloat32;
template <>
constexpr DataType kTypeOf<double> = DataType::kFloat64;
template <>
constexpr DataType kTypeOf<BFloat16> = DataType::kBFloat16;

std::string to_string(const Shape& s, const Plan& plan) {
  return to_string(s) + " threads " + std::to_string(plan.direction_parts) + "x" + std::to_string(plan.row_parts) +
         "x" + std::to_string(plan.unit_parts);
}

// Runs one sweep as the units do, in a workspace of exactly the size asked for that begins as NaN.
template <class Sweep, class Views>
void run_sweep(const Problem& problem, const Views& views, const Plan& plan) {
  Arena counting(nullptr);
  Sweep(problem, views, plan, counting);
  const std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(Arena::kAlignment, counting.used()),
                                                         std::free);
  std::memset(workspace.get(), 0xFF, counting.used());
  Arena arena(workspace.get());
  Sweep sweep(problem, views, plan, arena);
  sweep.before_team();
  const auto body = [](void* context, int thread) { static_cast<const Sweep*>(context)->run(thread); };
  check(run_team(plan.threads(), body, &sweep), "a team of " + std::to_string(plan.threads()) + " threads");
}

template <class Cell, class T>
Results<T> run(const Shape& s, const Inputs<T>& in, const Plan& plan) {
  Results<T> out = empty_results<Cell, T>(s);
  Problem problem = problem_of<Cell>(s, kTypeOf<T>);
  run_sweep<ForwardSweep<Cell, T>>(problem, forward_views(in, out), plan);
  problem.backward = true;
  run_sweep<BackwardSweep<Cell, T>>(problem, backward_views(in, out), plan);
  return out;
}

// What rounding may do: the longest sum and the carry amplify one rounding by less than a hundred.
template <class T>
constexpr double kTolerance = 100 * 0x1p-53;
template <>
constexpr double kTolerance<float> = 100 * 0x1p-24;
template <>
constexpr double kTolerance<BFloat16> = 16 * 0x1p-8;  // a rounding of h that falls the other way is carried on

template <class Cell, class T>
void check_shape(const Shape& s, const Plan& plan = {}) {
  const Inputs<T> inputs = random_inputs<Cell, T>(s, 7);
  const Results<T> actual = run<Cell, T>(s, inputs, plan);
  const std::string what = std::string(Cell::kName) + " " + name_of(kTypeOf<T>) + to_string(s, plan);
  check_close(actual, PlainRecurrence<Cell, T>(s, inputs).compute(), kTolerance<T>, kTolerance<T>, what);
}

void long_sequences_keep_index_carry_and_order() {
  check_shape<IdentityCell, float>({2000, 2, 2, 19, 19});
  check_shape<BilinearCell, float>({2000, 2, 2, 7, 7});
  check_shape<TwoStateCell, double>({2000, 2, 2, 7, 7});
  check_shape<TwoStateCell, double>({2000, 2, 2, 7, 5});
}

void every_size_around_a_vector_and_a_block_is_right() {
  for (const int64_t hidden_size : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65}) {
    check_shape<IdentityCell, float>({3, 2, 2, hidden_size, hidden_size});
    check_shape<BilinearCell, float>({3, 2, 1, hidden_size, hidden_size});
    check_shape<TwoStateCell, double>({3, 2, 1, hidden_size, hidden_size});
    check_shape<IdentityCell, BFloat16>({3, 2, 1, hidden_size, hidden_size});
  }
}

void every_batch_around_a_tile_is_right() {
  for (int64_t batch = 0; batch <= 18; ++batch) {
    check_shape<IdentityCell, float>({3, batch, 1, 9, 9});
    check_shape<BilinearCell, float>({3, batch, 2, 9, 9});
    check_shape<TwoStateCell, double>({3, batch, 1, 9, 4});
  }
}

// 64 terms are one chunk of the sum.
void sums_of_every_length_around_a_chunk_are_right() {
  for (const int64_t output_size : {1, 2, 63, 64, 65, 127, 128, 129}) {
    check_shape<TwoStateCell, double>({3, 3, 2, 5, output_size});
    check_shape<TwoStateCell, double>({3, 3, 1, 130, output_size});
  }
}

void sequences_of_zero_and_one_step_pass_the_states_through() {
  for (const int64_t time_steps : {0, 1, 2}) {
    check_shape<IdentityCell, float>({time_steps, 2, 2, 5, 5});
    check_shape<BilinearCell, float>({time_steps, 2, 2, 5, 5});
    check_shape<TwoStateCell, double>({time_steps, 2, 2, 5, 5});
    check_shape<TwoStateCell, double>({time_steps, 2, 2, 5, 3});
  }
}

void optional_inputs_may_be_absent_and_weights_may_be_transposed() {
  for (const bool initial : {false, true}) {
    for (const bool bias : {false, true}) {
      for (const bool transposed : {false, true}) {
        check_shape<BilinearCell, float>({4, 3, 2, 11, 11, initial, bias, transposed});
        check_shape<TwoStateCell, double>({4, 3, 2, 11, 6, initial, bias, transposed});
      }
    }
  }
}

// Lengths outside of the sequence mean its ends; NaN beyond a length reaches nothing.
void rows_end_and_start_anew_anywhere() {
  for (const auto& [lengths, resets] : {std::pair{true, false}, {false, true}, {true, true}}) {
    for (const int64_t time_steps : {0, 1, 2, 7}) {
      for (const bool initial : {false, true}) {
        const auto shape = [&](int64_t batch, int64_t hidden_size, int64_t output_size) {
          return Shape{time_steps, batch, 2, hidden_size, output_size, initial, initial, false, lengths, resets};
        };
        check_shape<IdentityCell, float>(shape(9, 33, 33));
        check_shape<BilinearCell, float>(shape(7, 19, 19));
        check_shape<TwoStateCell, double>(shape(7, 17, 17));
        check_shape<TwoStateCell, double>(shape(7, 17, 6));
        check_shape<IdentityCell, BFloat16>(shape(5, 17, 17));
      }
    }
  }
}

template <class Cell, class T>
void check_plans(const Shape& s) {
  const Inputs<T> inputs = random_inputs<Cell, T>(s, 8);
  const Results<T> alone = run<Cell, T>(s, inputs, {});
  const std::string name = std::string(Cell::kName) + " " + name_of(kTypeOf<T>);
  for (const Plan& plan : {Plan{2, 1, 1}, Plan{1, 2, 1}, Plan{1, 1, 2}, Plan{1, 1, 3}, Plan{2, 1, 2}, Plan{1, 2, 2},
                           Plan{1, 3, 1}, Plan{2, 2, 1}}) {
    check_identical(run<Cell, T>(s, inputs, plan), alone, name + to_string(s, plan));
  }
}

void results_do_not_depend_on_how_threads_share_the_work() {
  check_plans<IdentityCell, float>({20, 5, 2, 70, 70});
  check_plans<BilinearCell, float>({20, 5, 2, 37, 37});
  check_plans<TwoStateCell, double>({20, 3, 2, 37, 37});
  check_plans<TwoStateCell, double>({20, 5, 2, 70, 33});
  check_plans<IdentityCell, BFloat16>({20, 5, 2, 70, 70});
  check_plans<BilinearCell, float>({20, 5, 2, 37, 37, true, true, false, true, true});
  check_plans<TwoStateCell, double>({20, 5, 2, 70, 33, true, true, false, true, true});
}

// A row in a batch of any size is the same numbers, since every sum has one order.
template <class Cell, class T>
void check_rows(const Shape& s) {
  const Inputs<T> inputs = random_inputs<Cell, T>(s, 9);
  const Results<T> whole = run<Cell, T>(s, inputs, {});
  Shape one_row = s;
  one_row.batch = 1;
  for (int64_t row = 0; row < s.batch; ++row) {
    Inputs<T> part = random_inputs<Cell, T>(one_row, 9);
    part.w_hh = inputs.w_hh, part.b_hh = inputs.b_hh, part.w_hr = inputs.w_hr;
    const auto copy_row = [&](const Buffer<T>& from, Buffer<T>& to) {
      to.for_each([&](int64_t i, int64_t, int64_t d, int64_t u) {
        std::memcpy(&to.at(i, 0, d, u), &from.data[i * from.first_stride + row * from.row_stride + d * from.size + u],
                    sizeof(T));
      });
    };
    copy_row(inputs.gates, part.gates), copy_row(inputs.h_0, part.h_0), copy_row(inputs.c_0, part.c_0);
    copy_row(inputs.d_output, part.d_output), copy_row(inputs.d_h_n, part.d_h_n);
    copy_row(inputs.d_c_n, part.d_c_n), copy_row(inputs.d_cells, part.d_cells);
    if (s.lengths) part.lengths = {inputs.lengths[row]};
    if (s.resets) std::copy_n(&inputs.resets[row * s.time_steps], s.time_steps, part.resets.get());
    Results<T> expected = empty_results<Cell, T>(one_row);
    const Results<T> actual = run<Cell, T>(one_row, part, {});
    for_each_buffer(whole, expected, [&](const char*, const Buffer<T>& from, const Buffer<T>& to) {
      copy_row(from, const_cast<Buffer<T>&>(to));
    });
    check_identical(actual, expected, std::string(Cell::kName) + " row " + std::to_string(row));
  }
}

void a_row_does_not_depend_on_its_batch() {
  check_rows<IdentityCell, float>({6, 11, 2, 35, 35});
  check_rows<BilinearCell, float>({6, 11, 2, 13, 13});
  check_rows<TwoStateCell, double>({6, 11, 1, 70, 33});
  check_rows<BilinearCell, float>({6, 11, 2, 33, 33, true, true, false, true, true});
  check_rows<TwoStateCell, double>({6, 11, 2, 70, 33, true, true, false, true, true});
}

}  // namespace

int main() {
  return test::run({
      {"long sequences keep index, carry and order", long_sequences_keep_index_carry_and_order},
      {"every size around a vector and a block is right", every_size_around_a_vector_and_a_block_is_right},
      {"every batch around a tile is right", every_batch_around_a_tile_is_right},
      {"sums of every length around a chunk are right", sums_of_every_length_around_a_chunk_are_right},
      {"sequences of zero and one step pass the states through",
       sequences_of_zero_and_one_step_pass_the_states_through},
      {"optional inputs may be absent and weights may be transposed",
       optional_inputs_may_be_absent_and_weights_may_be_transposed},
      {"rows end and start anew anywhere", rows_end_and_start_anew_anywhere},
      {"results do not depend on how threads share the work", results_do_not_depend_on_how_threads_share_the_work},
      {"a row does not depend on its batch", a_row_does_not_depend_on_its_batch},
  });
}
