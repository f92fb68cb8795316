// The oracle of the variants, zoneout, recurrent masks and weights of single units: forward in double, on a tape.
//
// Only what happens between the cells is said here, and only forward; no backward formula is shared with the kernels.
#pragma once

#include <string>

#include "emulated_schedules.h"
#include "tape.h"

namespace fused_rnn::test {

struct Variant {
  bool zoneout, mask;
};

template <class T>
struct VariantInputs {
  Inputs<T> plain;
  Buffer<T> zoneout;       // [T, B, D, states * H]
  Buffer<T> mask;          // [D, B, 1, P]
  Buffer<T> unit_weights;  // [D, K, 1, H]
};

template <class T>
struct VariantResults {
  Results<T> plain;          // `saved` has one value more with zoneout
  Buffer<T> d_unit_weights;  // [1, B, D, K * H]
};

template <class Cell, class T>
VariantInputs<T> random_variant_inputs(const Shape& s, const Variant& variant, uint64_t seed) {
  Random random(seed + 1000);
  VariantInputs<T> in{random_inputs<Cell, T>(s, seed), {}, {}, {}};
  const auto fill = [](Buffer<T>& to, auto make) {
    to.for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) { to.at(i, b, d, u) = from_double<T>(make(b, u)); });
  };
  if (variant.zoneout) {
    in.zoneout = Buffer<T>(s.time_steps, s.batch, s.directions, Cell::kStates * s.hidden_size);
    // All stays, nothing stays, a part stays.
    fill(in.zoneout, [&](auto...) { return std::clamp(random(-0.5, 1.5), 0.0, 1.0); });
    poison_padding(in.plain, in.zoneout);
  }
  if (variant.mask) {
    in.mask = Buffer<T>(s.directions, s.batch, 1, s.output_size);
    fill(in.mask, [&](auto...) { return random(0.0, 1.0) < 0.3 ? 0.0 : 1.25; });
  }
  if (Cell::kUnitWeights > 0) {
    in.unit_weights = Buffer<T>(s.directions, Cell::kUnitWeights, 1, s.hidden_size);
    // Backward finds out what was clipped from rounded gates, so that types of 16 bits may be beside the mark.
    const double limit = sizeof(T) > 2 ? 0.4 : INFINITY;
    fill(in.unit_weights,
         [&](int64_t k, int64_t u) { return k < 3 ? random(-0.75, 0.75) : (u % 3 == 0 ? limit : INFINITY); });
  }
  return in;
}

template <class Cell, class T>
VariantResults<T> empty_variant_results(const Shape& s, const Variant& variant) {
  VariantResults<T> out{empty_results<Cell, T>(s), {}};
  if (variant.zoneout) {
    const int saved = Cell::kSaved + cuda::kMadeStates<Cell>;
    out.plain.saved = Buffer<T>(s.time_steps, s.batch, s.directions, saved * s.hidden_size);
  }
  if (Cell::kUnitWeights > 0) {
    out.d_unit_weights = Buffer<T>(1, s.batch, s.directions, Cell::kUnitWeights * s.hidden_size);
  }
  return out;
}

template <class T>
VariantViews variant_views(const VariantInputs<T>& in) {
  return {in.unit_weights.state(), {}, in.zoneout.sequence(), in.mask.state()};
}

template <class Cell, class T>
VariantResults<T> run_per_step(const Shape& s, const Variant& variant, const VariantInputs<T>& in) {
  VariantResults<T> out = empty_variant_results<Cell, T>(s, variant);
  Problem problem = problem_of<Cell>(s, kTypeOf<T>);
  problem.zoneout = variant.zoneout;
  problem.recurrent_mask = variant.mask;
  ForwardViews forward = forward_views(in.plain, out.plain);
  forward.variant = variant_views(in);
  run_per_step<cuda::ForwardPass, Cell>(s, problem, in.plain, forward);
  problem.backward = true;
  BackwardViews backward = backward_views(in.plain, out.plain);
  backward.variant = variant_views(in);
  backward.d_unit_weights = out.d_unit_weights.sequence();
  run_per_step<cuda::BackwardPass, Cell>(s, problem, in.plain, backward);
  return out;
}

template <class Cell, class T>
class VariantOracle {
 public:
  VariantOracle(const Shape& shape, const Variant& variant, const VariantInputs<T>& inputs)
      : s_(shape), variant_(variant), in_(inputs), plain_(inputs.plain) {}

  VariantResults<double> compute() const {
    VariantResults<double> out = empty_variant_results<Cell, double>(s_, variant_);
    Results<double>& r = out.plain;
    // Inactive steps leave it at that.
    for (Buffer<double>* to : {&r.output, &r.cells, &r.saved, &r.hidden, &r.d_gates, &r.d_gates_h, &r.d_projected}) {
      to->for_each([&](int64_t t, int64_t b, int64_t d, int64_t u) { to->at(t, b, d, u) = 0.0; });
    }
    for (int64_t d = 0; d < s_.directions; ++d) {
      for (int64_t b = 0; b < s_.batch; ++b) compute_row(d, b, out);
    }
    return out;
  }

 private:
  using Vector = std::vector<Traced>;
  struct Step {
    int64_t time;
    Vector from_x, from_h, h;
  };

  bool projected() const { return s_.output_size != s_.hidden_size; }
  static Traced rounded(Traced x) {
    x.value = to_double(from_double<T>(x.value));
    return x;
  }
  Vector leaves(const Buffer<T>& from, int64_t i, int64_t b, int64_t d, int64_t size) const {
    Vector all;
    for (int64_t u = 0; u < size; ++u) all.push_back(leaf(from.data.empty() ? 0.0 : from.get(i, b, d, u)));
    return all;
  }
  static Vector product(const Matrix<T>& matrix, int64_t d, const Vector& vector) {
    Vector result;
    for (int64_t row = 0; row < matrix.rows; ++row) {
      double sum = 0.0;
      Tape::Sources sources;
      for (int64_t k = 0; k < matrix.columns; ++k) {
        sum += matrix.get(d, row, k) * vector[k].value;
        sources.emplace_back(vector[k].number, matrix.get(d, row, k));
      }
      result.emplace_back(sum, sources);
    }
    return result;
  }
  static void aim(const Vector& at, const Buffer<T>& slopes, int64_t i, int64_t b, int64_t d) {
    for (int64_t u = 0; u < static_cast<int64_t>(at.size()); ++u) {
      tape.add_to_objective(at[u].number, slopes.get(i, b, d, u));
    }
  }
  static void write(const Vector& from, Buffer<double>& to, int64_t i, int64_t b, int64_t d) {
    for (int64_t u = 0; u < static_cast<int64_t>(from.size()); ++u) to.at(i, b, d, u) = from[u].value;
  }
  static void write_gradient(const Vector& of, Buffer<double>& to, int64_t i, int64_t b, int64_t d) {
    for (int64_t u = 0; u < static_cast<int64_t>(of.size()); ++u) to.at(i, b, d, u) = of[u].gradient();
  }

  void compute_row(int64_t d, int64_t b, VariantResults<double>& results) const {
    constexpr bool kHasC = Cell::kStates > 1;
    Results<double>& out = results.plain;
    tape.clear();
    const Vector h_0 = leaves(plain_.h_0, d, b, 0, s_.output_size);
    const Vector c_0 = leaves(plain_.c_0, d, b, 0, kCellStates<Cell> * s_.hidden_size);
    std::vector<Vector> weights;
    for (int k = 0; k < Cell::kUnitWeights; ++k) weights.push_back(leaves(in_.unit_weights, d, k, 0, s_.hidden_size));
    Vector h = h_0, c = c_0;
    std::vector<Step> steps;
    for (int64_t position = 0; position < s_.time_steps; ++position) {
      const int64_t t = d < s_.heads ? position : s_.time_steps - 1 - position;
      if (!plain_.active(t, b)) continue;
      if (plain_.reset(t, b)) h.assign(h.size(), Traced(0.0)), c.assign(c.size(), Traced(0.0));
      steps.push_back({t, leaves(plain_.gates, t, b, d, Cell::kGates * s_.hidden_size), sums(d, b, h), {}});
      const Vector hidden = update(d, b, steps.back(), weights, h, c, out);
      h = hidden;
      if (projected()) {
        write(hidden, out.hidden, t, b, d);
        h = product(plain_.w_hr, d, hidden);
        for (Traced& value : h) value = rounded(value);
      }
      steps.back().h = h;
      write(h, out.output, t, b, d);
      aim(h, plain_.d_output, t, b, d);
      if (kHasC) write(c, out.cells, t, b, d), aim(c, plain_.d_cells, t, b, d);
    }
    write(h, out.h_n, d, b, 0);
    aim(h, plain_.d_h_n, d, b, 0);
    if (kHasC) write(c, out.c_n, d, b, 0), aim(c, plain_.d_c_n, d, b, 0);

    tape.go_back();
    for (const Step& step : steps) {
      write_gradient(step.from_x, out.d_gates, step.time, b, d);
      if (Cell::kSplit) write_gradient(step.from_h, out.d_gates_h, step.time, b, d);  // R gates
      if (projected()) write_gradient(step.h, out.d_projected, step.time, b, d);
    }
    write_gradient(h_0, out.d_h_0, d, b, 0);
    if (kHasC) write_gradient(c_0, out.d_c_0, d, b, 0);
    Vector all;
    for (const Vector& kth : weights) all.insert(all.end(), kth.begin(), kth.end());
    write_gradient(all, results.d_unit_weights, 0, b, d);
  }

  // W_hh (mask h) + b_hh.
  Vector sums(int64_t d, int64_t b, const Vector& h) const {
    Vector vector = h;
    for (int64_t p = 0; variant_.mask && p < s_.output_size; ++p) vector[p] = Traced(in_.mask.get(d, b, 0, p)) * h[p];
    Vector all = product(plain_.w_hh, d, vector);
    for (int64_t row = 0; !plain_.b_hh.data.empty() && row < static_cast<int64_t>(all.size()); ++row) {
      all[row].value += plain_.b_hh.get(d, row, 0);
    }
    return all;
  }

  // h before a projection; replaces c, the states besides h one after the other.
  Vector update(int64_t d, int64_t b, const Step& step, const std::vector<Vector>& weights, const Vector& h, Vector& c,
                Results<double>& out) const {
    const int64_t size = s_.hidden_size;
    Vector hidden;
    for (int64_t u = 0; u < size; ++u) {
      Pack<Traced, Cell::kGates> from_x, from_h;
      for (int g = 0; g < Cell::kGates; ++g) from_x[g] = step.from_x[g * size + u];
      for (int g = 0; g < recurrent_gates<Cell>(); ++g) from_h[g] = step.from_h[g * size + u];
      Pack<Traced, Cell::kStates> state;
      if (!projected()) state[0] = h[u];
      for (int s = 1; s < Cell::kStates; ++s) state[s] = c[(s - 1) * size + u];
      Pack<Traced, Cell::kUnitWeights> unit_weights;
      for (int k = 0; k < Cell::kUnitWeights; ++k) unit_weights[k] = weights[k][u];
      auto next = cell_forward<Cell, Traced>(from_x, from_h, state, unit_weights);
      for (int k = 0; k < Cell::kSaved; ++k) out.saved.at(step.time, b, d, k * size + u) = next.saved[k].value;
      if (variant_.zoneout) {
        for (int k = 0; k < cuda::kMadeStates<Cell>; ++k) {
          out.saved.at(step.time, b, d, (Cell::kSaved + k) * size + u) = next.state[kFirstMade<Cell> + k].value;
        }
        for (int s = 0; s < Cell::kStates; ++s) {
          const Traced stays(in_.zoneout.get(step.time, b, d, s * size + u));
          next.state[s] = next.state[s] * (Traced(1.0) - stays) + state[s] * stays;
        }
      }
      hidden.push_back(rounded(next.state[0]));
      for (int s = 1; s < Cell::kStates; ++s) c[(s - 1) * size + u] = next.state[s];
    }
    return hidden;
  }

  const Shape& s_;
  const Variant& variant_;
  const VariantInputs<T>& in_;
  const Inputs<T>& plain_;
};

// The gradients of the unit weights, which check_close does not know.
template <class T>
void check_sums(const Buffer<T>& actual, const Buffer<double>& expected, double tolerance, const std::string& what) {
  check_near(largest_error(actual, expected).relative, 0.0, tolerance, what + ": d_unit_weights");
  check(actual.gaps_are_intact(), what + ": d_unit_weights written outside its rows");
}

}  // namespace fused_rnn::test
