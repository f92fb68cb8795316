// Denormal numbers are zeros while this lives: in hardware they take a hundred times as long as others.
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
    if ((before_ & kFlush) != kFlush) set_control(before_ | kFlush);
  }
  ~FlushDenormals() {
    if ((before_ & kFlush) != kFlush) set_control(before_);
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals(FlushDenormals&&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
  FlushDenormals& operator=(FlushDenormals&&) = delete;

 private:
#if defined(__x86_64__)
  using Control = uint32_t;
  static constexpr Control kFlush = (1u << 15) | (1u << 6);  // results (FTZ) and operands (DAZ)
  static Control control() { return _mm_getcsr(); }
  static void set_control(Control value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Control = uint64_t;
  static constexpr Control kFlush = uint64_t{1} << 24;  // FZ
  static Control control() {
    Control value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_control(Control value) { asm volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
  using Control = uint32_t;
  static constexpr Control kFlush = 0;  // an unknown processor is left as it is
  static Control control() { return 0; }
  static void set_control(Control /*value*/) {}
#endif

  Control before_;
};

}  // namespace fused_rnn
