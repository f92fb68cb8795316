// How elements lie in memory and in which type they are computed: conversion on load and store, whole or partial
// vectors.
#pragma once

#include <type_traits>

#include "core/views.h"
#include "cpu/simd/vec.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
struct Int8 {  // of weights alone, which have a scale beside them
  int8_t value;
};

FUSED_RNN_INLINE UInt32Lanes bits_of(Vec<float> x) { return reinterpret_cast<UInt32Lanes>(x.parts[0]); }
FUSED_RNN_INLINE Vec<float> float_of(UInt32Lanes bits) { return Vec<float>(reinterpret_cast<FloatLanes>(bits)); }

// (Masked with all lanes, since gcc 12 warns of its own unmasked forms.)
#if defined(__AVX512F__)
using HalfOfBytes = __m256i;
FUSED_RNN_INLINE FloatLanes from_float16(HalfOfBytes x) { return _mm512_maskz_cvtph_ps(0xFFFF, x); }
FUSED_RNN_INLINE HalfOfBytes to_float16(FloatLanes x) {
  return _mm512_maskz_cvtps_ph(0xFFFF, x, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
using HalfOfBytes = __m128i;
FUSED_RNN_INLINE FloatLanes from_float16(HalfOfBytes x) { return _mm256_cvtph_ps(x); }
FUSED_RNN_INLINE HalfOfBytes to_float16(FloatLanes x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
#elif defined(__aarch64__)
using HalfOfBytes = float16x4_t;
FUSED_RNN_INLINE FloatLanes from_float16(HalfOfBytes x) { return vcvt_f32_f16(x); }
FUSED_RNN_INLINE HalfOfBytes to_float16(FloatLanes x) { return vcvt_f16_f32(x); }
#endif

// Storage<T>: the compute type of T, and conversions of one whole vector.
template <class T>
struct Storage {  // float and double compute as themselves
  using Real = T;
  FUSED_RNN_INLINE static Vec<T> load(const T* from) { return Vec<T>::load(from); }
  FUSED_RNN_INLINE static void store(T* to, Vec<T> x) { x.store(to); }
};

template <>
struct Storage<BFloat16> {
  using Real = float;
  FUSED_RNN_INLINE static Vec<float> load(const BFloat16* from) {
    UInt16HalfLanes raw;
    std::memcpy(&raw, from, sizeof(raw));
    return float_of(__builtin_convertvector(raw, UInt32Lanes) << 16);
  }
  // Round to nearest even; a NaN stays a (quiet) NaN.
  FUSED_RNN_INLINE static void store(BFloat16* to, Vec<float> x) {
    const UInt32Lanes bits = bits_of(x);
    const UInt32Lanes rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const UInt32Lanes result = (bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16) | 0x40u : rounded;
    const UInt16HalfLanes raw = __builtin_convertvector(result, UInt16HalfLanes);
    std::memcpy(to, &raw, sizeof(raw));
  }
};

template <>
struct Storage<Float16> {
  using Real = float;
#if defined(__F16C__) || defined(__aarch64__)
  FUSED_RNN_INLINE static Vec<float> load(const Float16* from) {
    HalfOfBytes raw;
    std::memcpy(&raw, from, sizeof(raw));
    return Vec<float>(from_float16(raw));
  }
  FUSED_RNN_INLINE static void store(Float16* to, Vec<float> x) {
    const HalfOfBytes raw = to_float16(x.parts[0]);
    std::memcpy(to, &raw, sizeof(raw));
  }
#else
  FUSED_RNN_INLINE static Vec<float> load(const Float16* from) {
    UInt16HalfLanes raw;
    std::memcpy(&raw, from, sizeof(raw));
    const UInt32Lanes bits = __builtin_convertvector(raw, UInt32Lanes);
    const UInt32Lanes magnitude = bits & 0x7FFFu;
    const UInt32Lanes shifted = magnitude << 13;
    const UInt32Lanes normal = shifted + (112u << 23);   // exponent bias 15 -> 127
    const UInt32Lanes infinite = shifted | 0x7F800000u;  // infinity or NaN
    const Vec<float> subnormal = Vec<float>(__builtin_convertvector(magnitude, FloatLanes)) * Vec<float>(0x1p-24f);
    const UInt32Lanes finite = magnitude < 0x400u ? bits_of(subnormal) : normal;
    const UInt32Lanes result = magnitude >= 0x7C00u ? infinite : finite;
    return float_of(result | ((bits & 0x8000u) << 16));
  }
  // Round to nearest even, beyond 65504 to infinity; a NaN stays a (quiet) NaN.
  FUSED_RNN_INLINE static void store(Float16* to, Vec<float> x) {
    const UInt32Lanes bits = bits_of(x);
    const UInt32Lanes magnitude = bits & 0x7FFFFFFFu;
    const UInt32Lanes normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    // One unit of 0.5f in the last place is the smallest half: the addition rounds.
    const UInt32Lanes subnormal = bits_of(float_of(magnitude) + Vec<float>(0.5f)) - 0x3F000000u;
    const UInt32Lanes finite = magnitude < 0x38800000u ? subnormal : normal;
    const UInt32Lanes overflow = magnitude > 0x7F800000u ? (UInt32Lanes{} + 0x7E00u) : (UInt32Lanes{} + 0x7C00u);
    const UInt32Lanes result = (magnitude >= 0x47800000u ? overflow : finite) | ((bits >> 16) & 0x8000u);
    const UInt16HalfLanes raw = __builtin_convertvector(result, UInt16HalfLanes);
    std::memcpy(to, &raw, sizeof(raw));
  }
#endif
};

template <>
struct Storage<Int8> {
  using Real = float;
  FUSED_RNN_INLINE static Vec<float> load(const Int8* from) {
    Int8QuarterLanes raw;
    std::memcpy(&raw, from, sizeof(raw));
    // Step by step: gcc 12 converts int8 to float, or to int32, one by one.
    const Int16HalfLanes wider = __builtin_convertvector(raw, Int16HalfLanes);
    return Vec<float>(__builtin_convertvector(__builtin_convertvector(wider, Int32Lanes), FloatLanes));
  }
};

template <class T>
using RealOf = typename Storage<T>::Real;

// How many lanes of a vector are real: a compile-time constant for a whole one, so that no check remains in its path.
template <class Real>
using WholeVector = std::integral_constant<int, Vec<Real>::kLanes>;

// The same where results go past the caches to memory: elements are aligned to whole vectors.
template <class Real>
struct StreamedVector : WholeVector<Real> {};

template <class Count, class Real>
inline constexpr bool kIsWhole = std::is_base_of_v<WholeVector<Real>, Count>;

// Calls visitor(count): with WholeVector where all lanes are real, with an int where some are, not at all for none.
template <class Real, class Visitor>
FUSED_RNN_INLINE void visit_lanes(int64_t left, const Visitor& visitor) {
  if (left >= Vec<Real>::kLanes) {
    visitor(WholeVector<Real>{});
  } else if (left > 0) {
    visitor(static_cast<int>(left));
  }
}

// The forms for some of a vector's lanes. They are rare and long, and so not copied to where they are needed.
template <class T>
[[gnu::noinline]] Vec<RealOf<T>> load_some(const T* from, int count) {
  T buffer[Vec<RealOf<T>>::kLanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = from[i];
  return Storage<T>::load(buffer);
}
template <class T>
[[gnu::noinline]] void store_some(T* to, Vec<RealOf<T>> x, int count) {
  T buffer[Vec<RealOf<T>>::kLanes];
  Storage<T>::store(buffer, x);
  for (int i = 0; i < count; ++i) to[i] = buffer[i];
}

// Loads the first `count` elements; the other lanes are 0.
template <class T, class Count>
FUSED_RNN_INLINE Vec<RealOf<T>> load(const T* from, Count count) {
  if constexpr (!kIsWhole<Count, RealOf<T>>) {
    if (count < Vec<RealOf<T>>::kLanes) return load_some<T>(from, count);
  }
  return Storage<T>::load(from);
}

// Stores a whole vector past the caches, where the processor can. Other threads see it after `finish_streaming`.
template <class T>
FUSED_RNN_INLINE void store_streamed(T* to, Vec<RealOf<T>> x) {
#if defined(__AVX2__)
  alignas(kVectorBytes) T buffer[Vec<RealOf<T>>::kLanes];
  Storage<T>::store(buffer, x);
  if constexpr (sizeof(buffer) == 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), *reinterpret_cast<const __m128i*>(buffer));
  } else if constexpr (sizeof(buffer) == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), *reinterpret_cast<const __m256i*>(buffer));
  } else {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), *reinterpret_cast<const __m512i*>(buffer));
#endif
  }
#else
  Storage<T>::store(to, x);
#endif
}
inline void finish_streaming() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Stores the first `count` lanes.
template <class T, class Count>
FUSED_RNN_INLINE void store(T* to, Vec<RealOf<T>> x, Count count) {
  if constexpr (std::is_same_v<Count, StreamedVector<RealOf<T>>>) return store_streamed<T>(to, x);
  if constexpr (!kIsWhole<Count, RealOf<T>>) {
    if (count < Vec<RealOf<T>>::kLanes) return store_some<T>(to, x, count);
  }
  Storage<T>::store(to, x);
}

// The first `count` lanes, zero in the others.
template <class Real, class Count>
FUSED_RNN_INLINE Vec<Real> first_lanes(Vec<Real> x, Count count) {
  if constexpr (!kIsWhole<Count, Real>) {
    Real buffer[Vec<Real>::kLanes];
    x.store(buffer);
    return load<Real>(buffer, count);
  }
  return x;
}

// The value that storing x as T and loading it again would give.
template <class T, int Parts>
FUSED_RNN_INLINE Vec<RealOf<T>, Parts> round_to(Vec<RealOf<T>, Parts> x) {
  if constexpr (sizeof(T) == sizeof(RealOf<T>)) return x;
  return x.map(
      [](auto part) {
        T buffer[Vec<RealOf<T>>::kLanes];
        Storage<T>::store(buffer, Vec<RealOf<T>>(part));
        return Storage<T>::load(buffer).parts[0];
      },
      x);
}

// The first of the trailing elements of a view at (time, row, direction).
template <class T, class Void>
FUSED_RNN_INLINE auto at(const SequenceView<Void>& view, int64_t time, int64_t row, int64_t direction) {
  using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
  return static_cast<Element*>(view.data) + view.offset(time, row, direction);
}
template <class T, class Void>
FUSED_RNN_INLINE auto at(const StateView<Void>& view, int64_t direction, int64_t row) {
  using Element = std::conditional_t<std::is_const_v<Void>, const T, T>;
  return static_cast<Element*>(view.data) + view.offset(direction, row);
}

// Rows of the batch in one step of a sequence, or in a state.
template <class T>
struct BatchRows {
  T* data = nullptr;  // of row 0
  int64_t stride = 0;

  explicit operator bool() const { return data != nullptr; }
  FUSED_RNN_INLINE T* row(int64_t index) const { return data + index * stride; }
  // The same rows from one of their elements on.
  FUSED_RNN_INLINE BatchRows from(int64_t element) const { return {data + element, stride}; }
};

// Null where the view is.
template <class T, class Void>
auto rows_at(const SequenceView<Void>& view, int64_t time, int64_t direction) {
  using Element = std::remove_pointer_t<decltype(at<T>(view, 0, 0, 0))>;
  return view ? BatchRows<Element>{at<T>(view, time, 0, direction), view.row_stride} : BatchRows<Element>{};
}
template <class T, class Void>
auto rows_at(const StateView<Void>& view, int64_t direction) {
  using Element = std::remove_pointer_t<decltype(at<T>(view, 0, 0))>;
  return view ? BatchRows<Element>{at<T>(view, direction, 0), view.row_stride} : BatchRows<Element>{};
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
