// Tests zoneout, recurrent masks and weights of single units in the one CUDA schedule that has them, per_step, against
// the float64 oracle. Small enough to run under sanitizers as a whole.
#include "cells/table.h"
#include "variant_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

uint64_t seed = 1;

template <class Cell, class T>
void check_variant(const Shape& s, const Variant& variant) {
  emulator::set_seed(++seed);
  const VariantInputs<T> in = random_variant_inputs<Cell, T>(s, variant, 7);
  const VariantResults<T> actual = run_per_step<Cell, T>(s, variant, in);
  const VariantResults<double> expected = VariantOracle<Cell, T>(s, variant, in).compute();
  const std::string what = std::string(Cell::kName) + (variant.zoneout ? " zoneout" : "") +
                           (variant.mask ? " mask " : " ") + name_of(kTypeOf<T>) + to_string(s);
  check_close(actual.plain, expected.plain, kTolerance<T>.outputs, kTolerance<T>.gradients, what);
  check_sums(actual.d_unit_weights, expected.d_unit_weights, kTolerance<T>.gradients, what);
}

template <class Cell, class T, class Visitor>
void for_each_variant(bool projected, Visitor visit) {
  for (const bool zoneout : {false, true}) {
    for (const bool mask : {false, true}) {
      const bool plain = !zoneout && !mask && Cell::kUnitWeights == 0;
      if (!plain && !(zoneout && projected)) visit(Variant{zoneout, mask});
    }
  }
}

// A block has 256 threads, each for one unit of one row.
template <class Cell, class T>
void sizes_below_and_above_a_block() {
  for_each_variant<Cell, T>(false, [](const Variant& variant) {
    for (const int64_t hidden_size : {1, 31, 64}) {
      for (const int64_t batch : {1, 9}) check_variant<Cell, T>({4, batch, 2, hidden_size, hidden_size}, variant);
    }
    check_variant<Cell, T>({3, 0, 1, 5, 5}, variant);
  });
}

template <class Cell, class T>
void sequences_of_zero_and_one_step() {
  for_each_variant<Cell, T>(false, [](const Variant& variant) {
    for (const int64_t time_steps : {0, 1}) check_variant<Cell, T>({time_steps, 2, 2, 19, 19}, variant);
  });
}

// Also the options of the plain recurrence, in turn.
template <class Cell, class T>
void rows_end_and_start_anew_where_they_like() {
  for_each_variant<Cell, T>(false, [](const Variant& variant) {
    for (const auto& [lengths, resets] : {std::pair{true, false}, {false, true}, {true, true}}) {
      check_variant<Cell, T>({5, 9, 2, 20, 20, lengths, resets, !resets, lengths, resets}, variant);
    }
  });
}

template <class Cell, class T>
void projections() {
  if constexpr (!Cell::kReadsHidden) {
    for_each_variant<Cell, T>(true, [](const Variant& variant) {
      check_variant<Cell, T>({4, 3, 2, 20, 7}, variant);
      check_variant<Cell, T>({0, 3, 2, 20, 7}, variant);
      check_variant<Cell, T>({1, 3, 1, 7, 6, false}, variant);
      check_variant<Cell, T>({5, 9, 2, 20, 7, true, true, true, true, true}, variant);
    });
  }
}

template <class Cell, class T>
void check_type() {
  sizes_below_and_above_a_block<Cell, T>();
  sequences_of_zero_and_one_step<Cell, T>();
  rows_end_and_start_anew_where_they_like<Cell, T>();
  projections<Cell, T>();
}

// Every cell and every type, in pairs that compile in half of the time that all would take.
template <class Cell, class... Types>
void check_types() {
  (check_type<Cell, Types>(), ...);
}

}  // namespace

int main() {
  return test::run({{"lstm", check_types<LstmCell, float, cuda::BFloat16>},
                    {"gru", check_types<GruCell, double, cuda::BFloat16>},
                    {"rnn_tanh", check_types<ElmanCell<Tanh>, float>},
                    {"lstm_peephole", check_types<PeepholeLstmCell, float, double>}});
}
