// Tests the CPU sweeps with cells of nearly exact answers: index, carry and order over long sequences, every tile edge,
// gaps between rows, and that a row is the same bits in any batch.
#include <utility>

#include "linear_cells.h"
#include "schedule_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

void long_sequences_keep_index_carry_and_order() {
  Sweeps::check_shape<IdentityCell, IdentityType>({kManySteps, 2, 2, 19, 19});
  Sweeps::check_shape<BilinearCell, float>({kManySteps, 2, 2, 7, 7});
  Sweeps::check_shape<TwoStateCell, double>({kManySteps, 2, 2, 7, 7});
  Sweeps::check_shape<TwoStateCell, double>({kManySteps, 2, 2, 7, 5});
}

void every_size_around_a_vector_and_a_block_is_right() {
  for (const int64_t hidden_size : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65}) {
    Sweeps::check_shape<IdentityCell, IdentityType>({3, 2, 2, hidden_size, hidden_size});
    Sweeps::check_shape<BilinearCell, float>({3, 2, 1, hidden_size, hidden_size});
    Sweeps::check_shape<TwoStateCell, double>({3, 2, 1, hidden_size, hidden_size});
    Sweeps::check_shape<IdentityCell, BFloat16>({3, 2, 1, hidden_size, hidden_size});
  }
}

void every_batch_around_a_tile_is_right() {
  for (int64_t batch = 0; batch <= 18; ++batch) {
    Sweeps::check_shape<IdentityCell, IdentityType>({3, batch, 1, 9, 9});
    Sweeps::check_shape<BilinearCell, float>({3, batch, 2, 9, 9});
    Sweeps::check_shape<TwoStateCell, double>({3, batch, 1, 9, 4});
  }
}

// 64 terms are one chunk of the sum.
void sums_of_every_length_around_a_chunk_are_right() {
  for (const int64_t output_size : {1, 2, 63, 64, 65, 127, 128, 129}) {
    Sweeps::check_shape<TwoStateCell, double>({3, 3, 2, 5, output_size});
    Sweeps::check_shape<TwoStateCell, double>({3, 3, 1, 130, output_size});
  }
}

void sequences_of_zero_and_one_step_pass_the_states_through() {
  for (const int64_t time_steps : {0, 1, 2}) {
    Sweeps::check_shape<IdentityCell, IdentityType>({time_steps, 2, 2, 5, 5});
    Sweeps::check_shape<BilinearCell, float>({time_steps, 2, 2, 5, 5});
    Sweeps::check_shape<TwoStateCell, double>({time_steps, 2, 2, 5, 5});
    Sweeps::check_shape<TwoStateCell, double>({time_steps, 2, 2, 5, 3});
  }
}

void optional_inputs_may_be_absent_and_weights_may_be_transposed() {
  for (const bool initial : {false, true}) {
    for (const bool bias : {false, true}) {
      for (const bool transposed : {false, true}) {
        Sweeps::check_shape<BilinearCell, float>({4, 3, 2, 11, 11, initial, bias, transposed});
        Sweeps::check_shape<TwoStateCell, double>({4, 3, 2, 11, 6, initial, bias, transposed});
      }
    }
  }
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
        Sweeps::check_shape<IdentityCell, IdentityType>(shape(9, 33, 33));
        Sweeps::check_shape<BilinearCell, float>(shape(7, 19, 19));
        Sweeps::check_shape<TwoStateCell, double>(shape(7, 17, 17));
        Sweeps::check_shape<TwoStateCell, double>(shape(7, 17, 6));
        Sweeps::check_shape<IdentityCell, BFloat16>(shape(5, 17, 17));
      }
    }
  }
}

Shape with_input(Shape s, int64_t input_size) {
  s.input_size = input_size;
  return s;
}

// Long sequences and wide inputs take several rounds, one step wide and single steps a few blocks at a time.
void gates_are_made_of_the_input() {
  for (const int64_t input_size : {1, 15, 16, 17, 65}) {
    Sweeps::check_shape<IdentityCell, IdentityType>(with_input({3, 2, 2, 33, 33}, input_size));
    Sweeps::check_shape<BilinearCell, float>(with_input({1, 7, 2, 65, 65}, input_size));
    Sweeps::check_shape<TwoStateCell, double>(with_input({1, 1, 1, 70, 70, false, false}, input_size));
    Sweeps::check_shape<TwoStateCell, double>(with_input({4, 3, 2, 17, 6, true, true, true}, input_size));
    Sweeps::check_shape<IdentityCell, BFloat16>(with_input({3, 2, 2, 17, 17}, input_size));
  }
  Sweeps::check_shape<BilinearCell, float>(with_input({700, 2, 2, 19, 19}, 65));
  Sweeps::check_shape<TwoStateCell, double>(with_input({40, 19, 1, 17, 17}, 300));
  Sweeps::check_shape<TwoStateCell, double>(with_input({3, 40, 1, 17, 17}, 900));
  for (const int64_t time_steps : {0, 1, 40}) {
    const bool given = true, lengths = true, resets = true;
    Sweeps::check_shape<BilinearCell, float>(with_input({time_steps, 9, 2, 33, 33, given, given, false, lengths}, 200));
    Sweeps::check_shape<TwoStateCell, double>(
        with_input({time_steps, 9, 2, 17, 6, given, given, false, lengths, resets}, 200));
  }
}

Shape with_heads(Shape s, int64_t heads) {
  s.directions *= heads, s.heads = heads;
  return s;
}

void heads_go_the_way_of_their_direction() {
  for (const int64_t directions : {1, 2}) {
    for (const int64_t heads : {2, 3}) {
      for (const bool ragged : {false, true}) {
        const auto shape = [&](int64_t size) {
          return with_heads({5, 4, directions, size, size, true, true, false, ragged, ragged}, heads);
        };
        Sweeps::check_shape<BilinearCell, float>(shape(9));
        Sweeps::check_shape<TwoStateCell, double>(with_input(shape(17), 7));
        Sweeps::check_shape<IdentityCell, BFloat16>(with_input(shape(8), 33));
      }
    }
  }
  Sweeps::check_shape<TwoStateCell, double>(with_heads({1, 3, 2, 5, 5}, 2));
  const Shape shape = with_input(with_heads({6, 5, 2, 17, 17, true, true, false, true, true}, 3), 9);
  Sweeps::check_plans<TwoStateCell, double>(shape, {{6, 1, 1}, {4, 1, 2}, {3, 2, 1}, {2, 2, 2}});
}

// Gates that read x alone have no part in the GEMMs of h, forward and backward.
void the_first_gates_alone_may_read_h() {
  for (const int64_t hidden_size : {1, 8, 17, 33, 65}) {
    for (const int64_t input_size : {0, 5}) {
      const bool given = true, lengths = true, resets = true;
      const Shape ragged{5, 7, 2, hidden_size, hidden_size, given, given, false, lengths, resets};
      Sweeps::check_shape<PartlyRecurrentCell, float>(with_input({4, 9, 1, hidden_size, hidden_size}, input_size));
      Sweeps::check_shape<PartlyRecurrentCell, float>(with_input(ragged, input_size));
      Sweeps::check_shape<PartlyProjectedCell, double>(
          with_input({4, 3, 2, hidden_size, 6, given, given, true}, input_size));
      Sweeps::check_shape<PartlyProjectedCell, double>(with_input(ragged, input_size));
    }
  }
  Sweeps::check_rows<PartlyRecurrentCell, float>(with_input({6, 11, 2, 35, 35}, 9));
  Sweeps::check_plans<PartlyRecurrentCell, float>(with_input({6, 5, 2, 70, 70}, 9),
                                                  {Plan{2, 1, 1}, Plan{1, 2, 1}, Plan{1, 1, 2}, Plan{1, 1, 3}});
}

void a_row_does_not_depend_on_its_batch() {
  Sweeps::check_rows<IdentityCell, IdentityType>({6, 11, 2, 35, 35});
  Sweeps::check_rows<BilinearCell, float>({6, 11, 2, 13, 13});
  Sweeps::check_rows<TwoStateCell, double>({6, 11, 1, 70, 33});
  Sweeps::check_rows<BilinearCell, float>({6, 11, 2, 33, 33, true, true, false, true, true});
  Sweeps::check_rows<TwoStateCell, double>({6, 11, 2, 70, 33, true, true, false, true, true});
  Sweeps::check_rows<TwoStateCell, double>(with_input({6, 11, 2, 33, 33, true, true, false, true, true}, 70));
  Sweeps::check_rows<BilinearCell, float>(with_input({1, 11, 2, 70, 70}, 33));
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
      {"gates are made of the input", gates_are_made_of_the_input},
      {"heads go the way of their direction", heads_go_the_way_of_their_direction},
      {"the first gates alone may read h", the_first_gates_alone_may_read_h},
      {"a row does not depend on its batch", a_row_does_not_depend_on_its_batch},
  });
}
