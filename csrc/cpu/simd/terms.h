// How weights and rows meet in a product: in which types they lie, and what one multiplication takes of each sum.
//
// Usually one term. AVX-512 BF16 has an instruction that multiplies two pairs of bfloat16 and adds both products to a
// float32 sum, as fast as another multiplies and adds one: the weights, the rows and their products are exactly those
// of the same numbers in float32.
#pragma once

#include "cpu/simd/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Weights of type W, which may take less memory than the Real that they are computed in.
template <class W>
struct Terms {
  using Real = RealOf<W>;
  using Row = Real;
  using V = Vec<Real>;
  static constexpr int kCount = 1;

  FUSED_RNN_INLINE static V weight(const W* from) { return Storage<W>::load(from); }
  FUSED_RNN_INLINE static V value(const Row* from) { return V(*from); }
  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    return V(fused_rnn::multiply_add(weight.parts[0], value.parts[0], sum.parts[0]));
  }
  FUSED_RNN_INLINE static void pack(const V (&terms)[kCount], W* to) { Storage<W>::store(to, terms[0]); }
};

// Two neighbouring terms of a sum.
struct BFloat16Pair {
  BFloat16 terms[2];
};

// The numbers of BFloat16, which the products of a layer take in pairs.
struct PairedBFloat16 : BFloat16 {};

// Those of float, which products round to bfloat16 and take in pairs.
struct PairedFloat {
  float value;
};

template <>
struct Storage<PairedFloat> {
  using Real = float;
  FUSED_RNN_INLINE static Vec<float> load(const PairedFloat* from) { return Vec<float>::load(&from->value); }
  FUSED_RNN_INLINE static void store(PairedFloat* to, Vec<float> x) { x.store(&to->value); }
};

#if defined(__AVX512F__)
// Only for processors with AVX-512 BF16, which the caller has to ask for: the unit is compiled for all with AVX-512.
// The instructions take denormal numbers, those below 1.2e-38, for zeros.
template <>
struct Storage<PairedBFloat16> : Storage<BFloat16> {
  FUSED_RNN_INLINE static void store(PairedBFloat16* to, Vec<float> x) {
    const UInt16HalfLanes raw = rounded(x);
    std::memcpy(to, &raw, sizeof(raw));
  }
  FUSED_RNN_INLINE static UInt16HalfLanes rounded(Vec<float> x) {
    UInt16HalfLanes raw;
    asm("vcvtneps2bf16 %1, %0" : "=v"(raw) : "v"(x.parts[0]));
    return raw;
  }
};

template <>
struct Terms<BFloat16Pair> {
  using Real = float;
  using Row = PairedBFloat16;
  using V = Vec<float>;  // of which each lane holds a pair
  static constexpr int kCount = 2;

  FUSED_RNN_INLINE static V weight(const BFloat16Pair* from) { return load_bits(from); }
  FUSED_RNN_INLINE static V value(const Row* from) {
    uint32_t pair;
    std::memcpy(&pair, from, sizeof(pair));
    return float_of(pair - UInt32Lanes{});
  }
  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.parts[0]) : "v"(weight.parts[0]), "v"(value.parts[0]));
    return sum;
  }
  FUSED_RNN_INLINE static void pack(const V (&terms)[kCount], BFloat16Pair* to) {
    const auto bits = [](V x) FUSED_RNN_INLINE_LAMBDA {
      return __builtin_convertvector(Storage<PairedBFloat16>::rounded(x), UInt32Lanes);
    };
    const UInt32Lanes pairs = bits(terms[0]) | (bits(terms[1]) << 16);
    std::memcpy(to, &pairs, sizeof(pairs));
  }

 private:
  FUSED_RNN_INLINE static V load_bits(const void* from) {
    UInt32Lanes bits;
    std::memcpy(&bits, from, sizeof(bits));
    return float_of(bits);
  }
};
#endif

// How many it takes for so many terms; the last is filled up with zeros.
template <class W>
constexpr int64_t multiplications(int64_t terms) {
  return (terms + Terms<W>::kCount - 1) / Terms<W>::kCount;
}

// The packed weights of a layer of T.
template <class T>
struct Packed {
  using Weight = RealOf<T>;
};
template <>
struct Packed<PairedBFloat16> {
  using Weight = BFloat16Pair;
};
template <>
struct Packed<PairedFloat> {
  using Weight = BFloat16Pair;
};
template <class T>
using WeightOf = typename Packed<T>::Weight;
template <class T>
using RowOf = typename Terms<WeightOf<T>>::Row;

// Whether what a product reads of numbers of T is less than these.
template <class T>
inline constexpr bool kRoundsFactors = sizeof(RowOf<T>) < sizeof(T);

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
