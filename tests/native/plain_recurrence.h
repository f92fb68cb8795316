// The recurrence and its gradient as plain loops over double: what every schedule must compute, in the slowest way.
//
// Also holds the buffers of a test: rounded to the type under test, with strides and gaps that nobody may write to.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "cells/cell.h"
#include "check.h"
#include "core/views.h"

namespace fused_rnn::test {

struct Shape {
  int64_t time_steps, batch, directions, hidden_size, output_size;
  bool initial = true;      // h_0 and c_0 are given
  bool bias = true;         // b_hh is given
  bool transposed = false;  // W_hh and W_hr lie column by column
  bool lengths = false;     // rows end where they like, one beyond the sequence and one before it included
  bool resets = false;      // some steps start from the zero state
};

// How a test converts a type; storage types bring a specialisation of their own.
template <class T>
struct Number {
  static double to_double(T x) { return x; }
  static T from_double(double x) { return static_cast<T>(x); }
};
template <class T>
double to_double(T x) {
  return Number<T>::to_double(x);
}
template <class T>
T from_double(double x) {
  return Number<T>::from_double(x);
}

// [T, B, D, N], or [D, B, 1, N] for a state, with a gap after each row and each step that holds a fixed number.
template <class T>
class Buffer {
 public:
  static constexpr int64_t kGap = 3;
  static constexpr double kGapValue = -77.0;

  Buffer() = default;
  Buffer(int64_t first, int64_t batch, int64_t inner, int64_t size)
      : first(first),
        batch(batch),
        inner(inner),
        size(size),
        row_stride(inner * size + kGap),
        first_stride(batch * row_stride + kGap),
        data(first * first_stride, from_double<T>(kGapValue)) {}

  T& at(int64_t i, int64_t b, int64_t d, int64_t u) { return data[i * first_stride + b * row_stride + d * size + u]; }
  double get(int64_t i, int64_t b, int64_t d, int64_t u) const {
    return to_double(data[i * first_stride + b * row_stride + d * size + u]);
  }
  void for_each(const std::function<void(int64_t, int64_t, int64_t, int64_t)>& visit) const {
    for (int64_t i = 0; i < first; ++i) {
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t d = 0; d < inner; ++d) {
          for (int64_t u = 0; u < size; ++u) visit(i, b, d, u);
        }
      }
    }
  }
  void fill(Random& random, double range) {
    for_each(
        [&](int64_t i, int64_t b, int64_t d, int64_t u) { at(i, b, d, u) = from_double<T>(random(-range, range)); });
  }
  bool gaps_are_intact() const {
    for (int64_t i = 0; i < first; ++i) {
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t k = 0; k < kGap; ++k) {
          if (get(i, b, inner, k) != kGapValue) return false;
        }
      }
      for (int64_t k = 0; k < kGap; ++k) {
        if (get(i, batch, 0, k) != kGapValue) return false;
      }
    }
    return true;
  }

  SequenceView<void> sequence() { return {data.data(), first_stride, row_stride, size}; }
  SequenceView<const void> sequence() const { return {data.data(), first_stride, row_stride, size}; }
  StateView<void> state() { return {data.data(), first_stride, row_stride}; }
  StateView<const void> state() const { return {data.data(), first_stride, row_stride}; }

  int64_t first = 0, batch = 0, inner = 0, size = 0, row_stride = 0, first_stride = 0;
  std::vector<T> data;
};

// [D, rows, columns], row by row or column by column.
template <class T>
struct Matrix {
  Matrix() = default;
  Matrix(int64_t directions, int64_t rows, int64_t columns, bool transposed)
      : rows(rows),
        columns(columns),
        row_stride(transposed ? 1 : columns),
        column_stride(transposed ? rows : 1),
        data(directions * rows * columns) {}
  T& at(int64_t d, int64_t r, int64_t c) { return data[d * rows * columns + r * row_stride + c * column_stride]; }
  double get(int64_t d, int64_t r, int64_t c) const {
    return to_double(data[d * rows * columns + r * row_stride + c * column_stride]);
  }
  // Each row has one large element, so that errors are carried on, and small ones; the product stays a contraction.
  void fill(Random& random, int64_t directions) {
    for (int64_t d = 0; d < directions; ++d) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          const double small = random(-0.1, 0.1) / static_cast<double>(columns);
          at(d, r, c) = from_double<T>(small + (c == (r * 7 + 3) % columns ? 0.75 : 0.0));
        }
      }
    }
  }
  WeightView view() const { return {data.data(), rows * columns, row_stride, column_stride}; }

  int64_t rows = 0, columns = 0, row_stride = 0, column_stride = 0;
  std::vector<T> data;
};

template <class T>
struct Inputs {
  Buffer<T> gates, h_0, c_0;                  // forward
  Buffer<T> d_output, d_h_n, d_c_n, d_cells;  // backward
  Matrix<T> w_hh, b_hh, w_hr;
  std::vector<int64_t> lengths;    // empty: all T
  std::shared_ptr<bool[]> resets;  // [B, T]; null: none

  bool active(int64_t t, int64_t b) const { return lengths.empty() || t < lengths[b]; }
  bool reset(int64_t t, int64_t b) const { return resets && resets[b * gates.first + t]; }
};

// What inactive steps hold that nobody may read.
template <class T>
void poison_padding(Inputs<T>& in, Buffer<T>& sequence) {
  sequence.for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) {
    if (!in.active(t, b)) sequence.at(t, b, d, u) = from_double<T>(NAN);
  });
}

template <class T>
struct Results {
  Buffer<T> output, h_n, c_n, cells, saved, hidden;         // of forward
  Buffer<T> d_gates, d_gates_h, d_h_0, d_c_0, d_projected;  // of backward
};

template <class Cell, class T>
Inputs<T> random_inputs(const Shape& s, uint64_t seed) {
  Random random(seed);
  const int64_t gate_rows = Cell::kGates * s.hidden_size;
  const bool projected = s.output_size != s.hidden_size;
  Inputs<T> in;
  const auto buffer = [&](Buffer<T>& to, int64_t first, int64_t inner, int64_t size, double range) {
    to = Buffer<T>(first, s.batch, inner, size);
    to.fill(random, range);
  };
  buffer(in.gates, s.time_steps, s.directions, gate_rows, 0.25);
  buffer(in.d_output, s.time_steps, s.directions, s.output_size, 1.0);
  buffer(in.d_h_n, s.directions, 1, s.output_size, 1.0);
  if (s.initial) buffer(in.h_0, s.directions, 1, s.output_size, 1.0);
  if (Cell::kStates == 2) {
    if (s.initial) buffer(in.c_0, s.directions, 1, s.hidden_size, 1.0);
    buffer(in.d_c_n, s.directions, 1, s.hidden_size, 1.0);
    buffer(in.d_cells, s.time_steps, s.directions, s.hidden_size, 1.0);
  }
  const auto matrix = [&](Matrix<T>& to, int64_t rows, int64_t columns, bool transposed) {
    to = Matrix<T>(s.directions, rows, columns, transposed);
    to.fill(random, s.directions);
  };
  matrix(in.w_hh, gate_rows, s.output_size, s.transposed);
  if (s.bias) {
    matrix(in.b_hh, gate_rows, 1, false);
    for (T& value : in.b_hh.data) value = from_double<T>(random(-0.25, 0.25));
  }
  if (projected) matrix(in.w_hr, s.output_size, s.hidden_size, s.transposed);
  if (s.lengths) {
    for (int64_t b = 0; b < s.batch; ++b) {
      in.lengths.push_back(static_cast<int64_t>(random(-1.0, static_cast<double>(s.time_steps) + 2.0)));
    }
    for (Buffer<T>* sequence : {&in.gates, &in.d_output, &in.d_cells}) poison_padding(in, *sequence);
  }
  if (s.resets) {
    in.resets = std::make_unique<bool[]>(s.batch * s.time_steps);
    for (int64_t i = 0; i < s.batch * s.time_steps; ++i) in.resets[i] = random(0.0, 1.0) < 0.3;
  }
  return in;
}

template <class Cell, class T>
Results<T> empty_results(const Shape& s) {
  Results<T> out;
  const bool projected = s.output_size != s.hidden_size;
  const auto sequence = [&](int64_t size) { return Buffer<T>(s.time_steps, s.batch, s.directions, size); };
  const auto state = [&](int64_t size) { return Buffer<T>(s.directions, s.batch, 1, size); };
  out.output = sequence(s.output_size);
  out.h_n = state(s.output_size);
  out.saved = sequence(Cell::kSaved * s.hidden_size);
  out.d_gates = sequence(Cell::kGates * s.hidden_size);
  if (Cell::kSplit) out.d_gates_h = sequence(Cell::kGates * s.hidden_size);
  out.d_h_0 = state(s.output_size);
  if (Cell::kStates == 2) {
    out.c_n = out.d_c_0 = state(s.hidden_size);
    out.cells = sequence(s.hidden_size);
  }
  if (projected) {
    out.hidden = sequence(s.hidden_size);
    out.d_projected = sequence(s.output_size);
  }
  return out;
}

// One direction and one row of the batch at a time; h is rounded to T at each step, as stored.
template <class Cell, class T>
class PlainRecurrence {
 public:
  PlainRecurrence(const Shape& shape, const Inputs<T>& inputs) : s_(shape), in_(inputs) {}

  Results<double> compute() const {
    Results<double> out = zero_results();
    for_each_row([&](int64_t d, int64_t b) { forward(d, b, out), backward(d, b, out); });
    return out;
  }

  // The backward pass from what another forward pass has made, which may be on the other side of a kink of relu.
  Results<double> compute_after(const Results<T>& made) const {
    Results<double> out = zero_results(), kept = out;
    for_each_row([&](int64_t d, int64_t b) { forward(d, b, out); });
    const auto exchange = [&](Buffer<double>& own, const Buffer<T>& theirs, Buffer<double>& keep) {
      keep = own;
      own.for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) { own.at(i, b, d, u) = theirs.get(i, b, d, u); });
    };
    exchange(out.output, made.output, kept.output);
    exchange(out.cells, made.cells, kept.cells);
    exchange(out.saved, made.saved, kept.saved);
    for_each_row([&](int64_t d, int64_t b) { backward(d, b, out); });
    out.output = kept.output, out.cells = kept.cells, out.saved = kept.saved;
    return out;
  }

 private:
  using Vector = std::vector<double>;
  template <class Visitor>
  void for_each_row(Visitor visit) const {
    for (int64_t d = 0; d < s_.directions; ++d) {
      for (int64_t b = 0; b < s_.batch; ++b) visit(d, b);
    }
  }
  // Inactive steps leave it at that.
  Results<double> zero_results() const {
    Results<double> out = empty_results<Cell, double>(s_);
    for (Buffer<double>* sequence :
         {&out.output, &out.cells, &out.saved, &out.hidden, &out.d_gates, &out.d_gates_h, &out.d_projected}) {
      sequence->for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) { sequence->at(t, b, d, u) = 0.0; });
    }
    return out;
  }
  bool projected() const { return s_.output_size != s_.hidden_size; }
  int64_t time_of(int64_t d, int64_t position) const { return d == 0 ? position : s_.time_steps - 1 - position; }
  static double rounded(double x) { return to_double(from_double<T>(x)); }
  static double get(const Buffer<T>& from, int64_t i, int64_t b, int64_t d, int64_t u) {
    return from.data.empty() ? 0.0 : from.get(i, b, d, u);
  }

  void forward(int64_t d, int64_t b, Results<double>& out) const {
    const int64_t hidden_size = s_.hidden_size, output_size = s_.output_size;
    Vector h(output_size), c(hidden_size);
    for (int64_t p = 0; p < output_size; ++p) h[p] = get(in_.h_0, d, b, 0, p);
    for (int64_t u = 0; u < hidden_size; ++u) c[u] = get(in_.c_0, d, b, 0, u);
    for (int64_t position = 0; position < s_.time_steps; ++position) {
      const int64_t t = time_of(d, position);
      if (!in_.active(t, b)) continue;
      if (in_.reset(t, b)) h.assign(output_size, 0.0), c.assign(hidden_size, 0.0);
      Vector hidden(hidden_size);
      for (int64_t u = 0; u < hidden_size; ++u) {
        Pack<double, Cell::kGates> x, r;
        for (int g = 0; g < Cell::kGates; ++g) {
          const int64_t row = g * hidden_size + u;
          x[g] = in_.gates.get(t, b, d, row);
          r[g] = in_.b_hh.data.empty() ? 0.0 : in_.b_hh.get(d, row, 0);
          for (int64_t p = 0; p < output_size; ++p) r[g] += in_.w_hh.get(d, row, p) * h[p];
        }
        Pack<double, Cell::kStates> state;
        state[0] = Cell::kReadsHidden ? h[u] : 0.0;
        if constexpr (Cell::kStates == 2) state[1] = c[u];
        const auto next = Cell::forward(x, r, state);
        hidden[u] = rounded(next.state[0]);
        if constexpr (Cell::kStates == 2) out.cells.at(t, b, d, u) = c[u] = next.state[1];
        for (int k = 0; k < Cell::kSaved; ++k) out.saved.at(t, b, d, k * hidden_size + u) = next.saved[k];
        if (projected()) out.hidden.at(t, b, d, u) = hidden[u];
      }
      if (!projected()) h = hidden;
      for (int64_t p = 0; projected() && p < output_size; ++p) {
        h[p] = 0.0;
        for (int64_t u = 0; u < hidden_size; ++u) h[p] += in_.w_hr.get(d, p, u) * hidden[u];
      }
      for (int64_t p = 0; p < output_size; ++p) out.output.at(t, b, d, p) = h[p] = rounded(h[p]);
    }
    for (int64_t p = 0; p < output_size; ++p) out.h_n.at(d, b, 0, p) = h[p];
    for (int64_t u = 0; Cell::kStates == 2 && u < hidden_size; ++u) out.c_n.at(d, b, 0, u) = c[u];
  }

  // The gradient of h before a step: through W_hh from that step's gates, on top of `carry`.
  void add_recurrent(int64_t d, const Vector& d_from_h, Vector& carry) const {
    for (int64_t row = 0; row < static_cast<int64_t>(d_from_h.size()); ++row) {
      for (int64_t p = 0; p < s_.output_size; ++p) carry[p] += in_.w_hh.get(d, row, p) * d_from_h[row];
    }
  }

  void backward(int64_t d, int64_t b, Results<double>& out) const {
    const int64_t hidden_size = s_.hidden_size, output_size = s_.output_size;
    Vector d_h(output_size), d_c(hidden_size);
    for (int64_t p = 0; p < output_size; ++p) d_h[p] = in_.d_h_n.get(d, b, 0, p);
    for (int64_t u = 0; u < hidden_size; ++u) d_c[u] = get(in_.d_c_n, d, b, 0, u);
    for (int64_t position = s_.time_steps - 1; position >= 0; --position) {
      const int64_t t = time_of(d, position);
      if (!in_.active(t, b)) continue;
      const bool reset = in_.reset(t, b);
      const bool has_before = position > 0 && in_.active(time_of(d, position - 1), b);
      const auto before_step = [&](const Buffer<double>& sequence, const Buffer<T>& initial, int64_t u) {
        if (reset) return 0.0;
        return has_before ? sequence.get(time_of(d, position - 1), b, d, u) : get(initial, d, b, 0, u);
      };
      for (int64_t p = 0; p < output_size; ++p) d_h[p] += in_.d_output.get(t, b, d, p);
      Vector d_hidden = d_h;
      if (projected()) {
        d_hidden.assign(hidden_size, 0.0);
        for (int64_t p = 0; p < output_size; ++p) {
          out.d_projected.at(t, b, d, p) = d_h[p];
          for (int64_t u = 0; u < hidden_size; ++u) d_hidden[u] += in_.w_hr.get(d, p, u) * d_h[p];
        }
      }
      d_h.assign(output_size, 0.0);
      Vector d_from_h(Cell::kGates * hidden_size);
      for (int64_t u = 0; u < hidden_size; ++u) {
        Pack<double, Cell::kSaved> saved;
        for (int k = 0; k < Cell::kSaved; ++k) saved[k] = out.saved.get(t, b, d, k * hidden_size + u);
        Pack<double, Cell::kStates> before{}, after{}, d_after{};
        if (Cell::kReadsHidden) {
          before[0] = before_step(out.output, in_.h_0, u);
          after[0] = out.output.get(t, b, d, u);
        }
        d_after[0] = d_hidden[u];
        if constexpr (Cell::kStates == 2) {
          before[1] = before_step(out.cells, in_.c_0, u);
          after[1] = out.cells.get(t, b, d, u);
          d_after[1] = d_c[u] + in_.d_cells.get(t, b, d, u);
        }
        const auto gradient = Cell::backward(saved, before, after, d_after);
        for (int g = 0; g < Cell::kGates; ++g) {
          const int64_t row = g * hidden_size + u;
          out.d_gates.at(t, b, d, row) = gradient.d_from_x[g];
          d_from_h[row] = gradient.d_from_h[g];
          if (Cell::kSplit) out.d_gates_h.at(t, b, d, row) = gradient.d_from_h[g];
        }
        if (!projected()) d_h[u] = gradient.d_state[0];
        if constexpr (Cell::kStates == 2) d_c[u] = gradient.d_state[1];
      }
      add_recurrent(d, d_from_h, d_h);
      if (reset) d_h.assign(output_size, 0.0), d_c.assign(hidden_size, 0.0);
    }
    for (int64_t p = 0; p < output_size; ++p) out.d_h_0.at(d, b, 0, p) = d_h[p];
    for (int64_t u = 0; Cell::kStates == 2 && u < hidden_size; ++u) out.d_c_0.at(d, b, 0, u) = d_c[u];
  }

  const Shape& s_;
  const Inputs<T>& in_;
};

}  // namespace fused_rnn::test
