// The setting of floating-point numbers in steps: denormal numbers are zeros, since in hardware they take a hundred
// times as long as others. What else a caller may have set is as a program begins: results are rounded to the nearest,
// and no exception is trapped, which values of padding and clamped exponentials may raise.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fused_rnn {

// Of the calling thread; its own setting comes back in the end.
class FlushDenormals {
 public:
  FlushDenormals() : before_(control()) {
    if (changes()) set_control(kSetting);
  }
  ~FlushDenormals() {
    if (changes()) set_control(before_);
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals(FlushDenormals&&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
  FlushDenormals& operator=(FlushDenormals&&) = delete;

 private:
#if defined(__x86_64__)
  using Control = uint32_t;
  static constexpr Control kFlags = 0x3F;  // of exceptions that were
  static constexpr Control kSetting =
      (1u << 15) | (1u << 6) | 0x1F80;  // flushed results (FTZ) and operands (DAZ), masks
  static Control control() { return _mm_getcsr(); }
  static void set_control(Control value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Control = uint64_t;
  static constexpr Control kFlags = 0, kSetting = uint64_t{1} << 24;  // FZ
  static Control control() {
    Control value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_control(Control value) { asm volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
  using Control = uint32_t;
  static constexpr Control kFlags = 0, kSetting = 0;  // an unknown processor is left as it is
  static Control control() { return 0; }
  static void set_control(Control /*value*/) {}
#endif

  bool changes() const { return (before_ & ~kFlags) != kSetting; }

  Control before_;
};

}  // namespace fused_rnn
