// Tests the CPU schedules of the variants, sweeps or with layer norms those of whole rows: each variant alone and all
// together, with cells of nearly exact answers, at every edge of a vector, a block and a tile.
#include <algorithm>
#include <utility>

#include "cells/peephole_lstm.h"
#include "linear_cells.h"
#include "schedule_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

// Calls visit with the schedules of a shape's variants.
template <class Cell, class Visit>
void with_schedules(const Shape& shape, const Visit& visit) {
  if constexpr (Cell::kNormGroups > 0) {
    if (shape.normalized) return visit(Rows{});
  }
  visit(Variants{});
}

template <class Cell, class T>
void check_variants(const Shape& s) {
  for (const Shape& shape : variants_of<Cell>(s))
    with_schedules<Cell>(shape, [&](auto checks) { checks.template check_shape<Cell, T>(shape); });
}

void every_size_around_a_vector_and_a_block_is_right() {
  for (const int64_t hidden_size : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65}) {
    check_variants<WeightedCell, float>({3, 2, 1, hidden_size, hidden_size});
    check_variants<TwoStateCell, double>({3, 2, 1, hidden_size, hidden_size});
    check_variants<PeepholeLstmCell, double>({3, 2, 1, hidden_size, hidden_size});
    check_variants<IdentityCell, BFloat16>({3, 2, 1, hidden_size, hidden_size});
  }
}

void every_projected_size_around_a_vector_and_a_chunk_is_right() {
  for (const int64_t output_size : {1, 2, 7, 9, 17, 63, 64, 65}) {
    check_variants<TwoStateCell, double>({3, 3, 1, 66, output_size});
    check_variants<PeepholeLstmCell, double>({3, 3, 1, 18, output_size});
  }
}

void every_batch_around_a_tile_is_right() {
  for (int64_t batch = 0; batch <= 18; ++batch) {
    check_variants<WeightedCell, float>({3, batch, 2, 9, 9});
    check_variants<TwoStateCell, double>({3, batch, 1, 9, 9});
    check_variants<TwoStateCell, double>({3, batch, 2, 9, 4});
  }
}

void sequences_of_zero_and_one_step_pass_the_states_through() {
  for (const int64_t time_steps : {0, 1, 2}) {
    check_variants<WeightedCell, float>({time_steps, 2, 2, 5, 5});
    check_variants<TwoStateCell, double>({time_steps, 2, 2, 5, 5});
    check_variants<TwoStateCell, double>({time_steps, 2, 2, 5, 3});
  }
}

void long_sequences_keep_index_carry_and_order() {
  check_variants<WeightedCell, float>({kManySteps, 2, 2, 7, 7});
  check_variants<TwoStateCell, double>({kManySteps, 2, 2, 7, 7});
  check_variants<TwoStateCell, double>({kManySteps, 2, 2, 7, 5});
}

void optional_inputs_may_be_absent_and_weights_may_be_transposed() {
  for (const bool initial : {false, true}) {
    for (const bool bias : {false, true}) {
      for (const bool transposed : {false, true}) {
        check_variants<WeightedCell, float>({4, 3, 2, 11, 11, initial, bias, transposed});
        check_variants<TwoStateCell, double>({4, 3, 2, 11, 11, initial, bias, transposed});
        check_variants<TwoStateCell, double>({4, 3, 2, 11, 6, initial, bias, transposed});
      }
    }
  }
}

// Where no gradient arrives, it is as if zeros did.
void gradients_may_be_absent() {
  using Arriving = Buffer<double> Inputs<double>::*;
  for (const Arriving one :
       {&Inputs<double>::d_output, &Inputs<double>::d_h_n, &Inputs<double>::d_c_n, &Inputs<double>::d_cells}) {
    for (const Shape& shape : variants_of<TwoStateCell>({4, 3, 2, 11, 11})) {
      Inputs<double> absent = random_inputs<TwoStateCell, double>(shape, 7), zeros = absent;
      absent.*one = {};
      (zeros.*one).for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) { (zeros.*one).at(i, b, d, u) = 0.0; });
      with_schedules<TwoStateCell>(shape, [&](auto checks) {
        checks.template check_oracle<TwoStateCell, double>(checks.template run<TwoStateCell, double>(shape, absent),
                                                           shape, zeros, " absent gradients" + to_string(shape));
      });
    }
  }
}

template <class Cell, class T>
void check_inference(const Shape& s) {
  for (const Shape& shape : variants_of<Cell>(s)) {
    const Inputs<T> inputs = random_inputs<Cell, T>(shape, 11);
    Results<T> training = empty_results<Cell, T>(shape), inference = training;
    inference.saved = inference.cells = inference.hidden = {};
    const Problem problem = problem_of<Cell>(shape, kTypeOf<T>);
    with_schedules<Cell>(shape, [&](auto checks) {
      using Schedule = typename decltype(checks)::template ForwardOf<Cell, T>;
      run_schedule<Schedule>(problem, forward_views(inputs, training), {});
      run_schedule<Schedule>(problem, forward_views(inputs, inference), {});
    });
    training.saved = training.cells = training.hidden = {};
    check_identical(inference, training, "inference" + to_string(shape));
  }
}

void results_do_not_depend_on_what_is_kept_for_backward() {
  check_inference<WeightedCell, float>({4, 3, 2, 19, 19, true, true, false, true, true});
  check_inference<TwoStateCell, double>({4, 3, 2, 11, 11, true, true, false, true, true});
  check_inference<TwoStateCell, double>({4, 3, 2, 11, 6, true, true, false, true, true});
}

// Lengths outside of the sequence mean its ends; NaN beyond a length reaches nothing.
void rows_end_and_start_anew_anywhere() {
  for (const auto& [lengths, resets] : {std::pair{true, false}, {false, true}, {true, true}}) {
    for (const int64_t time_steps : {0, 1, 2, 7}) {
      for (const bool initial : {false, true}) {
        const auto shape = [&, lengths = lengths, resets = resets](int64_t batch, int64_t hidden_size,
                                                                   int64_t output_size) {
          return Shape{time_steps, batch, 2, hidden_size, output_size, initial, initial, false, lengths, resets};
        };
        check_variants<WeightedCell, float>(shape(9, 33, 33));
        check_variants<TwoStateCell, double>(shape(7, 17, 17));
        check_variants<TwoStateCell, double>(shape(7, 17, 6));
        check_variants<PeepholeLstmCell, double>(shape(5, 17, 17));
        check_variants<IdentityCell, BFloat16>(shape(5, 17, 17));
      }
    }
  }
}

void heads_go_the_way_of_their_direction() {
  for (const int64_t directions : {2, 4}) {
    Shape s{5, 4, directions, 11, 11, true, true, false, true, true};
    s.heads = 2;
    check_variants<WeightedCell, float>(s);
    check_variants<TwoStateCell, double>(s);
  }
}

template <class Cell, class T>
void check_rows(const Shape& s) {
  for (const Shape& shape : variants_of<Cell>(s))
    with_schedules<Cell>(shape, [&](auto checks) { checks.template check_rows<Cell, T>(shape); });
}

void a_row_does_not_depend_on_its_batch() {
  check_rows<IdentityCell, BFloat16>({6, 11, 2, 35, 35});
  check_rows<WeightedCell, float>({6, 11, 2, 33, 33, true, true, false, true, true});
  check_rows<TwoStateCell, double>({6, 11, 2, 37, 37, true, true, false, true, true});
  check_rows<TwoStateCell, double>({6, 11, 1, 70, 33, true, true, false, true, true});
}

template <class Cell, class T>
void check_against_the_sweep(Shape s) {
  for (const bool ragged : {false, true}) {
    s.lengths = s.resets = ragged;
    const Inputs<T> inputs = random_inputs<Cell, T>(s, 10);
    check_identical(Variants::run<Cell, T>(s, inputs), Sweeps::run<Cell, T>(s, inputs),
                    Sweeps::name_of_case<Cell, T>() + to_string(s) + " against the sweep");
  }
}

void without_a_variant_the_numbers_are_those_of_the_sweep() {
  check_against_the_sweep<IdentityCell, BFloat16>({7, 5, 2, 35, 35});
  check_against_the_sweep<TwoStateCell, double>({7, 5, 2, 37, 37});
  check_against_the_sweep<TwoStateCell, double>({7, 5, 2, 70, 33});
}

}  // namespace

int main() {
  return test::run({
      {"every size around a vector and a block is right", every_size_around_a_vector_and_a_block_is_right},
      {"every projected size around a vector and a chunk is right",
       every_projected_size_around_a_vector_and_a_chunk_is_right},
      {"every batch around a tile is right", every_batch_around_a_tile_is_right},
      {"sequences of zero and one step pass the states through",
       sequences_of_zero_and_one_step_pass_the_states_through},
      {"long sequences keep index, carry and order", long_sequences_keep_index_carry_and_order},
      {"optional inputs may be absent and weights may be transposed",
       optional_inputs_may_be_absent_and_weights_may_be_transposed},
      {"gradients may be absent", gradients_may_be_absent},
      {"results do not depend on what is kept for backward", results_do_not_depend_on_what_is_kept_for_backward},
      {"rows end and start anew anywhere", rows_end_and_start_anew_anywhere},
      {"heads go the way of their direction", heads_go_the_way_of_their_direction},
      {"a row does not depend on its batch", a_row_does_not_depend_on_its_batch},
      {"without a variant the numbers are those of the sweep", without_a_variant_the_numbers_are_those_of_the_sweep},
  });
}
