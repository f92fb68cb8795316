// Which instructions of simd/dot.h this processor has beside those that a unit is compiled for.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace fused_rnn {

#if defined(__x86_64__)
// AVX-VNNI, which __builtin_cpu_supports of Clang 14 has no name for. Its registers are those of AVX2.
inline bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
}
#endif

// Four products of int8, for a unit with vectors of so many bytes: AVX-512 VNNI (64), AVX-VNNI (32), FEAT_DotProd.
inline bool has_int8_dot([[maybe_unused]] int vector_bytes) {
#if defined(__x86_64__)
  return vector_bytes == 64 ? __builtin_cpu_supports("avx512vnni") : has_avx_vnni();
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kAsimdDp = 1UL << 20;  // of Linux; older headers have no name for it
  return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
#else
  return false;
#endif
}

// Two products of bfloat16: AVX-512 BF16, FEAT_BF16.
inline bool has_bfloat16_dot() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kBf16 = 1UL << 14;
  return (getauxval(AT_HWCAP2) & kBf16) != 0;
#else
  return false;
#endif
}

}  // namespace fused_rnn
