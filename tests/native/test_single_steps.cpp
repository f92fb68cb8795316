// Tests the layers of a Stepper and the product of matrices, on buffers of their exact size, against plain loops.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/gemm/matrix_product.h"
#include "cpu/schedules/packed_step.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "cells/table.h"
#include "check.h"
#include "cpu/runtime/processor.h"
#include "linear_cells.h"

namespace fused_rnn {
StepLayer::~StepLayer() = default;  // as in stepper.cpp, which needs all units
}

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

// Under sanitizers, which compile several times as long, every cell and every storage of weights has one layer, and
// products have one plain and one half type.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kEveryType = false;
using OtherType = float;
#else
constexpr bool kEveryType = true;
using OtherType = double;
#endif

// Multiples of 1/128 whose largest in each row is 127/128: every storage type holds them, and sums are near exact.
template <class Real>
std::vector<Real> matrix(Random& random, int64_t rows, int64_t columns) {
  std::vector<Real> values(rows * columns);
  for (int64_t i = 0; i < rows * columns; ++i) {
    values[i] = static_cast<Real>(i % columns == (i / columns) % columns ? 127 : std::floor(random(-16, 16))) / 128;
  }
  return values;
}

template <class Real>
std::vector<Real> numbers(Random& random, int64_t count, double from, double to) {
  std::vector<Real> values(count);
  for (Real& value : values) value = static_cast<Real>(random(from, to));
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

// Numbers of a type that may be smaller than the one it is computed in.
template <class T>
std::vector<T> stored(const std::vector<RealOf<T>>& values) {
  std::vector<T> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) store<T>(&result[i], Vec<RealOf<T>>(values[i]), 1);
  return result;
}
template <class T>
double number(const T& stored) {
  return load<T>(&stored, 1).parts[0][0];
}

enum class Reduction { kAll, kListed };

// Products of one matrix with as many as there are numbers of columns, and the sums of its rows where they lie side by
// side. Half types get all results rounded, or leave the sums; what is not needed on the way is not there. Listed terms
// are two of three, with rows of B that lie anywhere, some zero, and rows of A that are said to be zeros.
template <class T>
// NOLINTNEXTLINE(readability-function-size): a problem and what is expected of it, side by side
void check_products(int64_t rows, const std::vector<int64_t>& columns, int64_t depth, bool a_by_columns,
                    bool b_by_columns, int threads, bool rounded = false, Reduction reduction = Reduction::kAll) {
  using Real = RealOf<T>;
  Random random(9);
  const bool listed = reduction == Reduction::kListed;
  const int64_t all = listed ? 3 * (depth / 2 + 1) : depth;  // columns of A
  const auto term = [&](int64_t k) { return listed ? k + k / 2 : k; };
  const auto is_zero = [&](int64_t row) { return listed && row % 5 == 2; };  // of B
  std::vector<int64_t> list(depth);
  for (int64_t k = 0; k < depth; ++k) list[k] = term(k);
  const auto draw = [&](int64_t count) { return stored<T>(numbers<Real>(random, count, -1, 1)); };
  auto a = draw(rows * all);
  const MatrixView a_view{a.data(), a_by_columns ? 1 : all, a_by_columns ? rows : 1};
  std::vector<uint8_t> nonzero(rows, 1);
  for (int64_t row = 0; row < rows && listed; ++row) {
    nonzero[row] = row / 8 % 2 == 0 && row % 3 != 1;
    for (int64_t k = 0; k < all && nonzero[row] == 0; ++k) a[row * a_view.row_stride + k * a_view.column_stride] = T{};
  }
  const bool biased = rows % 2 == 1, add = rows % 3 == 0;
  const bool parts = !rounded || add || depth > kPanelDepth;
  const Real before = add ? Real(1) : Real(NAN);
  std::vector<std::vector<T>> b, bias, whole;
  std::vector<std::vector<const void*>> b_rows(columns.size());
  std::vector<std::vector<Real>> c;
  std::vector<Real> sums(rows, before), sums_again(rows, before);
  std::vector<T> whole_sums(rows);
  MatrixProduct product{.rows = rows,
                        .depth = depth,
                        .a = a_view,
                        .indices = listed ? list.data() : nullptr,
                        .nonzero_rows = listed ? nonzero.data() : nullptr,
                        .factors = {},
                        .add_sums = add};
  for (const int64_t count : columns) {
    b.push_back(draw(all * count));
    bias.push_back(draw(count));
    c.emplace_back(rows * count, before);
    whole.emplace_back(rows * count);
  }
  for (size_t i = 0; i < columns.size(); ++i) {
    for (int64_t row = 0; row < all; ++row) {
      b_rows[i].push_back(is_zero(row) ? nullptr : b[i].data() + row * columns[i]);
    }
    product.factors.push_back({.columns = columns[i],
                               .b = {b[i].data(), b_by_columns ? 1 : columns[i], b_by_columns ? all : 1},
                               .b_rows = listed && i % 2 == 0 ? b_rows[i].data() : nullptr,
                               .bias = biased ? bias[i].data() : nullptr,
                               .c = parts ? c[i].data() : nullptr,
                               .add = add,
                               .rounded = rounded ? whole[i].data() : nullptr});
  }
  if (a_by_columns) {
    product.sums = {{parts ? sums.data() : nullptr, rounded ? whole_sums.data() : nullptr}};
    if (parts) product.sums.push_back({sums_again.data()});
  }
  Arena counter(nullptr);
  const MatrixMultiplier<T> counting(product, threads, counter);
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(Arena::kAlignment, counter.used())), std::free);
  Arena arena(memory.get());
  const MatrixMultiplier<T> multiplier(product, threads, arena);
  for (int thread = threads - 1; thread >= 0; --thread) multiplier.run(thread);
  test::check(counter.used() == arena.used(), "the workspace is the one asked for");
  if (!kJudgesValues) return;
  const std::string name = "product " + std::to_string(rows) + " x " + std::to_string(columns.size()) + " factors x " +
                           std::to_string(depth) + " on " + std::to_string(threads) + (rounded ? ", rounded" : "");
  const double tolerance = (sizeof(Real) == 8 ? 1e-15 : 1e-6) * double(depth + 1);
  const double half_ulp = !rounded ? 0 : std::is_same_v<T, Float16> ? 0x1p-11 : 0x1p-8;
  const auto check = [&](double actual, double expected, const std::string& what) {
    check_near(actual, expected, tolerance + half_ulp * std::abs(expected), what);
  };
  const auto a_at = [&](int64_t row, int64_t k) {
    return number(a[row * a_view.row_stride + k * a_view.column_stride]);
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < columns.size(); ++i) {
      for (int64_t column = 0; column < columns[i]; ++column) {
        double sum = (biased ? number(bias[i][column]) : 0.0) + (add ? 1.0 : 0.0);
        for (int64_t k = 0; k < depth; ++k) {
          if (is_zero(term(k)) && i % 2 == 0) continue;
          sum += a_at(row, term(k)) * number(b[i][b_by_columns ? column * all + k : term(k) * columns[i] + column]);
        }
        const int64_t at = row * columns[i] + column;
        check(rounded ? number(whole[i][at]) : double(c[i][at]), sum, name);
      }
    }
    if (!a_by_columns) continue;
    double sum = add ? 1.0 : 0.0;
    for (int64_t k = 0; k < depth; ++k) sum += a_at(row, term(k));
    check(rounded ? number(whole_sums[row]) : double(sums[row]), sum, name + ", sums");
    if (parts) check_near(sums_again[row], sum, tolerance, name + ", sums again");
  }
}

void products_of_matrices_are_right_whatever_their_order() {
  for (const bool a_by_columns : {false, true}) {
    for (const bool b_by_columns : {false, true}) {
      for (const int threads : {1, 2, 5}) {
        check_products<float>(1, {1}, 1, a_by_columns, b_by_columns, threads);
        check_products<float>(33, {17}, 3, a_by_columns, b_by_columns, threads);
        check_products<float>(7, {70}, 390, a_by_columns, b_by_columns, threads);
        check_products<float>(200, {9}, 65, a_by_columns, b_by_columns, threads);
        check_products<OtherType>(3, {1100}, 20, a_by_columns, b_by_columns, threads);
        check_products<OtherType>(6, {5}, 0, a_by_columns, b_by_columns, threads);
      }
    }
  }
}

template <class T>
void check_listed_products(bool a_by_columns, int threads, bool rounded) {
  const auto check = [&](int64_t rows, const std::vector<int64_t>& columns, int64_t depth) {
    check_products<T>(rows, columns, depth, a_by_columns, false, threads, rounded, Reduction::kListed);
  };
  check(1, {1}, 1);
  check(50, {40, 33}, 71);
  check(130, {20}, 1025);  // an odd number in each panel
  check(5, {9, 3}, 0);
}

void products_of_a_matrix_with_several_are_right() {
  for (const bool a_by_columns : {false, true}) {
    for (const int threads : {1, 2, 5}) {
      check_products<float>(150, {40, 33}, 70, a_by_columns, false, threads);
      check_products<float>(6, {5, 1040, 3}, 600, a_by_columns, true, threads);  // more than a panel
      check_products<OtherType>(3, {20, 31}, 0, a_by_columns, false, threads);
      check_products<OtherType>(260, {}, 530, a_by_columns, false, threads);  // the sums alone
      check_listed_products<float>(a_by_columns, threads, false);
      check_listed_products<OtherType>(a_by_columns, threads, false);
    }
  }
}

template <class T>
void check_half_products() {
  for (const bool rounded : {false, true}) {
    for (const bool a_by_columns : {false, true}) {
      for (const bool b_by_columns : {false, true}) {
        check_products<T>(1, {1}, 1, a_by_columns, b_by_columns, 1, rounded);
        check_products<T>(7, {70, 5}, 65, a_by_columns, b_by_columns, 2, rounded);
        check_products<T>(33, {17}, 8, a_by_columns, b_by_columns, 2, rounded);
        check_products<T>(130, {9}, 1025, a_by_columns, b_by_columns, 1, rounded);  // an odd number in each panel
        check_products<T>(6, {5}, 0, a_by_columns, b_by_columns, 2, rounded);
      }
      check_listed_products<T>(a_by_columns, 2, rounded);
    }
  }
}
void products_of_half_types_are_right() {
  check_half_products<BFloat16>();
  if constexpr (kEveryType) check_half_products<Float16>();
#if defined(FUSED_RNN_BFLOAT16_DOT)
  if (has_bfloat16_dot()) check_half_products<PairedBFloat16>();
#endif
}

}  // namespace

int main() {
  return test::run({
      {"layers make the steps of their cell", layers_make_the_steps_of_their_cell},
      {"layers take weights of less memory", layers_take_weights_of_less_memory},
      {"products of matrices are right whatever their order", products_of_matrices_are_right_whatever_their_order},
      {"products of a matrix with several are right", products_of_a_matrix_with_several_are_right},
      {"products of half types are right", products_of_half_types_are_right},
  });
}
