// The rows that a GEMM multiplies: where they lie if it takes them as they are, else rounded or quantized copies.
//
// A quantized row has int8 values q, filled up with zeros to whole multiplications, and behind them its scale:
//   scale = max |v| / 127     q = v (127 / max |v|), rounded to nearest (even)
// So an infinite value or NaN makes a NaN of whatever the row is multiplied with.
#pragma once

#include "core/range.h"
#include "cpu/runtime/arena.h"
#include "cpu/simd/storage.h"
#include "cpu/simd/terms.h"
#include "cpu/simd/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Bytes from one quantized row to the next.
inline int64_t quantized_stride(int64_t size) {
  constexpr int64_t kLine = 64;
  return (size + Vec<float>::kLanes + static_cast<int64_t>(sizeof(float)) + kLine - 1) / kLine * kLine;
}

// Quantizes a row for weights of W.
template <class W, class Element>
void quantize_row(const Element* from, int64_t size, Int8* to) {
  using V = Vec<float>;
  constexpr int kLanes = V::kLanes;
  // Bits of floats without a sign are ordered as their numbers are, with NaN above infinity.
  Int32Lanes most{};
  for (int64_t k = 0; k < size; k += kLanes) {
    visit_lanes<float>(size - k, [&](auto lanes) FUSED_RNN_INLINE_LAMBDA {
      const Int32Lanes bits = Int32Lanes(bits_of(load<Element>(from + k, lanes)) & 0x7FFFFFFFu);
      most = bits > most ? bits : most;
    });
  }
  int32_t largest_bits = 0;
  for (int i = 0; i < kLanes; ++i) largest_bits = most[i] > largest_bits ? most[i] : largest_bits;
  float largest;
  std::memcpy(&largest, &largest_bits, sizeof(largest));
  const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
  constexpr float kRound = MathConstants<float>::kRound;
  constexpr int64_t kTerms = Terms<W>::kCount;
  const int64_t filled = multiplications<W>(size) * kTerms;
  for (int64_t k = 0; k < filled; k += kLanes) {
    V value(0);
    visit_lanes<float>(size - k, [&](auto lanes) { value = load<Element>(from + k, lanes); });
    Terms<W>::store_low_bytes(to + k, bits_of(value * V(inverse) + V(kRound)) ^ Terms<W>::kOffset);
  }
  std::memcpy(to + filled, &scale, sizeof(scale));
}

// Elements from one row of factors of T to the next.
template <class T>
int64_t factor_stride(int64_t size) {
  constexpr int64_t kLanes = Vec<RealOf<T>>::kLanes;
  return kQuantized<T> ? quantized_stride(size) : (size + kLanes - 1) / kLanes * kLanes;
}

// Makes a row of factors of T, filled up with zeros to whole vectors where it is not quantized.
template <class T, class State>
void make_factors(const State* from, int64_t size, RowOf<T>* to) {
  using V = Vec<RealOf<T>>;
  if constexpr (kQuantized<T>) {
    quantize_row<WeightOf<T>>(from, size, to);
  } else {
    for (int64_t k = 0; k < size; k += V::kLanes) {
      visit_lanes<RealOf<T>>(size - k,
                             [&](auto lanes) { Storage<RowOf<T>>::store(to + k, load<State>(from + k, lanes)); });
    }
  }
}

// Rows to multiply.
template <class Row>
struct Factors {
  const Row* data;  // of row 0
  int64_t stride;
};

// The rows of the GEMMs that a schedule repeats each step, which it has as rows of State.
template <class T, class State = StateOf<T>>
class FactorRows {
  using Row = RowOf<T>;
  static constexpr bool kCopies = !std::is_same_v<State, Row>;

 public:
  FactorRows() = default;
  FactorRows(int64_t rows, int64_t longest, int threads, Arena& arena) : rows_(rows) {
    if constexpr (!kCopies) return;
    stride_ = factor_stride<T>(longest);
    copies_ = arena.take<Row>(threads * rows * stride_);
  }

  // Some of all rows, for one thread until it asks again.
  Factors<Row> of(int thread, Range rows, const Factors<State>& from, int64_t size) const {
    if constexpr (kCopies) {
      Row* copies = copies_ + thread * rows_ * stride_;
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        make_factors<T>(from.data + row * from.stride, size, copies + row * stride_);
      }
      return {copies, stride_};
    } else {
      return from;
    }
  }

 private:
  int64_t rows_ = 0, stride_ = 0;
  Row* copies_ = nullptr;  // [threads][rows][stride]
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
