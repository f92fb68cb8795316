// Products that take bfloat16 in pairs, for the instruction sets that have no instruction for it: what the layout of
// pairs asks of a schedule, the padding of the last one above all, can so be tested on every machine.
#pragma once

#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/simd/terms.h"

#if !defined(FUSED_RNN_BFLOAT16_DOT)
namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <>
struct Storage<PairedBFloat16> : Storage<BFloat16> {};

template <>
struct Terms<BFloat16Pair> {
  using Real = float;
  using Row = PairedBFloat16;
  using V = Vec<float>;  // of which each lane holds a pair
  static constexpr int kCount = 2;
  static constexpr bool kScaled = false;

  FUSED_RNN_INLINE static V weight(const BFloat16Pair* from) { return V::load(reinterpret_cast<const float*>(from)); }
  FUSED_RNN_INLINE static V value(const Row* from) {
    uint32_t pair;
    std::memcpy(&pair, from, sizeof(pair));
    return float_of(pair - UInt32Lanes{});
  }
  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    return sum + second(weight) * second(value) + first(weight) * first(value);
  }
  FUSED_RNN_INLINE static void pack(const V (&terms)[kCount], BFloat16Pair* to) {
    const UInt32Lanes pairs = (bits_of(terms[0]) >> 16) | (bits_of(terms[1]) & 0xFFFF0000u);
    std::memcpy(to, &pairs, sizeof(pairs));
  }

 private:
  FUSED_RNN_INLINE static V first(V pairs) { return float_of(bits_of(pairs) << 16); }
  FUSED_RNN_INLINE static V second(V pairs) { return float_of(bits_of(pairs) & 0xFFFF0000u); }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
#endif
