// Tests the product of matrices, on buffers of their exact size, against plain loops.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/gemm/matrix_product.h"

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/runtime/processor.h"
#include "numbers.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

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
// side. Half types get all results rounded, or leave the sums; what is not needed on the way is not there. Listed
// indices are two of three, with rows of B that lie anywhere, some zero, and rows of A that are said to be zeros.
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
      {"products of matrices are right whatever their order", products_of_matrices_are_right_whatever_their_order},
      {"products of a matrix with several are right", products_of_a_matrix_with_several_are_right},
      {"products of half types are right", products_of_half_types_are_right},
  });
}
