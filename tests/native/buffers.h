// The buffers of a test: random numbers rounded to the type under test, with strides and gaps that nobody may write to.
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
  // The variants.
  bool normalized = false;
  bool zoneout = false;  // not with a projection
  bool recurrent_mask = false;
  int64_t input_size = 0;  // the schedule makes the gates of x itself; 0: they are given
  int64_t heads = 1;       // of each direction; `directions` counts them all
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

  // Null where there is no element: absent.
  SequenceView<void> sequence() { return {pointer_of(data), first_stride, row_stride, size}; }
  SequenceView<const void> sequence() const { return {pointer_of(data), first_stride, row_stride, size}; }
  StateView<void> state() { return {pointer_of(data), first_stride, row_stride}; }
  StateView<const void> state() const { return {pointer_of(data), first_stride, row_stride}; }
  template <class Elements>
  static auto pointer_of(Elements& elements) {
    return elements.empty() ? nullptr : elements.data();
  }

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
  Matrix<T> w_hh, b_hh, w_hr;                 // [D, R*H, P], [D, R*H, 1], [D, P, H]
  Buffer<T> x;                                // [T, B, 1, I], of which the gates are made
  Matrix<T> w_ih, b_ih;                       // [D, G*H, I]
  Buffer<T> unit_weights, norm, zoneout,
      recurrent_mask;                 // variants: [D, K, H], [D, N, H], [T, B, D, states, H], [D, B, P]
  std::vector<int64_t> lengths;       // empty: all T
  std::shared_ptr<uint8_t[]> resets;  // [B, T], any bytes; null: none

  bool active(int64_t t, int64_t b) const { return lengths.empty() || t < lengths[b]; }
  bool reset(int64_t t, int64_t b) const { return resets && resets[b * gates.first + t] != 0; }
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
  Buffer<T> d_unit_weights, d_norm;                         // [1, B, D, K, H] and [1, B, D, N, H]
};

// Gain and bias of each recurrent gate, then, for cells with two states, of c.
template <class Cell>
constexpr int kNormRows = 2 * Cell::kGates + (Cell::kStates == 2 ? 2 : 0);

// Gains of the gates are such that the recurrence stays a contraction; unit weights are positive, since one of them may
// be a limit. Zoneout often keeps all or nothing, as when it is drawn at random.
template <class Cell, class T>
void fill_variants(const Shape& s, Random& random, Inputs<T>& in) {
  const auto fill = [&](Buffer<T>& to, int64_t first, int64_t batch, int64_t inner, int64_t size, const auto& number) {
    to = Buffer<T>(first, batch, inner, size);
    to.for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) { to.at(i, b, d, u) = from_double<T>(number(b)); });
  };
  if (Cell::kUnitWeights > 0) {
    fill(in.unit_weights, s.directions, Cell::kUnitWeights, 1, s.hidden_size,
         [&](int64_t) { return random(0.2, 0.8); });
  }
  if (s.normalized) {
    fill(in.norm, s.directions, kNormRows<Cell>, 1, s.hidden_size, [&](int64_t row) {
      return row % 2 == 1 ? random(-0.25, 0.25) : (random(0.0, 1.0) < 0.5 ? -1.0 : 1.0) * random(0.1, 0.3);
    });
  }
  if (s.zoneout) {
    fill(in.zoneout, s.time_steps, s.batch, s.directions, Cell::kStates * s.hidden_size, [&](int64_t) {
      const double kind = random(0.0, 1.0);
      return kind < 0.25 ? 0.0 : kind < 0.5 ? 1.0 : random(0.0, 1.0);
    });
    poison_padding(in, in.zoneout);
  }
  if (s.recurrent_mask) {
    fill(in.recurrent_mask, s.directions, s.batch, 1, s.output_size,
         [&](int64_t) { return random(0.0, 1.0) < 0.3 ? 0.0 : 1.125; });
  }
}

// Gates that are W_ih x + b_ih, with NaN in the padding of x.
template <class Cell, class T>
void fill_input(const Shape& s, Random& random, Inputs<T>& in) {
  if (s.input_size == 0) return;
  in.x = Buffer<T>(s.time_steps, s.batch, 1, s.input_size);
  in.x.fill(random, 0.25);
  in.w_ih = Matrix<T>(s.directions, Cell::kGates * s.hidden_size, s.input_size, s.transposed);
  in.w_ih.fill(random, s.directions);
  if (s.bias && recurrent_gates<Cell>() == Cell::kGates) in.b_ih = in.b_hh;
  if (s.bias && recurrent_gates<Cell>() < Cell::kGates) {
    in.b_ih = Matrix<T>(s.directions, Cell::kGates * s.hidden_size, 1, false);
    for (T& value : in.b_ih.data) value = from_double<T>(random(-0.25, 0.25));
  }
  in.gates.for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) {
    double sum = s.bias ? in.b_ih.get(d, u, 0) : 0.0;
    for (int64_t i = 0; i < s.input_size; ++i) sum += in.w_ih.get(d, u, i) * in.x.get(t, b, 0, i);
    in.gates.at(t, b, d, u) = from_double<T>(sum);
  });
  poison_padding(in, in.x);
  poison_padding(in, in.gates);
}

template <class Cell, class T>
Inputs<T> random_inputs(const Shape& s, uint64_t seed) {
  Random random(seed);
  const int64_t gate_rows = Cell::kGates * s.hidden_size, recurrent_rows = recurrent_gates<Cell>() * s.hidden_size;
  const int64_t others = kCellStates<Cell> * s.hidden_size;  // of the states besides h
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
  if (others > 0) {
    if (s.initial) buffer(in.c_0, s.directions, 1, others, 1.0);
    buffer(in.d_c_n, s.directions, 1, others, 1.0);
    buffer(in.d_cells, s.time_steps, s.directions, others, 1.0);
  }
  const auto matrix = [&](Matrix<T>& to, int64_t rows, int64_t columns, bool transposed) {
    to = Matrix<T>(s.directions, rows, columns, transposed);
    to.fill(random, s.directions);
  };
  matrix(in.w_hh, recurrent_rows, s.output_size, s.transposed);
  if (s.bias) {
    matrix(in.b_hh, recurrent_rows, 1, false);
    // A norm of nearly equal values, of a single unit above all, would magnify their rounding errors up to 300 times.
    const double range = s.normalized ? 1.0 : 0.25;
    for (T& value : in.b_hh.data) value = from_double<T>(random(-range, range));
  }
  if (projected) matrix(in.w_hr, s.output_size, s.hidden_size, s.transposed);
  if (s.lengths) {
    for (int64_t b = 0; b < s.batch; ++b) {
      in.lengths.push_back(static_cast<int64_t>(random(-1.0, static_cast<double>(s.time_steps) + 2.0)));
    }
    for (Buffer<T>* sequence : {&in.gates, &in.d_output, &in.d_cells}) poison_padding(in, *sequence);
  }
  if (s.resets) {
    in.resets = std::make_unique<uint8_t[]>(s.batch * s.time_steps);
    for (int64_t i = 0; i < s.batch * s.time_steps; ++i) {
      const bool reset = random(0.0, 1.0) < 0.3;
      in.resets[i] = reset ? static_cast<uint8_t>(1 << i % 8) : 0;
    }
  }
  fill_variants<Cell>(s, random, in);
  fill_input<Cell>(s, random, in);
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
  const int saved = Cell::kSaved + (s.zoneout ? spec_of<Cell>(0).made_states() : 0) + (s.normalized ? Cell::kGates : 0);
  out.saved = sequence(saved * s.hidden_size);
  out.d_gates = sequence(Cell::kGates * s.hidden_size);
  if (Cell::kSplit || s.normalized) out.d_gates_h = sequence(recurrent_gates<Cell>() * s.hidden_size);
  out.d_h_0 = state(s.output_size);
  if (const int64_t others = kCellStates<Cell> * s.hidden_size; others > 0) {
    out.c_n = out.d_c_0 = state(others);
    out.cells = sequence(others);
  }
  if (projected) {
    out.hidden = sequence(s.hidden_size);
    out.d_projected = sequence(s.output_size);
  }
  const auto sum_over_time = [&](int64_t size) { return Buffer<T>(1, s.batch, s.directions, size); };
  if (Cell::kUnitWeights > 0) out.d_unit_weights = sum_over_time(Cell::kUnitWeights * s.hidden_size);
  if (s.normalized) out.d_norm = sum_over_time(kNormRows<Cell> * s.hidden_size);
  return out;
}

}  // namespace fused_rnn::test
