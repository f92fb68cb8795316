// Tests products of int8: rows as they are quantized, sums that are exact, buffers of their exact size.
#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/gemm/packed_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "core/visit.h"
#include "cpu/runtime/processor.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

std::vector<float> numbers(Random& random, int64_t count, double range) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random(-range, range));
  return values;
}

float scale_behind(const std::vector<Int8>& row, int64_t size) {
  float scale;
  std::memcpy(&scale, row.data() + (size + 3) / 4 * 4, sizeof(scale));
  return scale;
}

template <class W>
std::vector<Int8> quantized(const std::vector<float>& values) {
  const auto size = static_cast<int64_t>(values.size());
  std::vector<Int8> row(quantized_stride(size));
  quantize_row<W>(values.data(), size, row.data());
  return row;
}

int stored(Int8 value, uint32_t offset) {
  return static_cast<int>(static_cast<uint8_t>(value.value) ^ offset) << 24 >> 24;
}

template <class W>
void rows_are_rounded_to_their_own_scale() {
  Random random(3);
  for (const int64_t size : {1, 3, 4, 15, 16, 17, 64, 65, 130}) {
    for (const double range : {1e-6, 1.0, 3e4}) {
      const std::vector<float> values = numbers(random, size, range);
      const std::vector<Int8> row = quantized<W>(values);
      float largest = 0;
      for (const float v : values) largest = std::max(largest, std::abs(v));
      check(scale_behind(row, size) == largest / 127, "the scale of size " + std::to_string(size));
      for (int64_t k = 0; k < (size + 3) / 4 * 4; ++k) {
        const double expected = k < size ? std::nearbyint(values[k] * (127 / largest)) : 0;
        check(stored(row[k], Terms<W>::kOffset) == expected, "value " + std::to_string(k));
      }
    }
  }
}

template <class W>
void zeros_have_no_scale_and_nan_spoils_its_row() {
  std::vector<float> values(21, 0.0f);
  check(scale_behind(quantized<W>(values), 21) == 0, "zeros have the scale 0");
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    values = std::vector<float>(21, 0.5f);
    values[20] = bad;
    check(!std::isfinite(scale_behind(quantized<W>(values), 21)), "what is not finite shows in the scale");
  }
}

// Weights of one matrix, with the largest sums that there can be in its first row.
template <int Groups, class T>
void check_product(int64_t units, int64_t columns, int64_t rows, bool biased) {
  using W = WeightOf<T>;
  Random random(7);
  const int64_t outputs = Groups * units;
  std::vector<Int8> weights(outputs * columns);
  for (int64_t i = 0; i < outputs * columns; ++i) {
    weights[i].value = static_cast<int8_t>(i < columns ? -127 : std::floor(random(-127, 128)));
  }
  const std::vector<float> scales = numbers(random, outputs, 0.01), bias = numbers(random, biased ? outputs : 0, 1);
  const auto view = [](const void* data, int64_t stride) { return WeightView{data, 0, stride, 1}; };
  const WeightView w = view(weights.data(), columns), b = view(biased ? bias.data() : nullptr, 1);
  const WeightView s = view(scales.data(), 1);
  Arena counter(nullptr);
  const typename PackedMatrix<Groups, T>::Given given{w, b, s, 1, units, columns, false};
  PackedMatrix<Groups, T>(given, counter);
  std::vector<char> memory(counter.used() + Arena::kAlignment);
  void* base = memory.data() + (-reinterpret_cast<uintptr_t>(memory.data()) & (Arena::kAlignment - 1));
  Arena arena(base);
  const PackedMatrix<Groups, T> matrix(given, arena);
  for (int64_t block = 0; block < matrix.blocks(); ++block) matrix.pack(0, block);

  std::vector<float> x = numbers(random, rows * columns, 1);
  std::fill_n(x.begin(), columns, 0.7f);
  const int64_t stride = quantized_stride(columns);
  std::vector<Int8> factors(rows * stride);
  for (int64_t row = 0; row < rows; ++row) quantize_row<W>(&x[row * columns], columns, &factors[row * stride]);
  std::vector<float> found(rows * outputs);
  using Units = typename PackedMatrix<Groups, T>::Units;
  constexpr int kLanes = Vec<float>::kLanes;
  for_each_tile<Units::kColumns>(
      matrix.times(0, {factors.data(), stride}, columns), {0, rows}, {0, matrix.blocks()},
      [](const auto& /*tile*/) { return true; },
      [&](const auto& tile) {
        for (int r = 0; r < tile.rows; ++r) {
          for (int64_t column = 0; column < tile.blocks * Units::kColumns; ++column) {
            for (int lane = 0; lane < kLanes; ++lane) {
              const int64_t unit = (tile.block * Units::kVectors + column / Groups) * kLanes + lane;
              if (unit >= units) continue;
              found[(tile.row + r) * outputs + column % Groups * units + unit] = tile.at(r, column)[lane];
            }
          }
        }
      });
  for (int64_t row = 0; row < rows; ++row) {
    const float of_row = scale_behind({&factors[row * stride], &factors[row * stride] + stride}, columns);
    for (int64_t output = 0; output < outputs; ++output) {
      int64_t sum = 0;
      for (int64_t k = 0; k < columns; ++k) {
        sum += weights[output * columns + k].value * stored(factors[row * stride + k], Terms<W>::kOffset);
      }
      // float's roundings of the sum, of the scales' product and of the result.
      const double expected = (biased ? bias[output] : 0) + double(sum) * double(scales[output]) * double(of_row);
      check_near(found[row * outputs + output], expected, 4e-7 * (1 + std::abs(expected)), std::to_string(columns));
    }
  }
}

template <class T>
void sums_are_exact() {
  for (const int64_t columns : {1, 2, 5, 16, 63, 300}) {
    for (const int64_t rows : {1, 2, 7}) check_product<4, T>(37, columns, rows, rows % 2 == 1);
    check_product<1, T>(70, columns, 3, true);
  }
  check_product<1, T>(3, 65536, 1, false);
}

// Both kinds of product, where the processor has them.
template <class Check>
void for_each_type(const Check& check_type) {
  check_type(Tag<QuantizedFloat>{});
#if defined(FUSED_RNN_INT8_DOT)
  if (has_int8_dot(FUSED_RNN_VECTOR_BYTES)) check_type(Tag<DotQuantizedFloat>{});
#endif
}

}  // namespace

int main() {
  return test::run({
      {"rows are rounded to their own scale",
       [] {
         for_each_type([](auto tag) { rows_are_rounded_to_their_own_scale<WeightOf<typename decltype(tag)::type>>(); });
       }},
      {"zeros have no scale and nan spoils its row",
       [] {
         for_each_type(
             [](auto tag) { zeros_have_no_scale_and_nan_spoils_its_row<WeightOf<typename decltype(tag)::type>>(); });
       }},
      {"sums are exact", [] { for_each_type([](auto tag) { sums_are_exact<typename decltype(tag)::type>(); }); }},
  });
}
