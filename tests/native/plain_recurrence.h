// The recurrence and its gradient as plain loops over double: what every schedule must compute, in the slowest way.
//
// A step of a row, with all variants; what a problem does not have drops out:
//   sums = b_hh + W_hh (mask h)             from_h = norm of the sums, gain and bias
//   made = cell(gates, from_h, h, c)        with norms, made h = output(tanh(norm of made c))
//   h = zoneout of h and made h             c = zoneout of c and made c
// With a projection, made h goes through W_hr. Backward takes the same stages from the last to the first, each with its
// Jacobian written out; the finite differences of test_plain_recurrence.cpp hold it to the forward pass.
#pragma once

#include <cmath>
#include <vector>

#include "buffers.h"
#include "cells/cell.h"

namespace fused_rnn::test {

using Vector = std::vector<double>;

// The layer norm of some values, before gain and bias.
class PlainNorm {
 public:
  explicit PlainNorm(const Vector& values) : hats(values) {
    const double n = static_cast<double>(values.size());
    double mean = 0.0, variance = 0.0;
    for (const double value : values) mean += value / n;
    for (const double value : values) variance += (value - mean) * (value - mean) / n;
    scale_ = 1.0 / std::sqrt(variance + kNormEpsilon);
    for (double& hat : hats) hat = (hat - mean) * scale_;
  }

  // The gradient of the values from that of the hats: d hat_i / d value_j = scale ((i = j) - (1 + hat_i hat_j) / n).
  Vector backward(const Vector& d_hats) const {
    const double n = static_cast<double>(hats.size());
    Vector d_values(hats.size());
    for (size_t j = 0; j < hats.size(); ++j) {
      for (size_t i = 0; i < hats.size(); ++i) {
        d_values[j] += d_hats[i] * scale_ * ((i == j ? 1.0 : 0.0) - (1.0 + hats[i] * hats[j]) / n);
      }
    }
    return d_values;
  }

  Vector hats;

 private:
  double scale_ = 0.0;
};

// One direction and one row of the batch at a time; h is rounded to T at each step, as stored.
template <class Cell, class T>
class PlainRecurrence {
  static constexpr int kRecurrent = recurrent_gates<Cell>();

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
  // One row at one step, as the cell sees it.
  struct Step {
    int64_t t, b, d;
  };

  template <class Visitor>
  void for_each_row(Visitor visit) const {
    for (int64_t d = 0; d < s_.directions; ++d) {
      for (int64_t b = 0; b < s_.batch; ++b) visit(d, b);
    }
  }
  // Inactive steps leave it at that.
  Results<double> zero_results() const {
    Results<double> out = empty_results<Cell, double>(s_);
    for (Buffer<double>* zeroed : {&out.output, &out.cells, &out.saved, &out.hidden, &out.d_gates, &out.d_gates_h,
                                   &out.d_projected, &out.d_unit_weights, &out.d_norm}) {
      zeroed->for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) { zeroed->at(i, b, d, u) = 0.0; });
    }
    return out;
  }
  bool projected() const { return s_.output_size != s_.hidden_size; }
  bool normalizes_c() const { return kHasNormalizedC<Cell> && s_.normalized; }
  int64_t time_of(int64_t d, int64_t position) const { return d < s_.heads ? position : s_.time_steps - 1 - position; }
  static double rounded(double x) { return to_double(from_double<T>(x)); }
  static double get(const Buffer<T>& from, int64_t i, int64_t b, int64_t d, int64_t u) {
    return from.data.empty() ? 0.0 : from.get(i, b, d, u);
  }

  double mask(const Step& at, int64_t p) const {
    return s_.recurrent_mask ? in_.recurrent_mask.get(at.d, at.b, 0, p) : 1.0;
  }
  double stays(const Step& at, int state, int64_t u) const {
    return s_.zoneout ? in_.zoneout.get(at.t, at.b, at.d, state * s_.hidden_size + u) : 0.0;
  }
  double norm(const Step& at, int row, int64_t u) const { return in_.norm.get(at.d, row, 0, u); }
  Pack<double, Cell::kUnitWeights> unit_weights(const Step& at, int64_t u) const {
    Pack<double, Cell::kUnitWeights> weights{};
    for (int k = 0; k < Cell::kUnitWeights; ++k) weights[k] = in_.unit_weights.get(at.d, k, 0, u);
    return weights;
  }

  // Calls visit(rows of the gates that one norm joins) for every norm.
  template <class Visitor>
  void for_each_norm(Visitor visit) const {
    if constexpr (Cell::kNormGroups > 0) {
      for (int group = 0; group < Cell::kNormGroups; ++group) {
        std::vector<int64_t> rows;
        for (int64_t row = 0; row < Cell::kGates * s_.hidden_size; ++row) {
          if (Cell::norm_group(static_cast<int>(row / s_.hidden_size)) == group) rows.push_back(row);
        }
        visit(rows);
      }
    }
  }
  static Vector chosen(const Vector& values, const std::vector<int64_t>& indices) {
    Vector result;
    for (const int64_t index : indices) result.push_back(values[index]);
    return result;
  }
  // The recurrent gates as their norms leave them, before gain and bias.
  Vector normalized(const Vector& sums) const {
    Vector hats(sums.size());
    for_each_norm([&](const std::vector<int64_t>& rows) {
      const PlainNorm norm(chosen(sums, rows));
      for (size_t i = 0; i < rows.size(); ++i) hats[rows[i]] = norm.hats[i];
    });
    return hats;
  }

  void forward(int64_t d, int64_t b, Results<double>& out) const {
    Vector h(s_.output_size), c(s_.hidden_size);
    for (int64_t p = 0; p < s_.output_size; ++p) h[p] = get(in_.h_0, d, b, 0, p);
    for (int64_t u = 0; u < s_.hidden_size; ++u) c[u] = get(in_.c_0, d, b, 0, u);
    for (int64_t position = 0; position < s_.time_steps; ++position) {
      const int64_t t = time_of(d, position);
      if (!in_.active(t, b)) continue;
      if (in_.reset(t, b)) h.assign(s_.output_size, 0.0), c.assign(s_.hidden_size, 0.0);
      forward_step({t, b, d}, h, c, out);
    }
    for (int64_t p = 0; p < s_.output_size; ++p) out.h_n.at(d, b, 0, p) = h[p];
    for (int64_t u = 0; Cell::kStates == 2 && u < s_.hidden_size; ++u) out.c_n.at(d, b, 0, u) = c[u];
  }

  void forward_step(const Step& at, Vector& h, Vector& c, Results<double>& out) const {
    const auto [t, b, d] = at;
    const int64_t hidden_size = s_.hidden_size;
    Vector sums(kRecurrent * hidden_size);
    for (int64_t row = 0; row < kRecurrent * hidden_size; ++row) {
      sums[row] = in_.b_hh.data.empty() ? 0.0 : in_.b_hh.get(d, row, 0);
      for (int64_t p = 0; p < s_.output_size; ++p) sums[row] += in_.w_hh.get(d, row, p) * (mask(at, p) * h[p]);
    }
    Vector from_h = s_.normalized ? normalized(sums) : sums;
    std::vector<CellForward<double, Cell>> made(hidden_size);
    Vector made_c(hidden_size);
    for (int64_t u = 0; u < hidden_size; ++u) {
      Pack<double, Cell::kGates> x, r;
      for (int g = 0; g < Cell::kGates; ++g) {
        x[g] = in_.gates.get(t, b, d, g * hidden_size + u);
        r[g] = g < kRecurrent ? from_h[g * hidden_size + u] : 0.0;
        if (s_.normalized) r[g] = norm(at, 2 * g, u) * r[g] + norm(at, 2 * g + 1, u);
      }
      Pack<double, Cell::kStates> state;
      state[0] = Cell::kReadsHidden ? h[u] : 0.0;
      if constexpr (Cell::kStates == 2) state[1] = c[u];
      made[u] = cell_forward<Cell, double>(x, r, state, unit_weights(at, u));
      made_c[u] = made[u].state[Cell::kStates - 1];
    }
    if constexpr (kHasNormalizedC<Cell>) {
      const Vector hats = PlainNorm(made_c).hats;
      for (int64_t u = 0; s_.normalized && u < hidden_size; ++u)
        made[u].state[0] = Cell::output(made[u].saved, tanh_of_norm(at, hats, u));
    }
    Vector hidden(hidden_size);
    for (int64_t u = 0; u < hidden_size; ++u) {
      int64_t to = u;
      const auto save = [&](double value) { out.saved.at(at.t, at.b, at.d, to) = value, to += hidden_size; };
      for (int k = 0; k < Cell::kSaved; ++k) save(made[u].saved[k]);
      if (s_.zoneout) save(made_c[u]);
      for (int g = 0; s_.normalized && g < Cell::kGates; ++g) save(sums[g * hidden_size + u]);
      const double part = stays(at, 0, u);
      hidden[u] = rounded(s_.zoneout ? part * h[u] + (1.0 - part) * made[u].state[0] : made[u].state[0]);
      if constexpr (Cell::kStates == 2) {
        c[u] = s_.zoneout ? stays(at, 1, u) * c[u] + (1.0 - stays(at, 1, u)) * made_c[u] : made_c[u];
        out.cells.at(t, b, d, u) = c[u];
      }
      if (projected()) out.hidden.at(t, b, d, u) = hidden[u];
    }
    if (!projected()) h = hidden;
    for (int64_t p = 0; projected() && p < s_.output_size; ++p) {
      h[p] = 0.0;
      for (int64_t u = 0; u < hidden_size; ++u) h[p] += in_.w_hr.get(d, p, u) * hidden[u];
    }
    for (int64_t p = 0; p < s_.output_size; ++p) out.output.at(t, b, d, p) = h[p] = rounded(h[p]);
  }

  double tanh_of_norm(const Step& at, const Vector& hats, int64_t u) const {
    return std::tanh(norm(at, 2 * Cell::kGates, u) * hats[u] + norm(at, 2 * Cell::kGates + 1, u));
  }

  void backward(int64_t d, int64_t b, Results<double>& out) const {
    Vector d_h(s_.output_size), d_c(s_.hidden_size);
    for (int64_t p = 0; p < s_.output_size; ++p) d_h[p] = in_.d_h_n.get(d, b, 0, p);
    for (int64_t u = 0; u < s_.hidden_size; ++u) d_c[u] = get(in_.d_c_n, d, b, 0, u);
    for (int64_t position = s_.time_steps - 1; position >= 0; --position) {
      const int64_t t = time_of(d, position);
      if (!in_.active(t, b)) continue;
      const bool reset = in_.reset(t, b);
      const bool has_before = position > 0 && in_.active(time_of(d, position - 1), b);
      const auto state_before = [&](const Buffer<double>& sequence, const Buffer<T>& initial, int64_t u) {
        if (reset) return 0.0;
        return has_before ? sequence.get(time_of(d, position - 1), b, d, u) : get(initial, d, b, 0, u);
      };
      backward_step({t, b, d}, state_before, d_h, d_c, out);
      if (reset) d_h.assign(s_.output_size, 0.0), d_c.assign(s_.hidden_size, 0.0);
    }
    for (int64_t p = 0; p < s_.output_size; ++p) out.d_h_0.at(d, b, 0, p) = d_h[p];
    for (int64_t u = 0; Cell::kStates == 2 && u < s_.hidden_size; ++u) out.d_c_0.at(d, b, 0, u) = d_c[u];
  }

  // From the gradients of h and c after a step to those before it.
  template <class StateBefore>
  void backward_step(const Step& at, const StateBefore& state_before, Vector& d_h, Vector& d_c,
                     Results<double>& out) const {
    const auto [t, b, d] = at;
    const int64_t hidden_size = s_.hidden_size, output_size = s_.output_size;
    for (int64_t p = 0; p < output_size; ++p) d_h[p] += in_.d_output.get(t, b, d, p);
    for (int64_t u = 0; Cell::kStates == 2 && u < hidden_size; ++u) d_c[u] += in_.d_cells.get(t, b, d, u);
    Vector d_hidden = d_h;
    if (projected()) {
      d_hidden.assign(hidden_size, 0.0);
      for (int64_t p = 0; p < output_size; ++p) {
        out.d_projected.at(t, b, d, p) = d_h[p];
        for (int64_t u = 0; u < hidden_size; ++u) d_hidden[u] += in_.w_hr.get(d, p, u) * d_h[p];
      }
    }
    // Zoneout: a part of each gradient goes past the cell.
    Vector past_h(hidden_size), past_c(hidden_size);
    for (int64_t u = 0; s_.zoneout && u < hidden_size; ++u) {
      past_h[u] = stays(at, 0, u) * d_hidden[u];
      d_hidden[u] -= past_h[u];
      if constexpr (Cell::kStates == 2) {
        past_c[u] = stays(at, 1, u) * d_c[u];
        d_c[u] -= past_c[u];
      }
    }
    // The cell.
    const auto saved = [&](int row, int64_t u) { return out.saved.get(at.t, at.b, at.d, row * hidden_size + u); };
    const Buffer<double>& states = Cell::kStates == 2 ? out.cells : out.output;
    const auto made_of = [&](int64_t u) {
      return s_.zoneout ? saved(Cell::kSaved, u) : states.get(at.t, at.b, at.d, u);
    };
    Vector hats_of_c, d_c_through_h;
    if (normalizes_c()) through_norm_of_c(at, made_of, d_hidden, hats_of_c, d_c_through_h, out);
    Vector d_from_h(kRecurrent * hidden_size), direct(hidden_size);
    for (int64_t u = 0; u < hidden_size; ++u) {
      const Pack<double, Cell::kSaved> kept = saved_of(at, u, out);
      Pack<double, Cell::kStates> before{}, after{}, d_after{};
      if (Cell::kReadsHidden) before[0] = state_before(out.output, in_.h_0, u);
      if constexpr (Cell::kStates == 2) before[1] = state_before(out.cells, in_.c_0, u);
      after[Cell::kStates - 1] = made_of(u);
      d_after[0] = d_hidden[u];
      if constexpr (Cell::kStates == 2) d_after[1] = d_c[u];
      CellBackward<double, Cell> gradient{};
      if (!normalizes_c()) gradient = cell_backward<Cell, double>(kept, before, after, d_after, unit_weights(at, u));
      if constexpr (kHasNormalizedC<Cell>) {
        if (normalizes_c())
          gradient = Cell::gates_backward(kept, before, tanh_of_norm(at, hats_of_c, u), d_after[0],
                                          d_after[1] + d_c_through_h[u]);
      }
      for (int g = 0; g < Cell::kGates; ++g) {
        out.d_gates.at(t, b, d, g * hidden_size + u) = gradient.d_from_x[g];
        if (g < kRecurrent) d_from_h[g * hidden_size + u] = gradient.d_from_h[g];
      }
      for (int k = 0; k < Cell::kUnitWeights; ++k)
        out.d_unit_weights.at(0, b, d, k * hidden_size + u) += gradient.d_unit_weights[k];
      direct[u] = gradient.d_state[0] + past_h[u];
      if constexpr (Cell::kStates == 2) d_c[u] = gradient.d_state[1] + past_c[u];
    }
    if (s_.normalized) through_norm_of_sums(at, d_from_h, out);
    d_h.assign(output_size, 0.0);
    for (int64_t row = 0; row < kRecurrent * hidden_size; ++row) {
      if (Cell::kSplit || s_.normalized) out.d_gates_h.at(t, b, d, row) = d_from_h[row];
      for (int64_t p = 0; p < output_size; ++p) d_h[p] += mask(at, p) * in_.w_hh.get(d, row, p) * d_from_h[row];
    }
    for (int64_t u = 0; !projected() && u < hidden_size; ++u) d_h[u] += direct[u];
  }

  Pack<double, Cell::kSaved> saved_of(const Step& at, int64_t u, const Results<double>& out) const {
    Pack<double, Cell::kSaved> kept{};
    for (int k = 0; k < Cell::kSaved; ++k) kept[k] = out.saved.get(at.t, at.b, at.d, k * s_.hidden_size + u);
    return kept;
  }

  // The gradient of c that it has through made h.
  template <class MadeOf>
  void through_norm_of_c(const Step& at, const MadeOf& made_of, const Vector& d_made_h, Vector& hats,
                         Vector& d_c_through_h, Results<double>& out) const {
    if constexpr (kHasNormalizedC<Cell>) {
      const int gain = 2 * Cell::kGates;
      Vector c(s_.hidden_size), d_hats(s_.hidden_size);
      for (int64_t u = 0; u < s_.hidden_size; ++u) c[u] = made_of(u);
      const PlainNorm norm_of_c(c);
      hats = norm_of_c.hats;
      for (int64_t u = 0; u < s_.hidden_size; ++u) {
        const double d = Cell::output_backward(saved_of(at, u, out), tanh_of_norm(at, hats, u), d_made_h[u]);
        out.d_norm.at(0, at.b, at.d, gain * s_.hidden_size + u) += d * hats[u];
        out.d_norm.at(0, at.b, at.d, (gain + 1) * s_.hidden_size + u) += d;
        d_hats[u] = norm(at, gain, u) * d;
      }
      d_c_through_h = norm_of_c.backward(d_hats);
    }
  }

  // From the gradients of the normalized recurrent gates to those of the sums, in place.
  void through_norm_of_sums(const Step& at, Vector& gradients, Results<double>& out) const {
    const int64_t hidden_size = s_.hidden_size;
    const int first_sum = Cell::kSaved + (s_.zoneout ? 1 : 0);
    Vector sums(gradients.size());
    for (int64_t row = 0; row < Cell::kGates * hidden_size; ++row)
      sums[row] = out.saved.get(at.t, at.b, at.d, first_sum * hidden_size + row);
    for_each_norm([&](const std::vector<int64_t>& rows) {
      const PlainNorm norm_of_sums(chosen(sums, rows));
      Vector d_hats(rows.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        const int64_t gate = rows[i] / hidden_size, u = rows[i] % hidden_size;
        const double d = gradients[rows[i]];
        out.d_norm.at(0, at.b, at.d, 2 * gate * hidden_size + u) += d * norm_of_sums.hats[i];
        out.d_norm.at(0, at.b, at.d, (2 * gate + 1) * hidden_size + u) += d;
        d_hats[i] = norm(at, static_cast<int>(2 * gate), u) * d;
      }
      const Vector d_sums = norm_of_sums.backward(d_hats);
      for (size_t i = 0; i < rows.size(); ++i) gradients[rows[i]] = d_sums[i];
    });
  }

  const Shape& s_;
  const Inputs<T>& in_;
};

}  // namespace fused_rnn::test
