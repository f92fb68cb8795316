// Tests the cells as mathematics: derivatives by finite differences, limits in which the answer is known, activations.
#include "cells/table.h"

#include <cfloat>
#include <limits>
#include <string>

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

  static constexpr int kCount = 2 * Cell::kGates + Cell::kStates;
  V& operator[](int index) {
    if (index < Cell::kGates) return from_x[index];
    if (index < 2 * Cell::kGates) return from_h[index - Cell::kGates];
    return state[index - 2 * Cell::kGates];
  }
  CellForward<V, Cell> forward() const { return Cell::forward(from_x, from_h, state); }
};

template <class Cell>
Inputs<Cell> random_inputs(test::Random& random) {
  Inputs<Cell> inputs{};
  for (int index = 0; index < Inputs<Cell>::kCount; ++index) inputs[index] = random(-2.0, 2.0);
  return inputs;
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
      // relu has no derivative at 0, and a difference across it is not one.
      if (std::abs(inputs.from_x[0] + inputs.from_h[0]) < 4 * kStep) continue;
      Pack<double, Cell::kStates> d_state{};
      for (int state = 0; state < Cell::kStates; ++state) d_state[state] = random(-1.0, 1.0);
      const auto result = inputs.forward();
      auto gradient = Cell::backward(result.saved, inputs.state, result.state, d_state);
      Inputs<Cell> d_inputs{gradient.d_from_x, gradient.d_from_h, gradient.d_state};
      for (int index = 0; index < Inputs<Cell>::kCount; ++index) {
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

void a_cell_that_is_not_split_uses_only_the_sum_of_its_inputs() {
  for_each_cell([]<class Cell>() {
    test::Random random(2);
    bool gradients_differ = false, results_differ = false;
    for (int trial = 0; trial < 50; ++trial) {
      const Inputs<Cell> inputs = random_inputs<Cell>(random);
      Inputs<Cell> summed{};
      for (int gate = 0; gate < Cell::kGates; ++gate) summed.from_x[gate] = inputs.from_x[gate] + inputs.from_h[gate];
      summed.state = inputs.state;
      const auto result = inputs.forward();
      const auto gradient = Cell::backward(result.saved, inputs.state, result.state, result.state);
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
    const auto gradient = Cell::backward(before.saved, inputs.state, before.state, before.state);
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
              spec.saved == Cell::kSaved && spec.split == Cell::kSplit,
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
  };
  limits(1.0);
  limits(1.0f);
}

}  // namespace

int main() {
  return test::run({
      {"backward is the derivative of forward", backward_is_the_derivative_of_forward},
      {"a cell that is not split uses only the sum of its inputs",
       a_cell_that_is_not_split_uses_only_the_sum_of_its_inputs},
      {"a cell that does not read its hidden unit ignores it", a_cell_that_does_not_read_its_hidden_unit_ignores_it},
      {"float cells agree with double cells", float_cells_agree_with_double_cells},
      {"LSTM gates are in the order i f g o", lstm_gates_are_in_the_order_i_f_g_o},
      {"GRU gates are in the order r z n and reset follows the product",
       gru_gates_are_in_the_order_r_z_n_and_reset_follows_the_product},
      {"Elman cells apply their activation to the sum", elman_cells_apply_their_activation_to_the_sum},
      {"the table finds every cell by its name", the_table_finds_every_cell_by_its_name},
      {"float activations are accurate to the last bits", float_activations_are_accurate_to_the_last_bits},
      {"activations have their limits and keep NaN", activations_have_their_limits_and_keep_nan},
  });
}
