// A thin SIMD vector over the compiler's vector extensions: as many lanes as the instruction set's registers hold.
//
// Everything in csrc/cpu that depends on the instruction set lives in the inline namespace FUSED_RNN_ISA, so that each
// unit under isa/ compiles its own copy with its own flags and no two copies ever share a symbol.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(FUSED_RNN_ISA) || !defined(FUSED_RNN_VECTOR_BYTES) || !defined(FUSED_RNN_VECTOR_REGISTERS)
#error "include this from a unit under cpu/isa, which names its instruction set"
#endif

#define FUSED_RNN_INLINE [[gnu::always_inline]] inline

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
using UInt16HalfLanes [[gnu::vector_size(kVectorBytes / 2)]] = uint16_t;

template <class Real>
struct LanesOf;
template <>
struct LanesOf<float> {
  using Floats = FloatLanes;
  using Ints = Int32Lanes;
};
template <>
struct LanesOf<double> {
  using Floats = DoubleLanes;
  using Ints = Int64Lanes;
};

template <class Real>
struct Vec {
  using Scalar = Real;
  using Lanes = typename LanesOf<Real>::Floats;
  using Ints = typename LanesOf<Real>::Ints;
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Real));

  Lanes lanes;

  Vec() = default;
  FUSED_RNN_INLINE explicit Vec(Lanes values) : lanes(values) {}
  FUSED_RNN_INLINE explicit Vec(Real value) : lanes(value - Lanes{}) {}
  FUSED_RNN_INLINE explicit Vec(int value) : Vec(static_cast<Real>(value)) {}

  FUSED_RNN_INLINE static Vec load(const Real* from) {
    Vec result;
    std::memcpy(&result.lanes, from, sizeof(Lanes));
    return result;
  }
  FUSED_RNN_INLINE void store(Real* to) const { std::memcpy(to, &lanes, sizeof(Lanes)); }

  FUSED_RNN_INLINE friend Vec operator+(Vec a, Vec b) { return Vec(a.lanes + b.lanes); }
  FUSED_RNN_INLINE friend Vec operator-(Vec a, Vec b) { return Vec(a.lanes - b.lanes); }
  FUSED_RNN_INLINE friend Vec operator*(Vec a, Vec b) { return Vec(a.lanes * b.lanes); }
  FUSED_RNN_INLINE friend Vec operator/(Vec a, Vec b) { return Vec(a.lanes / b.lanes); }
  FUSED_RNN_INLINE friend Vec operator-(Vec a) { return Vec(-a.lanes); }
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
