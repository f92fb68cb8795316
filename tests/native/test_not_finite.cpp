// Tests that an infinite value or a NaN reaches what it reaches in plain loops, and nothing else. The padding of rows
// and of weights is zeros, and zero times infinity is NaN: a product must not meet one with the other.
#include <cmath>
#include <limits>

#include "cpu/runtime/processor.h"
#include "linear_cells.h"
#include "schedule_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// All that is multiplied is positive, so that sums of infinite terms are infinite and not NaN.
template <class T>
void make_positive(Inputs<T>& in) {
  for (Matrix<T>* matrix : {&in.w_hh, &in.b_hh, &in.w_hr, &in.w_ih, &in.b_ih}) {
    for (T& value : matrix->data) value = from_double<T>(std::abs(to_double(value)));
  }
  for (Buffer<T>* buffer :
       {&in.gates, &in.x, &in.h_0, &in.c_0, &in.d_output, &in.d_h_n, &in.d_c_n, &in.d_cells, &in.recurrent_mask}) {
    buffer->for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) {
      buffer->at(i, b, d, u) = from_double<T>(std::abs(buffer->get(i, b, d, u)) + 0.125);
    });
  }
}

template <class T>
void make_gates(const Shape& s, Inputs<T>& in) {
  if (s.input_size == 0) return;
  in.gates.for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) {
    double sum = in.b_ih.get(d, u, 0);
    for (int64_t i = 0; i < s.input_size; ++i) sum += in.w_ih.get(d, u, i) * in.x.get(t, b, 0, i);
    in.gates.at(t, b, d, u) = from_double<T>(sum);
  });
}

template <class T>
void check_same_kind(const Results<T>& actual, const Results<double>& expected, const std::string& what) {
  for_each_buffer(actual, expected, [&](const char* name, const Buffer<T>& a, const Buffer<double>& e) {
    e.for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) {
      const double value = a.get(i, b, d, u), right = e.get(i, b, d, u);
      // What becomes too large for the type is infinite there.
      const double tolerance = 0.25 * std::abs(right) + 0.25;
      if (!std::isfinite(right) || std::abs(right) < 1e30) check_near(value, right, tolerance, what + ": " + name);
    });
  });
}

// One value at one place, in the last row and in the last of its units, beside which the padding lies.
template <class Schedules, class Cell, class T>
void check_places(const Shape& s) {
  const auto check_with = [&](const char* place, double value, const auto& put) {
    Inputs<T> in = random_inputs<Cell, T>(s, 11);
    make_positive(in);
    if (!put(in, from_double<T>(value))) return;
    make_gates(s, in);
    check_same_kind(
        Schedules::template run<Cell, T>(s, in), PlainRecurrence<Cell, T>(s, in).compute(),
        Schedules::template name_of_case<Cell, T>() + to_string(s) + " " + place + " " + std::to_string(value));
  };
  using Place = Buffer<T> Inputs<T>::*;
  const std::pair<const char*, Place> places[] = {
      {s.input_size > 0 ? "x" : "gates", s.input_size > 0 ? &Inputs<T>::x : &Inputs<T>::gates},
      {"h_0", &Inputs<T>::h_0},
      {"c_0", &Inputs<T>::c_0},
      {"d_output", &Inputs<T>::d_output},
      {"d_h_n", &Inputs<T>::d_h_n},
      {"d_c_n", &Inputs<T>::d_c_n},
      {"d_cells", &Inputs<T>::d_cells}};
  using MatrixPlace = Matrix<T> Inputs<T>::*;
  const std::pair<const char*, MatrixPlace> matrices[] = {
      {"w_hh", &Inputs<T>::w_hh}, {"w_ih", &Inputs<T>::w_ih}, {"w_hr", &Inputs<T>::w_hr}};
  for (const double value : {kInfinity, -kInfinity, std::nan("")}) {
    for (const auto& [name, place] : places) {
      check_with(name, value, [&, place = place](Inputs<T>& in, T number) {
        Buffer<T>& buffer = in.*place;
        if (!buffer.data.empty()) buffer.at(buffer.first / 2, buffer.batch - 1, 0, buffer.size - 1) = number;
        return !buffer.data.empty();
      });
    }
    for (const auto& [name, place] : matrices) {
      check_with(name, value, [&, place = place](Inputs<T>& in, T number) {
        Matrix<T>& matrix = in.*place;
        if (!matrix.data.empty()) matrix.at(0, matrix.rows - 1, matrix.columns - 1) = number;
        return !matrix.data.empty();
      });
    }
  }
}

template <class Cell, class T>
void check_sweeps() {
  for (const int64_t size : {1, 2, 3, 8, 9, 17}) {
    for (const int64_t input_size : {int64_t{0}, size}) {
      Shape s{4, 3, 1, size, size};
      s.input_size = input_size;
      check_places<Sweeps, Cell, T>(s);
      s.directions = 2;
      if (!Cell::kReadsHidden) s.output_size = size + 2;
      check_places<Sweeps, Cell, T>(s);
    }
  }
}

void values_reach_what_they_should_in_the_sweeps() {
  check_sweeps<IdentityCell, float>();
  check_sweeps<TwoStateCell, double>();
  check_sweeps<IdentityCell, BFloat16>();
}

void values_reach_what_they_should_where_products_take_pairs() {
#if defined(FUSED_RNN_BFLOAT16_DOT)
  if (!has_bfloat16_dot()) return check(true, "without the instruction");
#endif
  check_sweeps<IdentityCell, PairedBFloat16>();
  check_sweeps<TwoStateCell, PairedBFloat16>();
}

void values_reach_what_they_should_in_the_sweeps_of_variants() {
  for (const int64_t size : {1, 2, 3, 9}) {
    for (const bool mask : {false, true}) {
      Shape s{4, 3, 2, size, size};
      s.recurrent_mask = mask;
      check_places<Variants, IdentityCell, BFloat16>(s);
      check_places<Variants, TwoStateCell, double>(s);
      s.output_size = size + 2;
      check_places<Variants, TwoStateCell, double>(s);
    }
  }
}

}  // namespace

int main() {
  return test::run({
      {"values reach what they should in the sweeps", values_reach_what_they_should_in_the_sweeps},
      {"values reach what they should where products take pairs",
       values_reach_what_they_should_where_products_take_pairs},
      {"values reach what they should in the sweeps of variants",
       values_reach_what_they_should_in_the_sweeps_of_variants},
  });
}
