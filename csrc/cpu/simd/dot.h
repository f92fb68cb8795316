// Sums of a few products of small numbers in each lane of 32 bits, by the instructions of each processor.
//
// FUSED_RNN_BFLOAT16_DOT and FUSED_RNN_INT8_DOT say that this unit may use instructions for products of that type which
// not every processor that runs the unit has. Who calls them has to ask first (cpu/runtime/processor.h).
//
// AArch64 also has instructions for blocks of a matrix, bfmmla and smmla. They add products of two rows with two units
// to an accumulator of 2 x 2 sums, and need two rows side by side. Here an accumulator is one row of units and a factor
// is one value for all of them, so they do not fit.
#pragma once

#include "cpu/simd/vec.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Four products of int8 in each lane, on any processor but those of x86 (terms.h).
#if defined(__aarch64__)
FUSED_RNN_INLINE Int32Lanes add_int8_products(Int32Lanes weight, Int32Lanes value, Int32Lanes sum) {
  const int8x16_t w = int8x16_t(weight), v = int8x16_t(value);
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(v)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(w, v));
  return sum + Int32Lanes(vpaddq_s32(low, high));
}
#elif !defined(__x86_64__)
FUSED_RNN_INLINE Int32Lanes add_int8_products(Int32Lanes weight, Int32Lanes value, Int32Lanes sum) {
  for (int shift = 0; shift < 32; shift += 8) sum += ((weight << shift) >> 24) * ((value << shift) >> 24);
  return sum;
}
#endif

#if defined(__AVX512F__)
#define FUSED_RNN_BFLOAT16_DOT

// AVX-512 BF16: to nearest even, with denormal numbers, those below 1.2e-38, taken for zeros.
FUSED_RNN_INLINE UInt16HalfLanes rounded_to_bfloat16(FloatLanes x) {
  UInt16HalfLanes raw;
  asm("vcvtneps2bf16 %1, %0" : "=v"(raw) : "v"(x));
  return raw;
}
// Two products of bfloat16, each added with a rounding to nearest even; denormal numbers are zeros.
FUSED_RNN_INLINE FloatLanes add_bfloat16_products(FloatLanes weight, FloatLanes value, FloatLanes sum) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weight), "v"(value));
  return sum;
}

#elif defined(__aarch64__)
#define FUSED_RNN_BFLOAT16_DOT

// FEAT_BF16: to nearest even, denormal numbers too.
FUSED_RNN_INLINE UInt16HalfLanes rounded_to_bfloat16(FloatLanes x) {
  UInt16HalfLanes raw;
  asm(".arch_extension bf16\n\tbfcvtn %0.4h, %1.4s" : "=w"(raw) : "w"(x));
  return raw;
}
// Two products of bfloat16, which are added to each other first. That sum and the whole are rounded to odd: what is not
// exact gets a last bit of 1. So a rounding is off by less than one unit in the last place, where to nearest it is half
// of one. Denormal factors, products and sums are zeros. (With FPCR.EBF, which Linux leaves off, there is one
// rounding.)
FUSED_RNN_INLINE FloatLanes add_bfloat16_products(FloatLanes weight, FloatLanes value, FloatLanes sum) {
  asm(".arch_extension bf16\n\tbfdot %0.4s, %1.8h, %2.8h" : "+w"(sum) : "w"(weight), "w"(value));
  return sum;
}
#endif

#if defined(__AVX2__)
#define FUSED_RNN_INT8_DOT

// AVX-512 VNNI and AVX-VNNI, each with an encoding of its own, multiply bytes without a sign by bytes with one: factors
// are stored with this offset.
#if defined(__AVX512F__)
#define FUSED_RNN_VNNI_ENCODING "%{evex%} "
#else
#define FUSED_RNN_VNNI_ENCODING "%{vex%} "
#endif
inline constexpr uint32_t kDotOffset = 128;
FUSED_RNN_INLINE FloatLanes dot_int8_products(FloatLanes weight, FloatLanes value, FloatLanes sum) {
  asm(FUSED_RNN_VNNI_ENCODING "vpdpbusd %1, %2, %0" : "+v"(sum) : "v"(weight), "v"(value));
  return sum;
}
#elif defined(__aarch64__)
#define FUSED_RNN_INT8_DOT

// FEAT_DotProd multiplies bytes with signs: no offset. The assembler of binutils up to 2.40 takes no .arch_extension
// for it below version 8.2 of the architecture, so it is told of a wider one than gcc compiles for.
#if defined(__ARM_FEATURE_DOTPROD)
#define FUSED_RNN_ACCEPT_DOT ""
#else
#define FUSED_RNN_ACCEPT_DOT ".arch armv8.4-a+fp16+sve\n\t"
#endif
inline constexpr uint32_t kDotOffset = 0;
FUSED_RNN_INLINE FloatLanes dot_int8_products(FloatLanes weight, FloatLanes value, FloatLanes sum) {
  asm(FUSED_RNN_ACCEPT_DOT "sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(weight), "w"(value));
  return sum;
}
#endif

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
