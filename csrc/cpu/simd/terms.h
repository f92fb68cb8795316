// How weights and rows meet in a GEMM: in which types they lie, and what one multiplication takes of each sum.
//
// Usually one term. AVX-512 BF16 and FEAT_BF16 of AArch64 have an instruction that multiplies two pairs of bfloat16 and
// adds both products to a float32 sum, as fast as another multiplies and adds one: the weights, the rows and their
// products are exactly those of the same numbers in float32. AVX-512 VNNI and FEAT_DotProd have one for four pairs of
// int8 and an int32 sum. Such sums are exact, and scaled in the end (kScaled).
#pragma once

#include "cpu/simd/dot.h"
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
  static constexpr bool kScaled = false;

  FUSED_RNN_INLINE static V weight(const W* from) { return Storage<W>::load(from); }
  FUSED_RNN_INLINE static V value(const Row* from) { return V(*from); }
  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    return V(fused_rnn::multiply_add(weight.parts[0], value.parts[0], sum.parts[0]));
  }
  FUSED_RNN_INLINE static void pack(const V (&terms)[kCount], W* to) { Storage<W>::store(to, terms[0]); }
};

// The bits of a vector at any address; the same 32 bits in all lanes.
FUSED_RNN_INLINE Vec<float> bits_at(const void* from) {
  UInt32Lanes bits;
  std::memcpy(&bits, from, sizeof(bits));
  return float_of(bits);
}
FUSED_RNN_INLINE Vec<float> repeated(const void* from) {
  uint32_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return float_of(bits - UInt32Lanes{});
}

// Two neighbouring terms of a sum.
struct BFloat16Pair {
  BFloat16 terms[2];
};

// The numbers of BFloat16, which the GEMMs of a layer take in pairs.
struct PairedBFloat16 : BFloat16 {};

// Those of float, which GEMMs quantize to int8, with weights that are given as int8.
struct QuantizedFloat {
  float value;
};
struct DotQuantizedFloat : QuantizedFloat {};  // on processors with instructions for int8

// Those of float, whose matrices are kept as bfloat16.
struct HalfKeptFloat {
  float value;
};

// Those of float, which GEMMs round to bfloat16 and take in pairs.
struct PairedFloat {
  float value;
};

// They lie as floats.
template <class T>
struct FloatStorage {
  using Real = float;
  FUSED_RNN_INLINE static Vec<float> load(const T* from) { return Vec<float>::load(&from->value); }
  FUSED_RNN_INLINE static void store(T* to, Vec<float> x) { x.store(&to->value); }
};
template <>
struct Storage<HalfKeptFloat> : FloatStorage<HalfKeptFloat> {};
template <>
struct Storage<PairedFloat> : FloatStorage<PairedFloat> {};
template <>
struct Storage<QuantizedFloat> : FloatStorage<QuantizedFloat> {};
template <>
struct Storage<DotQuantizedFloat> : FloatStorage<DotQuantizedFloat> {};

#if defined(FUSED_RNN_BFLOAT16_DOT)
// Only for processors with the instructions for bfloat16.
template <>
struct Storage<PairedBFloat16> : Storage<BFloat16> {
  FUSED_RNN_INLINE static void store(PairedBFloat16* to, Vec<float> x) {
    const UInt16HalfLanes raw = rounded_to_bfloat16(x.parts[0]);
    std::memcpy(to, &raw, sizeof(raw));
  }
};

template <>
struct Terms<BFloat16Pair> {
  using Real = float;
  using Row = PairedBFloat16;
  using V = Vec<float>;  // of which each lane holds a pair
  static constexpr int kCount = 2;
  static constexpr bool kScaled = false;

  FUSED_RNN_INLINE static V weight(const BFloat16Pair* from) { return bits_at(from); }
  FUSED_RNN_INLINE static V value(const Row* from) { return repeated(from); }
  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    return V(add_bfloat16_products(weight.parts[0], value.parts[0], sum.parts[0]));
  }
  FUSED_RNN_INLINE static void pack(const V (&terms)[kCount], BFloat16Pair* to) {
    const auto bits = [](V x) FUSED_RNN_INLINE_LAMBDA {
      return __builtin_convertvector(rounded_to_bfloat16(x.parts[0]), UInt32Lanes);
    };
    const UInt32Lanes pairs = bits(terms[0]) | (bits(terms[1]) << 16);
    std::memcpy(to, &pairs, sizeof(pairs));
  }
};
#endif

// Four neighbouring terms of a sum, in int8; what multiplies them depends on the processor. The second is for those
// with an instruction, which the caller has to ask for.
struct Int8Quad {
  int8_t terms[4];
};
struct Int8DotQuad : Int8Quad {};

// A row of factors that are quantized, which has its scale behind it (gemm/factor_rows.h). Bits of sums are handed
// about as vectors of floats, as all operands are.
template <class Quad>
struct QuadTerms {
  using Real = float;
  using Row = Int8;
  using V = Vec<float>;
  static constexpr int kCount = 4;
  static constexpr bool kScaled = true;

  FUSED_RNN_INLINE static V weight(const Quad* from) { return bits_at(from); }
  FUSED_RNN_INLINE static V value(const Row* from) { return repeated(from); }
  FUSED_RNN_INLINE static void pack(const V (&terms)[kCount], Quad* to) {
    UInt32Lanes quads{};
    for (int i = 0; i < kCount; ++i) {
      quads |= (UInt32Lanes(__builtin_convertvector(terms[i].parts[0], Int32Lanes)) & 0xFFu) << (8 * i);
    }
    std::memcpy(to, &quads, sizeof(quads));
  }
  // bias + sum * scales.
  FUSED_RNN_INLINE static V scaled(V sum, V scales, V bias) {
    return V(fused_rnn::multiply_add(__builtin_convertvector(Int32Lanes(bits_of(sum)), FloatLanes), scales.parts[0],
                                     bias.parts[0]));
  }
  FUSED_RNN_INLINE static V negative(V sum) { return float_of(UInt32Lanes(-Int32Lanes(bits_of(sum)))); }
  // The low byte of each lane.
  FUSED_RNN_INLINE static void store_low_bytes(Row* to, UInt32Lanes bits) {
    const UInt8QuarterLanes bytes = __builtin_convertvector(bits & 0xFFu, UInt8QuarterLanes);
    std::memcpy(static_cast<void*>(to), &bytes, sizeof(bytes));
  }
};

// By products of int16, which any processor has.
template <>
struct Terms<Int8Quad> : QuadTerms<Int8Quad> {
  static constexpr uint32_t kOffset = 0;  // of stored factors

  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
#if defined(__x86_64__)
    const Int16Lanes w = Int16Lanes(bits_of(weight)), v = Int16Lanes(bits_of(value));
    const Int32Lanes even = multiply_pairs((w << 8) >> 8, (v << 8) >> 8), odd = multiply_pairs(w >> 8, v >> 8);
    return float_of(UInt32Lanes(Int32Lanes(bits_of(sum)) + even + odd));
#else
    const Int32Lanes w = Int32Lanes(bits_of(weight)), v = Int32Lanes(bits_of(value));
    return float_of(UInt32Lanes(add_int8_products(w, v, Int32Lanes(bits_of(sum)))));
#endif
  }

#if defined(__x86_64__)
 private:
  // Sums of two neighbouring products.
  FUSED_RNN_INLINE static Int32Lanes multiply_pairs(Int16Lanes a, Int16Lanes b) {
#if defined(__AVX512F__)
    return Int32Lanes(_mm512_madd_epi16(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
    return Int32Lanes(_mm256_madd_epi16(__m256i(a), __m256i(b)));
#else
    return Int32Lanes(_mm_madd_epi16(__m128i(a), __m128i(b)));
#endif
  }
#endif
};

#if defined(FUSED_RNN_INT8_DOT)
// Where the instruction takes factors with an offset, sums begin with its product with the weights, negative (a
// correction for each column).
template <>
struct Terms<Int8DotQuad> : QuadTerms<Int8DotQuad> {
  static constexpr uint32_t kOffset = kDotOffset;

  FUSED_RNN_INLINE static V multiply_add(V weight, V value, V sum) {
    return V(dot_int8_products(weight.parts[0], value.parts[0], sum.parts[0]));
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
struct Packed<HalfKeptFloat> {
  using Weight = BFloat16;
};
template <>
struct Packed<PairedFloat> {
  using Weight = BFloat16Pair;
};
template <>
struct Packed<QuantizedFloat> {
  using Weight = Int8Quad;
};
template <>
struct Packed<DotQuantizedFloat> {
  using Weight = Int8DotQuad;
};
template <class T>
using WeightOf = typename Packed<T>::Weight;
template <class T>
using RowOf = typename Terms<WeightOf<T>>::Row;

template <class T>
inline constexpr bool kQuantized = Terms<WeightOf<T>>::kScaled;

// The matrices that a layer of T is given.
template <class T>
using MatrixElement = std::conditional_t<kQuantized<T>, Int8, T>;

// What a schedule keeps of a vector that a GEMM will multiply: as the GEMM reads it, or whole where only a copy
// of all of a row can be quantized.
template <class T>
using StateOf = std::conditional_t<kQuantized<T>, RealOf<T>, RowOf<T>>;

// Whether that is less than the numbers of T.
template <class T>
inline constexpr bool kRoundsFactors = sizeof(StateOf<T>) < sizeof(T);

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
