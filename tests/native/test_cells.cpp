// Tests the cells as mathematics: derivatives by finite differences, limits in which the answer is known, activations.
#include "cells/table.h"

#include <cfloat>
#include <limits>
#include <string>
#include <type_traits>

#include "check.h"

namespace {

using namespace fused_rnn;
using test::check;
using test::check_near;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// One unit's inputs, in a form that can be varied one number at a time.
template <class Cell, class V = double>
struct Inputs {
  Pack<V, Cell::kGates> from_x, from_h;
  Pack<V, Cell::kStates> state;
  Pack<V, Cell::kUnitWeights> weights;

  static constexpr int kFirstWeight = 2 * Cell::kGates + Cell::kStates;
  static constexpr int kCount = kFirstWeight + Cell::kUnitWeights;
  V& operator[](int index) {
    if (index < Cell::kGates) return from_x[index];
    if (index < 2 * Cell::kGates) return from_h[index - Cell::kGates];
    if (index < kFirstWeight) return state[index - 2 * Cell::kGates];
    return weights[index - kFirstWeight];
  }
  CellForward<V, Cell> forward() const { return cell_forward<Cell, V>(from_x, from_h, state, weights); }
  CellBackward<V, Cell> backward(const CellForward<V, Cell>& result, const Pack<V, Cell::kStates>& d_state) const {
    return cell_backward<Cell, V>(result.saved, state, result.state, d_state, weights);
  }
};

// The unit weight that is the limit of c, and not trained; -1 where there is none.
template <class Cell>
constexpr int kLimit = std::is_same_v<Cell, PeepholeLstmCell> ? 3 : -1;

template <class Cell>
Inputs<Cell> random_inputs(test::Random& random) {
  Inputs<Cell> inputs{};
  for (int index = 0; index < Inputs<Cell>::kCount; ++index) inputs[index] = random(-2.0, 2.0);
  if constexpr (kLimit<Cell> >= 0) inputs.weights[kLimit<Cell>] = random(0.25, 2.0);  // some c are clipped
  return inputs;
}

// relu has no derivative at 0, nor has clipping at its limit; a difference across either is not one.
template <class Cell>
bool is_near_a_kink(Inputs<Cell> inputs) {
  constexpr double kNear = 1e-3;
  if constexpr (kLimit<Cell> >= 0) {
    double& limit = inputs.weights[kLimit<Cell>];
    const double given = limit;
    limit = kInfinity;
    return std::abs(std::abs(inputs.forward().state[1]) - given) < kNear;
  }
  return std::abs(inputs.from_x[0] + inputs.from_h[0]) < kNear;
}

template <class Visitor>
void for_each_cell(Visitor visitor) {
  for_each_type(Cells{}, [&](auto tag) { visitor.template operator()<typename decltype(tag)::type>(); });
}

template <class Cell>
double loss_of(const Inputs<Cell>& inputs, const Pack<double, Cell::kStates>& d_state) {
  const auto result = inputs.forward();
  double loss = 0.0;
  for (int state = 0; state < Cell::kStates; ++state) loss += d_state[state] * result.state[state];
  return loss;
}

void backward_is_the_derivative_of_forward() {
  for_each_cell([]<class Cell>() {
    test::Random random(1);
    constexpr double kStep = 1e-5;  // balances the h^2 of central differences with the rounding of doubles
    for (int trial = 0; trial < 200; ++trial) {
      Inputs<Cell> inputs = random_inputs<Cell>(random);
      if (is_near_a_kink(inputs)) continue;
      Pack<double, Cell::kStates> d_state{};
      for (int state = 0; state < Cell::kStates; ++state) d_state[state] = random(-1.0, 1.0);
      const auto gradient = inputs.backward(inputs.forward(), d_state);
      Inputs<Cell> d_inputs{gradient.d_from_x, gradient.d_from_h, gradient.d_state, gradient.d_unit_weights};
      for (int index = 0; index < Inputs<Cell>::kCount; ++index) {
        if (kLimit<Cell> >= 0 && index == Inputs<Cell>::kFirstWeight + kLimit<Cell>) {
          check_near(d_inputs[index], 0.0, 0.0, std::string(Cell::kName) + " gradient of the limit");
          continue;
        }
        const double value = inputs[index];
        inputs[index] = value + kStep;
        const double above = loss_of(inputs, d_state);
        inputs[index] = value - kStep;
        const double below = loss_of(inputs, d_state);
        inputs[index] = value;
        check_near(d_inputs[index], (above - below) / (2 * kStep), 1e-9,
                   std::string(Cell::kName) + " derivative of input " + std::to_string(index));
      }
    }
  });
}

// Of the parts that a cell with two states offers for a norm of c: here n(c) = gain c + bias, one unit's share of it.
template <class Cell>
Pack<double, 2> normalized_forward(const Inputs<Cell>& inputs, double gain, double bias) {
  const auto result = inputs.forward();
  return {{Cell::output(result.saved, std::tanh(gain * result.state[1] + bias)), result.state[1]}};
}

void a_normalized_cell_is_differentiated_by_its_parts() {
  for_each_cell([]<class Cell>() {
    if constexpr (kHasNormalizedC<Cell>) {
      test::Random random(6);
      constexpr double kStep = 1e-5;
      for (int trial = 0; trial < 100; ++trial) {
        Inputs<Cell> inputs = random_inputs<Cell>(random);
        const double gain = random(-2.0, 2.0), bias = random(-1.0, 1.0);
        const Pack<double, 2> d{{random(-1.0, 1.0), random(-1.0, 1.0)}};
        const auto loss = [&] {
          const auto state = normalized_forward(inputs, gain, bias);
          return d[0] * state[0] + d[1] * state[1];
        };
        const auto made = inputs.forward();
        const double tanh_c = std::tanh(gain * made.state[1] + bias);
        const double d_c = d[1] + gain * Cell::output_backward(made.saved, tanh_c, d[0]);
        const auto gradient = Cell::gates_backward(made.saved, inputs.state, tanh_c, d[0], d_c);
        Inputs<Cell> d_inputs{gradient.d_from_x, gradient.d_from_h, gradient.d_state, {}};
        for (int index = 0; index < Inputs<Cell>::kCount; ++index) {
          const double value = inputs[index];
          inputs[index] = value + kStep;
          const double above = loss();
          inputs[index] = value - kStep;
          const double below = loss();
          inputs[index] = value;
          check_near(d_inputs[index], (above - below) / (2 * kStep), 1e-9,
                     std::string(Cell::kName) + " normalized: derivative of input " + std::to_string(index));
        }
      }
    }
  });
}

void without_a_norm_the_parts_of_a_cell_are_the_cell() {
  for_each_cell([]<class Cell>() {
    if constexpr (kHasNormalizedC<Cell>) {
      test::Random random(7);
      const Inputs<Cell> inputs = random_inputs<Cell>(random);
      check(normalized_forward(inputs, 1.0, 0.0)[0] == inputs.forward().state[0], Cell::kName);
    }
  });
}

void a_cell_that_is_not_split_uses_only_the_sum_of_its_inputs() {
  for_each_cell([]<class Cell>() {
    test::Random random(2);
    bool gradients_differ = false, results_differ = false;
    for (int trial = 0; trial < 50; ++trial) {
      const Inputs<Cell> inputs = random_inputs<Cell>(random);
      Inputs<Cell> summed{};
      for (int gate = 0; gate < Cell::kGates; ++gate) summed.from_x[gate] = inputs.from_x[gate] + inputs.from_h[gate];
      summed.state = inputs.state;
      summed.weights = inputs.weights;
      const auto result = inputs.forward();
      const auto gradient = inputs.backward(result, result.state);
      results_differ |= result.state[0] != summed.forward().state[0];
      for (int gate = 0; gate < Cell::kGates; ++gate)
        gradients_differ |= gradient.d_from_x[gate] != gradient.d_from_h[gate];
    }
    check(results_differ == Cell::kSplit, std::string(Cell::kName) + ": forward against kSplit");
    check(gradients_differ == Cell::kSplit, std::string(Cell::kName) + ": backward against kSplit");
  });
}

void a_cell_that_does_not_read_its_hidden_unit_ignores_it() {
  for_each_cell([]<class Cell>() {
    if (Cell::kReadsHidden) return;
    test::Random random(3);
    Inputs<Cell> inputs = random_inputs<Cell>(random);
    const auto before = inputs.forward();
    const auto gradient = inputs.backward(before, before.state);
    check(gradient.d_state[0] == 0.0, std::string(Cell::kName) + ": gradient of h");
    inputs.state[0] = kNaN;
    const auto after = inputs.forward();
    for (int state = 0; state < Cell::kStates; ++state) {
      check(before.state[state] == after.state[state], std::string(Cell::kName) + ": state depends on h");
    }
  });
}

void float_cells_agree_with_double_cells() {
  for_each_cell([]<class Cell>() {
    test::Random random(4);
    for (int trial = 0; trial < 200; ++trial) {
      Inputs<Cell> inputs = random_inputs<Cell>(random);
      Inputs<Cell, float> rounded{};
      for (int index = 0; index < Inputs<Cell>::kCount; ++index) {
        rounded[index] = float(inputs[index]);
        inputs[index] = double(rounded[index]);
      }
      const auto expected = inputs.forward();
      const auto actual = rounded.forward();
      for (int state = 0; state < Cell::kStates; ++state) {
        check_near(actual.state[state], expected.state[state], 8 * FLT_EPSILON, Cell::kName);
      }
    }
  });
}

// Saturated gates make each formula trivial, and a different one for every order of the gates.
void lstm_gates_are_in_the_order_i_f_g_o() {
  const Pack<double, 2> state{{0.3, 0.7}};
  const double open = kInfinity, shut = -kInfinity;
  const auto lstm = [&](double i, double f, double g, double o) {
    return LstmCell::forward(Pack<double, 4>{{i, f, g, o}}, Pack<double, 4>{}, state).state;
  };
  check_near(lstm(shut, open, 0.4, open)[1], 0.7, 0.0, "only the forget gate open: c stays");
  check_near(lstm(shut, open, 0.4, open)[0], std::tanh(0.7), 1e-15, "only the forget gate open: h = tanh(c)");
  check_near(lstm(open, shut, 0.4, open)[1], std::tanh(0.4), 1e-15, "only the input gate open: c = g");
  check_near(lstm(open, open, 0.4, shut)[0], 0.0, 0.0, "output gate shut: h = 0");
  check_near(lstm(open, open, 0.4, shut)[1], 0.7 + std::tanh(0.4), 1e-15, "both open: c' = c + g");
}

// One peephole at a time; each weight is another number, so that no two can change places.
void peepholes_see_c_before_the_step_at_i_and_f_and_c_after_it_at_o() {
  const double open = kInfinity, shut = -kInfinity, c = 0.7, p_i = 1.5, p_f = -0.8, p_o = 2.5;
  const auto step = [&](double i, double f, double o) {
    return PeepholeLstmCell::forward(Pack<double, 4>{{i, f, 0.4, o}}, Pack<double, 4>{}, Pack<double, 2>{{kNaN, c}},
                                     Pack<double, 4>{{p_i, p_f, p_o, kInfinity}})
        .state;
  };
  const auto s = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  const double g = std::tanh(0.4);
  check_near(step(0.0, shut, open)[1], s(p_i * c) * g, 1e-15, "i sees c before the step");
  check_near(step(shut, 0.0, open)[1], s(p_f * c) * c, 1e-15, "f sees c before the step");
  check_near(step(open, shut, 0.0)[0], s(p_o * g) * std::tanh(g), 1e-15, "o sees c after the step");
  check_near(step(shut, open, 0.0)[0], s(p_o * c) * std::tanh(c), 1e-15, "o sees c after the step, where it stays");
}

void a_clipped_c_is_the_limit_and_has_no_gradient() {
  const double open = kInfinity;
  const auto inputs = [&](double c, double g, double limit) {
    return Inputs<PeepholeLstmCell>{{{open, open, g, 0.0}}, {}, {{0.0, c}}, {{1.5, -0.8, 2.5, limit}}};
  };
  for (const double sign : {1.0, -1.0}) {
    const auto clipped = inputs(sign * 0.7, sign * open, 1.0);  // c + g = 1.7
    const auto result = clipped.forward();
    check_near(result.state[1], sign, 0.0, "c is the limit");
    const double o = 1.0 / (1.0 + std::exp(-2.5 * sign));
    check_near(result.state[0], o * std::tanh(sign), 1e-15, "o and h see the clipped c");
    const auto d = clipped.backward(result, Pack<double, 2>{{1.0, 1.0}});
    for (const int gate : {0, 1, 2}) check_near(d.d_from_x[gate], 0.0, 0.0, "gradient of a gate of a clipped c");
    check_near(d.d_state[1], 0.0, 0.0, "gradient of c before the step");
    for (const int weight : {0, 1, 3}) check_near(d.d_unit_weights[weight], 0.0, 0.0, "gradient of a unit weight");
    check_near(d.d_from_x[3], std::tanh(sign) * o * (1 - o), 1e-15, "o has its gradient");
    check_near(d.d_unit_weights[2], d.d_from_x[3] * sign, 1e-15, "p_o has its gradient");
  }
  const auto at_limit = inputs(0.25, 0.0, 0.25);
  check(at_limit.backward(at_limit.forward(), Pack<double, 2>{{0.0, 1.0}}).d_state[1] == 1.0, "c at the limit passes");
  check_near(inputs(1e300, open, kInfinity).forward().state[1], 1e300, 0.0, "an infinite limit does not clip");
  check_near(inputs(kNaN, 0.0, 1.0).forward().state[1], kNaN, 0.0, "NaN is not clipped");
}

void gru_gates_are_in_the_order_r_z_n_and_reset_follows_the_product() {
  const Pack<double, 1> state{{0.3}};
  const double open = kInfinity, shut = -kInfinity;
  const auto gru = [&](double r, double z, double n, double h_n) {
    return GruCell::forward(Pack<double, 3>{{r, z, n}}, Pack<double, 3>{{0.0, 0.0, h_n}}, state).state[0];
  };
  check_near(gru(0.0, open, 0.4, 0.9), 0.3, 1e-15, "update gate open: h stays");
  check_near(gru(shut, shut, 0.4, 0.9), std::tanh(0.4), 1e-15, "reset: the recurrent part is off");
  check_near(gru(open, shut, 0.4, 0.9), std::tanh(1.3), 1e-15, "no reset: h' = tanh(x_n + h_n)");
  check_near(gru(0.0, shut, 0.4, 0.9), std::tanh(0.85), 1e-15, "half reset scales W h + b_hh");
}

void elman_cells_apply_their_activation_to_the_sum() {
  const auto cell = [](auto tag, double x, double h) {
    return decltype(tag)::type::forward(Pack<double, 1>{{x}}, Pack<double, 1>{{h}}, Pack<double, 1>{{9.0}}).state[0];
  };
  check_near(cell(Tag<ElmanCell<Tanh>>{}, 0.5, 0.25), std::tanh(0.75), 1e-15, "tanh");
  check_near(cell(Tag<ElmanCell<Relu>>{}, 0.5, 0.25), 0.75, 0.0, "relu of a positive sum");
  check_near(cell(Tag<ElmanCell<Relu>>{}, 0.5, -0.75), 0.0, 0.0, "relu of a negative sum");
}

void the_table_finds_every_cell_by_its_name() {
  int position = 0;
  for_each_cell([&]<class Cell>() {
    check(find_cell(Cell::kName) == position, std::string("find_cell ") + Cell::kName);
    const CellSpec spec = cell_spec(position);
    check(std::string(spec.name) == Cell::kName && spec.gates == Cell::kGates && spec.states == Cell::kStates &&
              spec.saved == Cell::kSaved && spec.split == Cell::kSplit && spec.projectable == !Cell::kReadsHidden &&
              spec.unit_weights == Cell::kUnitWeights && spec.norm_groups == Cell::kNormGroups,
          std::string("cell_spec ") + Cell::kName);
    ++position;
  });
  check(position == Cells::kSize, "every cell visited");
  check(find_cell("perceptron") == -1, "unknown name");
}

// The largest error of an activation in units of FLT_EPSILON, relative to the exact value.
template <class Activation, class Exact>
double largest_relative_error(double low, double high, Activation activation, Exact exact) {
  double largest = 0.0;
  constexpr int kSteps = 20011;  // prime, so that the points fall on no grid of the algorithm
  for (int step = 0; step <= kSteps; ++step) {
    const float x = float(low + (high - low) * step / kSteps);
    const long double expected = exact((long double)(x));
    if (expected == 0.0L) continue;
    largest = std::max(largest, double(std::abs(((long double)(activation(x)) - expected) / expected)));
  }
  return largest / FLT_EPSILON;
}

void float_activations_are_accurate_to_the_last_bits() {
  const auto sigmoid_of = [](float x) { return sigmoid(x); };
  const auto tanh_of = [](float x) { return fused_rnn::tanh(x); };
  const auto exact_sigmoid = [](long double x) { return 1.0L / (1.0L + std::exp(-x)); };
  const auto exact_tanh = [](long double x) { return std::tanh(x); };
  check_near(largest_relative_error(-87.0, 20.0, sigmoid_of, exact_sigmoid), 0.0, 4.0, "sigmoid");
  check_near(largest_relative_error(-10.0, 10.0, tanh_of, exact_tanh), 0.0, 4.0, "tanh");
  check_near(largest_relative_error(-1e-3, 1e-3, tanh_of, exact_tanh), 0.0, 2.0, "tanh near 0");
}

void activations_have_their_limits_and_keep_nan() {
  const auto limits = [](auto one) {
    using V = decltype(one);
    const V infinity = V(kInfinity), nan = V(kNaN);
    check_near(sigmoid(infinity), 1.0, 0.0, "sigmoid(inf)");
    check_near(sigmoid(-infinity), 0.0, 0.0, "sigmoid(-inf)");
    check_near(sigmoid(V(0)), 0.5, 0.0, "sigmoid(0)");
    check_near(sigmoid(V(-104)), 0.0, 1e-38, "sigmoid far in its tail");
    check_near(fused_rnn::tanh(infinity), 1.0, 0.0, "tanh(inf)");
    check_near(fused_rnn::tanh(-infinity), -1.0, 0.0, "tanh(-inf)");
    check_near(fused_rnn::tanh(V(1e-20)), V(1e-20), 0.0, "tanh(tiny)");
    check_near(relu(infinity), kInfinity, 0.0, "relu(inf)");
    check_near(relu(-infinity), 0.0, 0.0, "relu(-inf)");
    check_near(sigmoid(nan), kNaN, 0.0, "sigmoid(nan)");
    check_near(fused_rnn::tanh(nan), kNaN, 0.0, "tanh(nan)");
    check_near(relu(nan), kNaN, 0.0, "relu(nan)");
    check_near(where_positive(one, V(3)), 3.0, 0.0, "where_positive of a positive result");
    check_near(where_positive(V(0), V(3)), 0.0, 0.0, "where_positive of 0");
    check_near(where_positive(nan, V(3)), 3.0, 0.0, "where_positive of nan");
    check_near(clip(V(3), V(2)), 2.0, 0.0, "clip above");
    check_near(clip(V(-3), V(2)), -2.0, 0.0, "clip below");
    check_near(clip(V(-1.5), V(2)), -1.5, 0.0, "clip within");
    check_near(clip(infinity, V(2)), 2.0, 0.0, "clip(inf)");
    check_near(clip(-infinity, V(2)), -2.0, 0.0, "clip(-inf)");
    check_near(clip(infinity, infinity), kInfinity, 0.0, "clip(inf) at inf");
    check_near(clip(nan, V(2)), kNaN, 0.0, "clip(nan)");
    check_near(where_within(V(2), V(2), V(3)), 3.0, 0.0, "where_within at the limit");
    check_near(where_within(V(-2), V(2), V(3)), 3.0, 0.0, "where_within at the lower limit");
    check_near(where_within(V(2.5), V(2), V(3)), 0.0, 0.0, "where_within above");
    check_near(where_within(V(-2.5), V(2), V(3)), 0.0, 0.0, "where_within below");
    check_near(where_within(infinity, infinity, V(3)), 3.0, 0.0, "where_within of inf at inf");
    check_near(where_within(nan, V(2), V(3)), 3.0, 0.0, "where_within of nan");
    check_near(where_within(V(2.5), V(2), nan), 0.0, 0.0, "where_within drops nan");
  };
  limits(1.0);
  limits(1.0f);
}

}  // namespace

int main() {
  return test::run({
      {"backward is the derivative of forward", backward_is_the_derivative_of_forward},
      {"a normalized cell is differentiated by its parts", a_normalized_cell_is_differentiated_by_its_parts},
      {"without a norm the parts of a cell are the cell", without_a_norm_the_parts_of_a_cell_are_the_cell},
      {"a cell that is not split uses only the sum of its inputs",
       a_cell_that_is_not_split_uses_only_the_sum_of_its_inputs},
      {"a cell that does not read its hidden unit ignores it", a_cell_that_does_not_read_its_hidden_unit_ignores_it},
      {"float cells agree with double cells", float_cells_agree_with_double_cells},
      {"LSTM gates are in the order i f g o", lstm_gates_are_in_the_order_i_f_g_o},
      {"peepholes see c before the step at i and f, and c after it at o",
       peepholes_see_c_before_the_step_at_i_and_f_and_c_after_it_at_o},
      {"a clipped c is the limit and has no gradient", a_clipped_c_is_the_limit_and_has_no_gradient},
      {"GRU gates are in the order r z n and reset follows the product",
       gru_gates_are_in_the_order_r_z_n_and_reset_follows_the_product},
      {"Elman cells apply their activation to the sum", elman_cells_apply_their_activation_to_the_sum},
      {"the table finds every cell by its name", the_table_finds_every_cell_by_its_name},
      {"float activations are accurate to the last bits", float_activations_are_accurate_to_the_last_bits},
      {"activations have their limits and keep NaN", activations_have_their_limits_and_keep_nan},
  });
}
