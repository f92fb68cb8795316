// Tests the schedules of diagonal cells with cells of nearly exact answers: index, carry and order, every edge of a
// vector, variants, that a row is the same bits in any batch, and that threads need not meet.
#include <utility>

#include "linear_cells.h"
#include "schedule_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

Shape with_input(Shape s, int64_t input_size) {
  s.input_size = input_size;
  return s;
}

void check_all(const Shape& s) {
  Diagonals::check_shape<DiagonalCell, float>(s);
  Diagonals::check_shape<DiagonalCell, BFloat16>(s);
  Diagonals::check_shape<WeightedDiagonalCell, double>(s);
}

void long_sequences_keep_index_carry_and_order() {
  check_all({kManySteps, 2, 2, 19, 19});
  check_all(with_input({kManySteps, 2, 2, 7, 7}, 3));
}

void every_size_around_a_vector_is_right() {
  for (const int64_t hidden_size : {1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65}) {
    for (const int64_t input_size : {0, 1, 9}) check_all(with_input({3, 2, 2, hidden_size, hidden_size}, input_size));
  }
}

// Some rows are taken at a time: as many as keep their states in a cache.
void every_batch_and_length_is_right() {
  for (const int64_t batch : {0, 1, 3, 700}) check_all({3, batch, 2, 100, 100});
  for (const int64_t time_steps : {0, 1, 2}) {
    check_all({time_steps, 2, 2, 5, 5});
    check_all(with_input({time_steps, 2, 2, 5, 5}, 3));
  }
}

void states_and_biases_may_be_absent() {
  for (const bool bias : {false, true}) {
    check_all({4, 3, 2, 17, 17, false, bias, true});
    check_all(with_input({4, 3, 2, 17, 17, false, bias, true}, 5));
  }
}

// Lengths outside of the sequence mean its ends; NaN beyond a length reaches nothing.
void rows_end_and_start_anew_anywhere() {
  for (const auto& [lengths, resets] : {std::pair{true, false}, {false, true}, {true, true}}) {
    for (const int64_t time_steps : {0, 1, 2, 7}) {
      for (const bool initial : {false, true}) {
        const Shape shape{time_steps, 9, 2, 33, 33, initial, initial, false, lengths, resets};
        check_all(shape);
        check_all(with_input(shape, 5));
      }
    }
  }
}

void a_part_of_the_states_may_stay() {
  for (const bool ragged : {false, true}) {
    Shape shape{7, 5, 2, 37, 37, true, true, false, ragged, ragged};
    shape.zoneout = true;
    check_all(shape);
    check_all(with_input(shape, 3));
  }
}

void a_row_does_not_depend_on_its_batch() {
  const Shape ragged{6, 11, 2, 33, 33, true, true, false, true, true};
  Diagonals::check_rows<DiagonalCell, float>({6, 11, 2, 35, 35});
  Diagonals::check_rows<DiagonalCell, float>(with_input(ragged, 9));
  Diagonals::check_rows<WeightedDiagonalCell, double>(ragged);
}

void threads_share_directions_rows_and_units() {
  for (const int64_t input_size : {0, 9}) {
    for (const bool ragged : {false, true}) {
      const Shape shape = with_input({20, 5, 2, 70, 70, true, true, false, ragged, ragged}, input_size);
      const auto plans = {Plan{2, 1, 1}, Plan{1, 2, 1}, Plan{1, 1, 2}, Plan{1, 1, 3}, Plan{1, 1, 8}, Plan{2, 2, 2}};
      Diagonals::check_plans<DiagonalCell, float>(shape, plans);
      Diagonals::check_plans<WeightedDiagonalCell, double>(shape, plans);
    }
  }
}

}  // namespace

int main() {
  return test::run({
      {"long sequences keep index, carry and order", long_sequences_keep_index_carry_and_order},
      {"every size around a vector is right", every_size_around_a_vector_is_right},
      {"every batch and length is right", every_batch_and_length_is_right},
      {"states and biases may be absent", states_and_biases_may_be_absent},
      {"rows end and start anew anywhere", rows_end_and_start_anew_anywhere},
      {"a part of the states may stay", a_part_of_the_states_may_stay},
      {"a row does not depend on its batch", a_row_does_not_depend_on_its_batch},
      {"threads share directions, rows and units", threads_share_directions_rows_and_units},
  });
}
