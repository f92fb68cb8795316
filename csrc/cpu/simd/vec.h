// A thin SIMD vector over the compiler's vector extensions: as many lanes as the instruction set's registers hold.
//
// Everything in csrc/cpu that depends on the instruction set lives in the inline namespace FUSED_RNN_ISA, so that each
// unit under isa/ compiles its own copy with its own flags and no two copies ever share a symbol.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(FUSED_RNN_ISA) || !defined(FUSED_RNN_VECTOR_BYTES) || !defined(FUSED_RNN_VECTOR_REGISTERS)
#error "include this from a unit under cpu/isa, which names its instruction set"
#endif

// An update's values must stay in registers through all the small functions it is made of. A build that is not
// optimised, as those under sanitizers are, has none there, and compiles in half of the time without.
#if defined(__OPTIMIZE__)
#define FUSED_RNN_INLINE [[gnu::always_inline]] inline
#define FUSED_RNN_INLINE_LAMBDA __attribute__((always_inline))
#else
#define FUSED_RNN_INLINE inline
#define FUSED_RNN_INLINE_LAMBDA
#endif

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

inline constexpr int kVectorBytes = FUSED_RNN_VECTOR_BYTES;
inline constexpr int kVectorRegisters = FUSED_RNN_VECTOR_REGISTERS;

// GCC 12 ignores vector_size on a dependent type, so the vector types are spelled out.
using FloatLanes [[gnu::vector_size(kVectorBytes)]] = float;
using DoubleLanes [[gnu::vector_size(kVectorBytes)]] = double;
using Int32Lanes [[gnu::vector_size(kVectorBytes)]] = int32_t;
using Int64Lanes [[gnu::vector_size(kVectorBytes)]] = int64_t;
using UInt32Lanes [[gnu::vector_size(kVectorBytes)]] = uint32_t;
using UInt64Lanes [[gnu::vector_size(kVectorBytes)]] = uint64_t;
using UInt16HalfLanes [[gnu::vector_size(kVectorBytes / 2)]] = uint16_t;
using Int16HalfLanes [[gnu::vector_size(kVectorBytes / 2)]] = int16_t;
using Int16Lanes [[gnu::vector_size(kVectorBytes)]] = int16_t;
using Int8QuarterLanes [[gnu::vector_size(kVectorBytes / 4)]] = int8_t;
using UInt8QuarterLanes [[gnu::vector_size(kVectorBytes / 4)]] = uint8_t;

// a b + c with one rounding where the instruction set can. Written out, since the units are compiled without
// contraction: a compiler that fuses what it likes fuses differently in each copy of a formula, and then a result would
// depend on which copy a row went through.
FUSED_RNN_INLINE FloatLanes multiply_add(FloatLanes a, FloatLanes b, FloatLanes c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}
FUSED_RNN_INLINE DoubleLanes multiply_add(DoubleLanes a, DoubleLanes b, DoubleLanes c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f64(c, a, b);
#else
  return a * b + c;
#endif
}

// InMemory: at any address of a Real, and to the compiler an access to Reals and nothing else. By memcpy it would be
// one to anything, and all that a loop knows of pointers and strides would be loaded again after each store.
template <class Real>
struct LanesOf;
template <>
struct LanesOf<float> {
  using Floats = FloatLanes;
  using InMemory [[gnu::vector_size(kVectorBytes), gnu::aligned(alignof(float))]] = float;
  using Ints = Int32Lanes;
};
template <>
struct LanesOf<double> {
  using Floats = DoubleLanes;
  using InMemory [[gnu::vector_size(kVectorBytes), gnu::aligned(alignof(double))]] = double;
  using Ints = Int64Lanes;
};

// `Parts` registers of lanes. Arithmetic on two parts is two independent chains, which hide each other's latency: the
// updates use that for the long chains of the activations.
template <class Real, int Parts = 1>
struct Vec {
  using Scalar = Real;
  using Lanes = typename LanesOf<Real>::Floats;
  using Ints = typename LanesOf<Real>::Ints;
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));  // of one part
  static constexpr int kParts = Parts;

  Lanes parts[Parts];

  Vec() = default;
  FUSED_RNN_INLINE explicit Vec(Lanes only)
    requires(Parts == 1)
      : parts{only} {}
  FUSED_RNN_INLINE explicit Vec(Real value) {
    for (Lanes& part : parts) part = value - Lanes{};
  }
  FUSED_RNN_INLINE explicit Vec(int value) : Vec(static_cast<Real>(value)) {}

  FUSED_RNN_INLINE static Vec load(const Real* from)
    requires(Parts == 1)
  {
    return Vec(Lanes(*reinterpret_cast<const typename LanesOf<Real>::InMemory*>(from)));
  }
  FUSED_RNN_INLINE void store(Real* to) const
    requires(Parts == 1)
  {
    *reinterpret_cast<typename LanesOf<Real>::InMemory*>(to) = parts[0];
  }

  FUSED_RNN_INLINE friend Vec operator+(Vec a, Vec b) {
    return map([](Lanes x, Lanes y) { return x + y; }, a, b);
  }
  FUSED_RNN_INLINE friend Vec operator-(Vec a, Vec b) {
    return map([](Lanes x, Lanes y) { return x - y; }, a, b);
  }
  FUSED_RNN_INLINE friend Vec operator*(Vec a, Vec b) {
    return map([](Lanes x, Lanes y) { return x * y; }, a, b);
  }
  FUSED_RNN_INLINE friend Vec operator/(Vec a, Vec b) {
    return map([](Lanes x, Lanes y) { return x / y; }, a, b);
  }
  FUSED_RNN_INLINE friend Vec operator-(Vec a) {
    return map([](Lanes x) { return -x; }, a);
  }

  FUSED_RNN_INLINE friend Vec multiply_add(Vec a, Vec b, Vec c) {
    return map([](Lanes x, Lanes y, Lanes z) { return fused_rnn::multiply_add(x, y, z); }, a, b, c);
  }

  // f(part of each argument) for each part.
  template <class F, class... Vs>
  FUSED_RNN_INLINE static Vec map(F f, const Vs&... arguments) {
    Vec result;
#pragma GCC unroll 8
    for (int i = 0; i < Parts; ++i) result.parts[i] = f(arguments.parts[i]...);
    return result;
  }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
