// Tests the layers of a Stepper, on buffers of their exact size, against plain loops.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/schedules/packed_step.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "cells/table.h"
#include "check.h"
#include "linear_cells.h"
#include "numbers.h"

namespace fused_rnn {
StepLayer::~StepLayer() = default;  // as in stepper.cpp, which needs all units
}

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

// Multiples of 1/128 whose largest in each row is 127/128: every storage type holds them, and sums are near exact.
template <class Real>
std::vector<Real> matrix(Random& random, int64_t rows, int64_t columns) {
  std::vector<Real> values(rows * columns);
  for (int64_t i = 0; i < rows * columns; ++i) {
    values[i] = static_cast<Real>(i % columns == (i / columns) % columns ? 127 : std::floor(random(-16, 16))) / 128;
  }
  return values;
}

// A row as the products of a layer of T see it: quantized, or as it is.
template <class T>
std::vector<double> factors(const double* row, int64_t size) {
  std::vector<double> seen(row, row + size);
  if constexpr (kQuantized<T>) {
    float largest = 0;
    for (const double v : seen) largest = std::max(largest, std::abs(static_cast<float>(v)));
    const float inverse = largest > 0 ? 127 / largest : 0;
    for (double& v : seen) v = double(largest / 127) * std::nearbyint(static_cast<float>(v) * inverse);
  }
  return seen;
}

void take(StepLayer& layer, const void* x, int64_t x_stride, int64_t count, int parts) {
  for (int part = 0; part < parts; ++part) layer.take(x, x_stride, count, part, parts);
}

template <class Cell, class T>
void check_layer(int64_t batch, int64_t input_size, int64_t hidden_size, int64_t output_size, bool bias, int parts) {
  using Real = RealOf<T>;
  constexpr int kGates = Cell::kGates, kRecurrent = recurrent_gates<Cell>(), kWeights = Cell::kUnitWeights;
  constexpr int64_t kSteps = 3;
  Random random(5);
  const bool projected = output_size != hidden_size;
  const auto w_ih = matrix<Real>(random, kGates * hidden_size, input_size);
  const auto w_hh = matrix<Real>(random, kRecurrent * hidden_size, output_size);
  const auto w_hr = matrix<Real>(random, projected ? output_size : 0, hidden_size);
  const auto b_ih = numbers<Real>(random, bias ? kGates * hidden_size : 0, -1, 1);
  const auto b_hh = numbers<Real>(random, bias ? kRecurrent * hidden_size : 0, -1, 1);
  const auto unit_weights = numbers<Real>(random, kWeights * hidden_size, 0.1, 1);
  const auto x = numbers<Real>(random, kSteps * batch * input_size, -1, 1);
  const auto given = [](const std::vector<Real>& values) { return values.empty() ? nullptr : values.data(); };
  const StepProblem problem{.cell = spec_of<Cell>(0),
                            .type = sizeof(Real) == 8 ? DataType::kFloat64 : DataType::kFloat32,
                            .storage = StepStorage::kExact,
                            .rounds_factors = false,
                            .threads = parts,
                            .batch = batch,
                            .input_size = input_size,
                            .hidden_size = hidden_size,
                            .output_size = output_size,
                            .projected = projected};
  PackedStep<Cell, T> layer(problem,
                            {given(w_ih), given(w_hh), given(b_ih), given(b_hh), given(w_hr), given(unit_weights)});
  std::vector<double> h(batch * output_size), c(batch * hidden_size);
  const int64_t ahead = std::min<int64_t>(steps_ahead(batch), hidden_size % 2 == 0 ? 4 : 2);
  for (int64_t step = 0; step < kSteps; ++step) {
    const Real* x_now = x.data() + step * batch * input_size;
    if (step % ahead == 0) take(layer, x_now, input_size, std::min(ahead, kSteps - step), parts);
    for (int part = 0; part < parts; ++part) layer.update(step, step % ahead, part, parts);
    for (int part = 0; part < parts; ++part) layer.project(step, part, parts);
    check(layer.h(step + 1) != nullptr, "there is an h");
    if (!kJudgesValues) continue;
    std::vector<double> next(batch * output_size);
    for (int64_t row = 0; row < batch; ++row) {
      std::vector<double> hidden(hidden_size);
      const std::vector<double> x_row(x_now + row * input_size, x_now + (row + 1) * input_size);
      const auto x_seen = factors<T>(x_row.data(), input_size), h_seen = factors<T>(&h[row * output_size], output_size);
      for (int64_t u = 0; u < hidden_size; ++u) {
        Pack<double, kGates> from_x{}, from_h{};
        for (int g = 0; g < kGates; ++g) {
          const int64_t at = g * hidden_size + u;
          from_x[g] = bias ? b_ih[at] : 0.0;
          for (int64_t i = 0; i < input_size; ++i) {
            from_x[g] += double(w_ih[at * input_size + i]) * x_seen[i];
          }
          if (g >= kRecurrent) continue;
          from_h[g] = bias ? b_hh[at] : 0.0;
          for (int64_t p = 0; p < output_size; ++p) from_h[g] += w_hh[at * output_size + p] * h_seen[p];
        }
        Pack<double, Cell::kStates> state{};
        if (!projected) state[0] = h[row * output_size + u];
        if (Cell::kStates == 2) state[Cell::kStates - 1] = c[row * hidden_size + u];
        Pack<double, kWeights> weights{};
        for (int k = 0; k < kWeights; ++k) weights[k] = unit_weights[k * hidden_size + u];
        const auto result = cell_forward<Cell, double>(from_x, from_h, state, weights);
        hidden[u] = result.state[0];
        if (Cell::kStates == 2) c[row * hidden_size + u] = result.state[Cell::kStates - 1];
      }
      const auto hidden_seen = factors<T>(hidden.data(), hidden_size);
      for (int64_t p = 0; p < output_size; ++p) {
        double& to = next[row * output_size + p];
        if (!projected) to = hidden[p];
        for (int64_t u = 0; projected && u < hidden_size; ++u) to += w_hr[p * hidden_size + u] * hidden_seen[u];
      }
    }
    h = next;
    const Real* made = static_cast<const Real*>(layer.h(step + 1));
    const std::string name = std::string(Cell::kName) + " batch " + std::to_string(batch) + " hidden " +
                             std::to_string(hidden_size) + " step " + std::to_string(step);
    for (int64_t row = 0; row < batch; ++row) {
      for (int64_t p = 0; p < output_size; ++p) {
        check_near(made[row * layer.h_stride() + p], h[row * output_size + p], sizeof(Real) == 8 ? 1e-14 : 4e-6, name);
      }
    }
  }
}

template <class Cell, class T>
void check_sizes() {
  for (const int64_t batch : {1, 2, 9}) {
    for (const int64_t hidden_size : {1, 5, 16, 37}) {
      for (const int parts : {1, 3}) {
        check_layer<Cell, T>(batch, 3, hidden_size, hidden_size, true, parts);
        if (spec_of<Cell>(0).projectable && hidden_size > 1)
          check_layer<Cell, T>(batch, 70, hidden_size, 4, false, parts);
      }
    }
  }
}

// Of heads: each has the bits of a layer of its own, and a NaN of one stays there.
template <class Cell, class T>
void check_heads(int64_t heads, int64_t batch, int64_t size, int parts) {
  using Real = RealOf<T>;
  constexpr int64_t kInputs = 3, kRows = Cell::kGates, kRecurrent = recurrent_gates<Cell>(), kSteps = 3;
  Random random(5);
  const int64_t units = heads * size;
  const auto w_ih = matrix<Real>(random, kRows * units, kInputs), w_hh = matrix<Real>(random, kRecurrent * units, size);
  const auto b_ih = numbers<Real>(random, kRows * units, -1, 1),
             b_hh = numbers<Real>(random, kRecurrent * units, -1, 1);
  const auto weights = numbers<Real>(random, Cell::kUnitWeights * units, 0.1, 1);
  const auto x = numbers<Real>(random, kSteps * batch * kInputs, -1, 1);
  StepProblem problem{.cell = spec_of<Cell>(0),
                      .type = sizeof(Real) == 8 ? DataType::kFloat64 : DataType::kFloat32,
                      .storage = StepStorage::kExact,
                      .rounds_factors = false,
                      .threads = parts,
                      .batch = batch,
                      .input_size = kInputs,
                      .hidden_size = units,
                      .output_size = units,
                      .projected = false,
                      .heads = heads};
  const auto made = [&](int64_t head) {
    const auto from = [&](const std::vector<Real>& all, int64_t of_unit) { return all.data() + head * size * of_unit; };
    const StepParameters given{from(w_ih, kRows * kInputs),
                               from(w_hh, kRecurrent * size),
                               from(b_ih, kRows),
                               from(b_hh, kRecurrent),
                               nullptr,
                               from(weights, Cell::kUnitWeights)};
    return std::make_unique<PackedStep<Cell, T>>(problem, given);
  };
  std::vector<std::unique_ptr<StepLayer>> layers;
  layers.push_back(made(0));
  problem.hidden_size = problem.output_size = size, problem.heads = 1;
  for (int64_t head = 0; head < heads; ++head) layers.push_back(made(head));
  const int64_t ahead = std::min(steps_ahead(batch), kSteps);  // all, or one
  for (const size_t layer : {0, 1}) *static_cast<Real*>(layers[layer]->h(0)) = static_cast<Real>(NAN);
  for (int64_t step = 0; step < kSteps; ++step) {
    for (const auto& layer : layers) {
      if (step % ahead == 0) take(*layer, x.data() + step * batch * kInputs, kInputs, ahead, parts);
      for (int part = 0; part < parts; ++part) layer->update(step, step % ahead, part, parts);
    }
  }
  const auto same = [&](const void* all, int64_t all_stride, const void* own, int64_t stride, int64_t head) {
    for (int64_t i = 0; i < batch * size; ++i) {
      const Real a = static_cast<const Real*>(all)[i / size * all_stride + head * size + i % size];
      const Real b = static_cast<const Real*>(own)[i / size * stride + i % size];
      check(a == b || (std::isnan(a) && std::isnan(b) && head == 0 && i < size), Cell::kName + std::to_string(head));
    }
  };
  for (int64_t head = 0; head < heads; ++head) {
    StepLayer &all = *layers[0], &own = *layers[head + 1];
    same(all.h(kSteps), all.h_stride(), own.h(kSteps), own.h_stride(), head);
    for (int k = 0; k < kCellStates<Cell>; ++k) same(all.c(k), all.c_stride(), own.c(k), own.c_stride(), head);
  }
  check(layers[0]->weight_bytes() == heads * layers[1]->weight_bytes(), "nothing between heads is kept");
}

template <class Cell, class T>
void check_head_sizes() {
  for (const int64_t heads : {1, 2, 4}) {
    for (const int64_t size : {1, 5, 16, 37}) {
      for (const int64_t batch : {1, 9})
        check_heads<Cell, T>(heads, batch, size, static_cast<int>(heads + batch) % 3 + 1);
    }
  }
}

void heads_are_layers_of_their_own() {
  check_head_sizes<PeepholeLstmCell, double>();
  if constexpr (kEveryType) check_head_sizes<LstmCell, float>(), check_head_sizes<GruCell, double>();
  check_head_sizes<PartlyRecurrentCell, float>();
  check_head_sizes<WeightedDiagonalCell, float>();
  check_head_sizes<LstmCell, QuantizedFloat>();
  check_head_sizes<GruCell, HalfKeptFloat>();
}

void layers_make_the_steps_of_their_cell() {
  check_sizes<PeepholeLstmCell, double>();
  if constexpr (kEveryType) check_sizes<LstmCell, float>(), check_sizes<GruCell, double>();
  check_sizes<PartlyRecurrentCell, float>();
  check_sizes<WeightedDiagonalCell, float>();
}

void layers_take_weights_of_less_memory() {
  check_sizes<LstmCell, QuantizedFloat>();
  check_sizes<GruCell, HalfKeptFloat>();
}

}  // namespace

int main() {
  return test::run({
      {"layers make the steps of their cell", layers_make_the_steps_of_their_cell},
      {"layers take weights of less memory", layers_take_weights_of_less_memory},
      {"heads are layers of their own", heads_are_layers_of_their_own},
  });
}
