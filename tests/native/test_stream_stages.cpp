// Tests the stages of a stream that are not recurrent, in memory of exactly their size, against float64.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "stream/activation_stage.h"
#include "stream/linear_stage.h"

namespace {

using namespace fused_rnn;
using test::check;
using test::check_near;

// One, and around one and four vectors of each instruction set; rows around a tile.
constexpr int64_t kSizes[] = {1, 3, 4, 5, 8, 15, 16, 17, 33, 63, 64, 65, 130};
constexpr int64_t kBatches[] = {1, 2, 7};

std::vector<float> random_values(int64_t count, uint64_t seed, double most = 2) {
  test::Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random(-most, most));
  return values;
}

// The results of two steps of a stage and of its copy are the same; the first is returned, [B, size].
std::vector<float> run(Stage& stage, const std::vector<float>& x, int64_t batch, int64_t x_size, int64_t size) {
  std::vector<float> result;
  const auto copy = stage.clone();
  for (Stage* each : {&stage, copy.get(), &stage}) {
    const StepRows rows = each->run(0, 0, {x.data(), x_size});
    std::vector<float> found;
    for (int64_t row = 0; row < batch; ++row) {
      found.insert(found.end(), rows.data + row * rows.stride, rows.data + row * rows.stride + size);
    }
    const bool same = result.empty() || std::memcmp(found.data(), result.data(), found.size() * sizeof(float)) == 0;
    check(same, "a step depends on x alone");
    result = found;
  }
  return result;
}

void check_linear() {
  for (const int64_t batch : kBatches) {
    for (const int64_t inputs : {1, 7, 64, 65, 130}) {
      for (const int64_t outputs : kSizes) {
        for (const bool has_bias : {false, true}) {
          const auto weight = random_values(outputs * inputs, 1), bias = random_values(outputs, 2),
                     x = random_values(batch * inputs, 3);
          LinearStage stage({batch, inputs, outputs, weight.data(), has_bias ? bias.data() : nullptr});
          const auto y = run(stage, x, batch, inputs, outputs);
          if (!test::kJudgesValues) continue;
          for (int64_t row = 0; row < batch; ++row) {
            for (int64_t i = 0; i < outputs; ++i) {
              double sum = has_bias ? bias[size_t(i)] : 0.0, most = std::abs(sum);
              for (int64_t k = 0; k < inputs; ++k) {
                const double term = double(weight[size_t(i * inputs + k)]) * x[size_t(row * inputs + k)];
                sum += term;
                most += std::abs(term);
              }
              check_near(y[size_t(row * outputs + i)], sum, 1e-6 * most, "a linear stage");
            }
          }
        }
      }
    }
  }
}

void check_activation(Activation kind, int64_t slopes, const std::function<double(double, float)>& expected) {
  for (const int64_t batch : kBatches) {
    for (const int64_t size : kSizes) {
      const auto x = random_values(batch * size, 4, 6);
      const auto slope = random_values(slopes == 1 ? 1 : size, 5);
      ActivationStage stage({kind, batch, size, slope.data(), int64_t(slope.size())});
      const auto y = run(stage, x, batch, size, size);
      for (size_t i = 0; i < y.size() && test::kJudgesValues; ++i) {
        const float own = slope[slopes == 1 ? 0 : i % size_t(size)];
        const double value = expected(x[i], own);
        check_near(y[i], value, 3e-7 * std::max(1.0, std::abs(value)), "an activation");
      }
    }
  }
}

void check_activations() {
  check_activation(Activation::kTanh, 1, [](double x, float) { return std::tanh(x); });
  check_activation(Activation::kRelu, 1, [](double x, float) { return std::max(x, 0.0); });
  check_activation(Activation::kSigmoid, 1, [](double x, float) { return 1 / (1 + std::exp(-x)); });
  for (const int64_t slopes : {1, 2}) {
    check_activation(Activation::kPrelu, slopes, [](double x, float slope) { return x > 0 ? x : slope * x; });
  }
}

void check_softmax() {
  for (const int64_t batch : kBatches) {
    for (const int64_t size : kSizes) {
      for (const double most : {1.0, 50.0, 1e6}) {
        const auto x = random_values(batch * size, 6, most);
        ActivationStage stage({Activation::kSoftmax, batch, size, nullptr, 0});
        const auto y = run(stage, x, batch, size, size);
        for (int64_t row = 0; row < batch && test::kJudgesValues; ++row) {
          const float* values = x.data() + row * size;
          const double largest = *std::max_element(values, values + size);
          double sum = 0;
          for (int64_t i = 0; i < size; ++i) sum += std::exp(values[i] - largest);
          for (int64_t i = 0; i < size; ++i) {
            check_near(y[size_t(row * size + i)], std::exp(values[i] - largest) / sum, 5e-7, "softmax");
          }
        }
      }
    }
  }
}

void check_not_finite() {
  const std::vector<float> x = {NAN, 1, INFINITY, 2, -INFINITY, 3};
  for (const Activation kind : {Activation::kTanh, Activation::kRelu, Activation::kSigmoid, Activation::kSoftmax}) {
    ActivationStage stage({kind, 3, 2, nullptr, 0});
    const auto y = run(stage, std::vector<float>{NAN, 1, 1, 2, -INFINITY, 3}, 3, 2, 2);
    check(std::isnan(y[0]), "a NaN stays");
    check(std::isnan(y[1]) == (kind == Activation::kSoftmax), "a NaN reaches the values of its row in a softmax alone");
    for (size_t i = 2; i < 6; ++i) check(std::isfinite(y[i]), "other rows are as they were");
  }
  ActivationStage relu({Activation::kRelu, 3, 2, nullptr, 0});
  const auto y = run(relu, x, 3, 2, 2);
  check(y[2] == INFINITY && y[4] == 0, "relu of infinities");
}

}  // namespace

int main() {
  return test::run({{"a linear stage is a product with bias", check_linear},
                    {"activations are those of float64", check_activations},
                    {"softmax sums to one, whatever the size of its values", check_softmax},
                    {"values that are not finite", check_not_finite}});
}
