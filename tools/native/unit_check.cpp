// Runs the whole CPU library on the instruction set in use, against the oracle of tests/native: for machines on which
// no Python and no torch can be had. Linked with all sources of csrc/cpu.
//
// Prints the sets that the processor has and the one in use, then a checksum of int8 layers, whose sums are exact: all
// sets of one unit have the same.
#include "schedule_checks.h"
// (first: what follows needs its names)
#include <cstdio>

#include "cells/table.h"
#include "core/problem_text.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

template <class Cell>
Problem problem_in_table(const Shape& s, DataType type) {
  Problem problem = problem_of<Cell>(s, type);
  problem.cell = cell_spec(find_cell(Cell::kName));
  return problem;
}

template <class T>
void check_outputs(const Results<T>& actual, const Results<double>& expected, double tolerance,
                   const std::string& what) {
  check_gaps(actual, what);
  actual.output.for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) {
    check_near(actual.output.get(t, b, d, u), expected.output.get(t, b, d, u), tolerance, what);
  });
}

// Both passes over a sequence, and the step of a single one.
template <class Cell, class T>
void check_layer(DataType type, double tolerance, bool rounds = false) {
  for (const int64_t size : {5, 19, 70}) {
    for (const bool lengths : {false, true}) {
      Shape s{4, 5, 2, size, size};
      s.lengths = lengths, s.input_size = 9;
      const Inputs<T> in = random_inputs<Cell, T>(s, 5);
      Results<T> out = empty_results<Cell, T>(s);
      Problem problem = problem_in_table<Cell>(s, type);
      problem.rounds_factors = rounds;
      run_forward(problem, forward_views(in, out), 2);
      problem.backward = true;
      problem.input_size = 0;
      run_backward(problem, backward_views(in, out), 2);
      check_close(out, PlainRecurrence<Cell, T>(s, in).compute(), tolerance, 4 * tolerance,
                  active_cpu_instruction_set() + " " + to_string(problem));
    }
    Shape step{1, 3, 1, size, size};
    step.input_size = 2 * size + 1;
    const Inputs<T> in = random_inputs<Cell, T>(step, 6);
    Results<T> out = empty_results<Cell, T>(step);
    Problem problem = problem_in_table<Cell>(step, type);
    problem.rounds_factors = rounds;
    run_forward(problem, forward_views(in, out), 1);
    check_outputs(out, PlainRecurrence<Cell, T>(step, in).compute(), tolerance, to_string(problem));
  }
}

template <class Cell>
void check_cell() {
  check_layer<Cell, float>(DataType::kFloat32, kTolerance<float>);
  check_layer<Cell, double>(DataType::kFloat64, kTolerance<double>);
  check_layer<Cell, BFloat16>(DataType::kBFloat16, kTolerance<BFloat16>);
  check_layer<Cell, Float16>(DataType::kFloat16, 16 * 0x1p-11);
  check_layer<Cell, float>(DataType::kFloat32, kTolerance<BFloat16>, true);
}

void plain_layers_are_right() {
  check_cell<LstmCell>();
  check_cell<GruCell>();
  check_cell<ElmanCell<Tanh>>();
}

// A matrix as int8 with a scale for each row; the matrix becomes what they stand for.
struct QuantizedMatrix {
  explicit QuantizedMatrix(Matrix<float>& matrix, int64_t directions) : columns(matrix.columns), rows(matrix.rows) {
    for (int64_t i = 0; i < directions * rows; ++i) {
      float* row = &matrix.data[i * columns];
      float largest = 0;
      for (int64_t k = 0; k < columns; ++k) largest = std::max(largest, std::abs(row[k]));
      scales.push_back(largest / 127);
      for (int64_t k = 0; k < columns; ++k) {
        values.push_back({static_cast<int8_t>(std::nearbyint(row[k] / scales.back()))});
        row[k] = scales.back() * static_cast<float>(values.back().value);
      }
    }
  }
  WeightView view() const { return {values.data(), rows * columns, columns, 1}; }
  WeightView scale_view() const { return {scales.data(), rows, 1, 1}; }

  int64_t columns, rows;
  std::vector<Int8> values;
  std::vector<float> scales;
};

uint64_t checksum = 1469598103934665603u;  // FNV-1a

template <class Cell>
void check_quantized() {
  for (const int64_t size : {3, 37, 70}) {
    Shape s{6, 5, 2, size, size};
    s.input_size = 21;
    Inputs<float> in = random_inputs<Cell, float>(s, 4);
    const QuantizedMatrix w_hh(in.w_hh, s.directions), w_ih(in.w_ih, s.directions);
    in.gates.for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) {
      double sum = in.b_ih.get(d, u, 0);
      for (int64_t i = 0; i < s.input_size; ++i) sum += in.w_ih.get(d, u, i) * in.x.get(t, b, 0, i);
      in.gates.at(t, b, d, u) = static_cast<float>(sum);
    });
    Results<float> out = empty_results<Cell, float>(s);
    Problem problem = problem_in_table<Cell>(s, DataType::kFloat32);
    problem.quantized = true;
    ForwardViews views = forward_views(in, out);
    views.w_hh = w_hh.view(), views.w_ih = w_ih.view();
    views.scales = {w_ih.scale_view(), w_hh.scale_view(), {}};
    views.saved = {}, views.cells = {};
    run_forward(problem, views, 2);
    // Each row is rounded to 1/254 of its largest value, and what that makes of h is carried on.
    check_outputs(out, PlainRecurrence<Cell, float>(s, in).compute(), 0.03, to_string(problem));
    for (const float value : out.output.data) {
      checksum = (checksum ^ std::bit_cast<uint32_t>(value)) * 1099511628211u;
    }
  }
}

void int8_layers_are_right() {
  check_quantized<LstmCell>();
  check_quantized<GruCell>();
  check_quantized<ElmanCell<Tanh>>();
}

}  // namespace

int main() {
  std::string all;
  for (const std::string& name : cpu_instruction_sets()) all += " " + name;
  std::printf("sets%s\nin use %s\n", all.c_str(), active_cpu_instruction_set().c_str());
  const int result = test::run({
      {"plain layers are right", plain_layers_are_right},
      {"int8 layers are right", int8_layers_are_right},
  });
  std::printf("int8 %016llx\n", static_cast<unsigned long long>(checksum));
  return result;
}
