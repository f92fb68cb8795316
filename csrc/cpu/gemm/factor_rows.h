// The rows that a product multiplies: where they lie if it takes them as they are, else quantized copies.
//
// A quantized row has int8 values q, filled up with zeros to whole multiplications, and behind them its scale:
//   scale = max |v| / 127     q = v / scale, rounded to nearest (even)
// So an infinite value or NaN makes a NaN of whatever the row is multiplied with.
#pragma once

#include "core/range.h"
#include "cpu/runtime/arena.h"
#include "cpu/simd/storage.h"
#include "cpu/simd/terms.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Bytes from one quantized row to the next.
inline int64_t quantized_stride(int64_t size) {
  constexpr int64_t kLine = 64;
  return (size + Vec<float>::kLanes + static_cast<int64_t>(sizeof(float)) + kLine - 1) / kLine * kLine;
}

// Quantizes a row for weights of W.
template <class W>
void quantize_row(const float* from, int64_t size, Int8* to) {
  using V = Vec<float>;
  constexpr int kLanes = V::kLanes;
  // Bits of floats without a sign are ordered as their numbers are, with NaN above infinity.
  Int32Lanes most{};
  for (int64_t k = 0; k < size; k += kLanes) {
    visit_lanes<float>(size - k, [&](auto lanes) FUSED_RNN_INLINE_LAMBDA {
      const Int32Lanes bits = Int32Lanes(bits_of(load<float>(from + k, lanes)) & 0x7FFFFFFFu);
      most = bits > most ? bits : most;
    });
  }
  int32_t largest_bits = 0;
  for (int i = 0; i < kLanes; ++i) largest_bits = most[i] > largest_bits ? most[i] : largest_bits;
  float largest;
  std::memcpy(&largest, &largest_bits, sizeof(largest));
  const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
  constexpr float kRound = 12582912.0f;
  constexpr int64_t kTerms = Terms<W>::kCount;
  const int64_t filled = multiplications<W>(size) * kTerms;
  for (int64_t k = 0; k < filled; k += kLanes) {
    V value(0);
    visit_lanes<float>(size - k, [&](auto lanes) { value = load<float>(from + k, lanes); });
    Terms<W>::store_factors(to + k, bits_of(value * V(inverse) + V(kRound)));
  }
  std::memcpy(to + filled, &scale, sizeof(scale));
}

// Rows as a product takes them.
template <class Row>
struct Factors {
  const Row* data;  // of row 0 of the batch
  int64_t stride;
};

// The rows of a product that a schedule repeats each step. `State` is the type in which the schedule has them.
template <class T>
class FactorRows {
  using W = WeightOf<T>;

 public:
  FactorRows(int64_t rows, int64_t size, int threads, Arena& arena) : rows_(rows), size_(size) {
    if constexpr (!Terms<W>::kScaled) return;
    stride_ = quantized_stride(size);
    copies_ = arena.take<RowOf<T>>(threads * rows * stride_);
  }

  // Of some rows of the batch, for one thread; `from` are all.
  Factors<RowOf<T>> of(int thread, Range rows, const BatchRows<StateOf<T>>& from) const {
    if constexpr (Terms<W>::kScaled) {
      RowOf<T>* copies = copies_ + thread * rows_ * stride_;
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        quantize_row<W>(from.row(row), size_, copies + row * stride_);
      }
      return {copies, stride_};
    } else {
      return {from.data, from.stride};
    }
  }

 private:
  int64_t rows_, size_;
  int64_t stride_ = 0;
  RowOf<T>* copies_ = nullptr;  // [threads][rows][stride], where they are quantized
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
