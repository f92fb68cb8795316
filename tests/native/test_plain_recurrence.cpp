// Tests the oracle of the other tests: its gradients against finite differences of its own forward pass, for every
// variant alone and for all of them together.
#include "plain_recurrence.h"

#include <string>
#include <type_traits>

#include "cells/table.h"
#include "linear_cells.h"
#include "recurrence_checks.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

// What the gradients are gradients of: each result times the number that arrives for it.
double loss_of(const Inputs<double>& in, const Results<double>& out) {
  double loss = 0.0;
  const auto add = [&](const Buffer<double>& result, const Buffer<double>& arriving, bool sequence) {
    result.for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) {
      if (!sequence || in.active(i, b)) loss += result.get(i, b, d, u) * arriving.get(i, b, d, u);
    });
  };
  add(out.output, in.d_output, true);
  add(out.h_n, in.d_h_n, false);
  add(out.cells, in.d_cells, true);
  add(out.c_n, in.d_c_n, false);
  return loss;
}

template <class Cell>
class Differences {
 public:
  explicit Differences(const Shape& shape)
      : s_(shape),
        in_(random_inputs<Cell, double>(shape, 3)),
        recurrence_(s_, in_),
        gradients_(recurrence_.compute()) {}

  void check_all() {
    const Results<double>& g = gradients_;
    check_buffer(in_.gates, "gates",
                 [&](int64_t t, int64_t b, int64_t d, int64_t u) { return g.d_gates.get(t, b, d, u); });
    check_buffer(in_.h_0, "h_0", [&](int64_t d, int64_t b, int64_t, int64_t u) { return g.d_h_0.get(d, b, 0, u); });
    check_buffer(in_.c_0, "c_0", [&](int64_t d, int64_t b, int64_t, int64_t u) { return g.d_c_0.get(d, b, 0, u); });
    const auto row_of = [&](const Buffer<double>& sums) {
      return [&](int64_t d, int64_t row, int64_t, int64_t u) {
        double sum = 0.0;
        for (int64_t b = 0; b < s_.batch; ++b) sum += sums.get(0, b, d, row * s_.hidden_size + u);
        return sum;
      };
    };
    // The limit of a peephole cell is given, not trained.
    constexpr int kTrained = std::is_same_v<Cell, PeepholeLstmCell> ? 3 : Cell::kUnitWeights;
    check_buffer(in_.unit_weights, "unit_weights", row_of(g.d_unit_weights),
                 [](int64_t row) { return row < kTrained; });
    check_buffer(in_.norm, "norm", row_of(g.d_norm));
    const Buffer<double>& d_sums = Cell::kSplit || s_.normalized ? g.d_gates_h : g.d_gates;
    check_matrix(in_.b_hh, "b_hh", [&](const auto& at, int64_t row, int64_t) { return at(d_sums, row); });
    check_matrix(in_.w_hr, "w_hr",
                 [&](const auto& at, int64_t p, int64_t u) { return at(g.d_projected, p) * at(g.hidden, u); });
  }

 private:
  template <class Expected>
  void check_buffer(
      Buffer<double>& input, const char* name, const Expected& expected,
      bool (*has_gradient)(int64_t row) = [](int64_t) { return true; }) {
    input.for_each([&](int64_t i, int64_t b, int64_t d, int64_t u) {
      if (std::isnan(input.get(i, b, d, u)) || !has_gradient(b)) return;
      check_one(input.at(i, b, d, u), expected(i, b, d, u), name);
    });
  }
  // `term(at, row, column)` is summed over all steps, where at(sequence, index) looks into one of them.
  template <class Term>
  void check_matrix(Matrix<double>& input, const char* name, const Term& term) {
    for (int64_t d = 0; d < s_.directions; ++d) {
      for (int64_t row = 0; row < input.rows; ++row) {
        for (int64_t column = 0; column < input.columns; ++column) {
          double sum = 0.0;
          for (int64_t t = 0; t < s_.time_steps; ++t) {
            for (int64_t b = 0; b < s_.batch; ++b) {
              const auto at = [&](const Buffer<double>& from, int64_t index) { return from.get(t, b, d, index); };
              sum += term(at, row, column);
            }
          }
          check_one(input.at(d, row, column), sum, name);
        }
      }
    }
  }
  void check_one(double& input, double gradient, const char* name) {
    constexpr double kStep = 1e-5;  // balances its fourth power, times that of a norm's scale, with rounding
    const double value = input;
    const auto loss_at = [&](double x) {
      input = x;
      return loss_of(in_, recurrence_.compute());
    };
    const auto central = [&](double step) { return (loss_at(value + step) - loss_at(value - step)) / (2 * step); };
    const double difference = (4.0 * central(kStep) - central(2 * kStep)) / 3.0;
    input = value;
    check_near(gradient, difference, 1e-7 * (1.0 + std::abs(difference)),
               std::string(Cell::kName) + to_string(s_) + ": derivative of " + name);
  }

  Shape s_;
  Inputs<double> in_;
  PlainRecurrence<Cell, double> recurrence_;
  Results<double> gradients_;
};

template <class Cell>
void check_variants(bool projected) {
  for (const bool ragged : {false, true}) {
    Shape shape{4, 3, 2, 3, projected ? 2 : 3, true, true, false, ragged, ragged};
    for (const bool normalized : {false, true}) {
      for (const bool zoneout : {false, true}) {
        for (const bool recurrent_mask : {false, true}) {
          if ((normalized && Cell::kNormGroups == 0) || (zoneout && projected)) continue;
          shape.normalized = normalized, shape.zoneout = zoneout, shape.recurrent_mask = recurrent_mask;
          Differences<Cell>(shape).check_all();
        }
      }
    }
  }
}

void gradients_are_derivatives_for_cells_with_one_state() {
  check_variants<IdentityCell>(false);
  check_variants<BilinearCell>(false);
  check_variants<WeightedCell>(false);
  check_variants<GruCell>(false);
  check_variants<PartlyRecurrentCell>(false);
  check_variants<DiagonalCell>(false);
}

void gradients_are_derivatives_for_cells_with_two_states() {
  check_variants<TwoStateCell>(false);
  check_variants<WeightedDiagonalCell>(false);
  check_variants<LstmCell>(false);
  check_variants<PeepholeLstmCell>(false);
}

void gradients_are_derivatives_with_a_projection() {
  check_variants<TwoStateCell>(true);
  check_variants<PartlyProjectedCell>(true);
  check_variants<LstmCell>(true);
  check_variants<PeepholeLstmCell>(true);
}

// Equal values have no variance; epsilon keeps their norm finite.
void a_norm_has_mean_0_and_variance_1_unless_all_values_are_equal() {
  const PlainNorm norm({1.0, 2.0, 4.0, 9.0});
  double mean = 0.0, square = 0.0;
  for (const double hat : norm.hats) mean += hat / 4, square += hat * hat / 4;
  check_near(mean, 0.0, 1e-15, "mean");
  check_near(square, 1.0, 2e-6, "variance");
  for (const double hat : PlainNorm({3.0}).hats) check_near(hat, 0.0, 0.0, "one value");
  for (const double d : PlainNorm({3.0}).backward({5.0})) check_near(d, 0.0, 0.0, "gradient of one value");
}

}  // namespace

int main() {
  return test::run({
      {"gradients are derivatives for cells with one state", gradients_are_derivatives_for_cells_with_one_state},
      {"gradients are derivatives for cells with two states", gradients_are_derivatives_for_cells_with_two_states},
      {"gradients are derivatives with a projection", gradients_are_derivatives_with_a_projection},
      {"a norm has mean 0 and variance 1 unless all values are equal",
       a_norm_has_mean_0_and_variance_1_unless_all_values_are_equal},
  });
}
