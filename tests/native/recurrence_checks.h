// From the buffers of a test to the views that a schedule takes, and how its results are held to the oracle.
#pragma once

#include <cstring>
#include <string>

#include "core/problem.h"
#include "plain_recurrence.h"

namespace fused_rnn::test {

inline std::string to_string(const Shape& s) {
  return " T" + std::to_string(s.time_steps) + " B" + std::to_string(s.batch) + " D" + std::to_string(s.directions) +
         " H" + std::to_string(s.hidden_size) + " P" + std::to_string(s.output_size) + (s.lengths ? " lengths" : "") +
         (s.resets ? " resets" : "") + (s.normalized ? " normalized" : "") + (s.zoneout ? " zoneout" : "") +
         (s.recurrent_mask ? " mask" : "") + (s.input_size > 0 ? " I" + std::to_string(s.input_size) : "") +
         (s.heads > 1 ? " heads" + std::to_string(s.heads) : "");
}

template <class Cell>
Problem problem_of(const Shape& s, DataType type) {
  return {.cell = spec_of<Cell>(0),
          .type = type,
          .time_steps = s.time_steps,
          .batch = s.batch,
          .directions = s.directions,
          .hidden_size = s.hidden_size,
          .output_size = s.output_size,
          .backward = false,
          .projected = s.output_size != s.hidden_size,
          .normalized = s.normalized,
          .zoneout = s.zoneout,
          .recurrent_mask = s.recurrent_mask,
          .input_size = s.input_size,
          .heads = s.heads};
}

template <class T>
WeightView optional_view(const Matrix<T>& matrix) {
  return matrix.data.empty() ? WeightView{} : matrix.view();
}

template <class T>
const int64_t* lengths_of(const Inputs<T>& in) {
  return in.lengths.empty() ? nullptr : in.lengths.data();
}

template <class T>
ResetView reset_view(const Inputs<T>& in) {
  return {in.resets.get(), 1, in.gates.first};
}

template <class T>
VariantViews variant_views(const Inputs<T>& in) {
  return {in.unit_weights.state(), in.norm.state(), in.zoneout.sequence(), in.recurrent_mask.state()};
}

template <class T>
ForwardViews forward_views(const Inputs<T>& in, Results<T>& out) {
  const SequenceView<const void> gates = in.gates.sequence(), x = in.x.sequence();
  const bool made = x.data != nullptr;
  return {.gates = made ? SequenceView<const void>{} : gates,
          .x = {x.data, x.time_stride, x.row_stride, 0},
          .w_ih = optional_view(in.w_ih),
          .b_ih = optional_view(in.b_ih),
          .w_hh = optional_view(in.w_hh),
          .b_hh = optional_view(in.b_hh),
          .w_hr = optional_view(in.w_hr),
          .h_0 = in.h_0.state(),
          .c_0 = in.c_0.state(),
          .output = out.output.sequence(),
          .h_n = out.h_n.state(),
          .c_n = out.c_n.state(),
          .cells = out.cells.sequence(),
          .saved = out.saved.sequence(),
          .hidden = out.hidden.sequence(),
          .lengths = lengths_of(in),
          .resets = reset_view(in),
          .variant = variant_views(in),
          .scales = {}};
}

template <class T>
BackwardViews backward_views(const Inputs<T>& in, Results<T>& out) {
  const Results<T>& made = out;
  return {.d_output = in.d_output.sequence(),
          .d_h_n = in.d_h_n.state(),
          .d_c_n = in.d_c_n.state(),
          .d_cells = in.d_cells.sequence(),
          .w_hh = optional_view(in.w_hh),
          .w_hr = optional_view(in.w_hr),
          .output = made.output.sequence(),
          .cells = made.cells.sequence(),
          .saved = made.saved.sequence(),
          .h_0 = in.h_0.state(),
          .c_0 = in.c_0.state(),
          .d_gates = out.d_gates.sequence(),
          .d_gates_h = out.d_gates_h.sequence(),
          .d_h_0 = out.d_h_0.state(),
          .d_c_0 = out.d_c_0.state(),
          .d_projected = out.d_projected.sequence(),
          .lengths = lengths_of(in),
          .resets = reset_view(in),
          .variant = variant_views(in),
          .d_unit_weights = out.d_unit_weights.sequence(),
          .d_norm = out.d_norm.sequence()};
}

// Calls visit(name, buffer of a, buffer of b) for every buffer of two results.
template <class A, class B, class Visitor>
void for_each_buffer(const Results<A>& a, const Results<B>& b, Visitor visit) {
  visit("output", a.output, b.output);
  visit("h_n", a.h_n, b.h_n);
  visit("c_n", a.c_n, b.c_n);
  visit("cells", a.cells, b.cells);
  visit("saved", a.saved, b.saved);
  visit("hidden", a.hidden, b.hidden);
  visit("d_gates", a.d_gates, b.d_gates);
  visit("d_gates_h", a.d_gates_h, b.d_gates_h);
  visit("d_h_0", a.d_h_0, b.d_h_0);
  visit("d_c_0", a.d_c_0, b.d_c_0);
  visit("d_projected", a.d_projected, b.d_projected);
  visit("d_unit_weights", a.d_unit_weights, b.d_unit_weights);
  visit("d_norm", a.d_norm, b.d_norm);
}

template <class T>
void check_gaps(const Results<T>& actual, const std::string& what) {
  for_each_buffer(actual, actual, [&](const char* name, const Buffer<T>& a, const Buffer<T>&) {
    check(a.gaps_are_intact(), what + ": " + name + " written outside its rows");
  });
}

// The largest error of a buffer over its largest value, or over 1; infinite where a NaN is alone.
struct LargestError {
  double relative;
  std::string where;
};

template <class T>
LargestError largest_error(const Buffer<T>& actual, const Buffer<double>& expected) {
  double largest = 0.0, scale = 1.0;
  std::string where;
  expected.for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) {
    scale = std::max(scale, std::abs(expected.get(i, b, d, u)));
    const double error = std::abs(actual.get(i, b, d, u) - expected.get(i, b, d, u));
    if (!(error > largest) && !std::isnan(error)) return;
    largest = std::isnan(error) ? INFINITY : error;
    where = " at [" + std::to_string(i) + "][" + std::to_string(b) + "][" + std::to_string(d) + "][" +
            std::to_string(u) + "]";
  });
  return {largest / scale, where};
}

inline bool is_gradient(const char* name) { return name[0] == 'd' && name[1] == '_'; }

template <class T>
void check_close(const Results<T>& actual, const Results<double>& expected, double tolerance, double gradient_tolerance,
                 const std::string& what) {
  for_each_buffer(actual, expected, [&](const char* name, const Buffer<T>& a, const Buffer<double>& e) {
    const auto [error, where] = largest_error(a, e);
    check_near(error, 0.0, is_gradient(name) ? gradient_tolerance : tolerance, what + ": " + name + where);
  });
  check_gaps(actual, what);
}

template <class T>
void check_identical(const Results<T>& a, const Results<T>& b, const std::string& what) {
  for_each_buffer(a, b, [&](const char* name, const Buffer<T>& left, const Buffer<T>& right) {
    const size_t size = left.data.size();
    check(size == right.data.size() &&
              (size == 0 || std::memcmp(left.data.data(), right.data.data(), size * sizeof(T)) == 0),
          what + ": " + name + " differs in some bit");
  });
}

}  // namespace fused_rnn::test
