// What the native tests need of a test framework: counted checks that name their place, named cases, seeded numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <random>
#include <string>

namespace fused_rnn::test {

struct Case {
  const char* name;  // the fact that the case states
  void (*run)();
};

// Under sanitizers, where code is several times slower, kernels are watched for what they touch. The oracles stay away:
// the same program without sanitizers judges the values of the same problems.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // GCC's names
#define FUSED_RNN_SANITIZED
#elif defined(__clang__)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FUSED_RNN_SANITIZED
#endif
#endif
#if defined(FUSED_RNN_SANITIZED)
inline constexpr bool kJudgesValues = false;
#else
inline constexpr bool kJudgesValues = true;
#endif
// As many steps as show an error that grows; what is touched repeats from step to step.
inline constexpr int kManySteps = kJudgesValues ? 2000 : 30;
// Whether it is threads that are watched, one pair of which shows what more would.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kWatchesThreads = true;
#else
inline constexpr bool kWatchesThreads = false;
#endif

inline int checks = 0, failures = 0;

// Counts one check; prints its place, that of the call, when it does not hold. (Clang has std::source_location
// from 16.)
inline void check(bool holds, const std::string& what, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  ++checks;
  if (holds) return;
  // A broken kernel fails thousands of checks alike; the first few tell.
  if (++failures <= 20) std::printf("%s:%d: %s\n", file, line, what.c_str());
}

// |actual - expected| <= tolerance; two NaNs agree, and so do two infinities of the same sign.
inline void check_near(double actual, double expected, double tolerance, const std::string& what,
                       const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const bool same = actual == expected || (std::isnan(actual) && std::isnan(expected));
  char numbers[128] = "";
  if (!same) std::snprintf(numbers, sizeof numbers, ": %.17g, expected %.17g +- %.3g", actual, expected, tolerance);
  check(same || std::abs(actual - expected) <= tolerance, what + numbers, file, line);
}

// Uniform numbers in [low, high), the same in every run.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double operator()(double low, double high) { return low + (high - low) * double(engine_() >> 11) * 0x1p-53; }

 private:
  std::mt19937_64 engine_;
};

// Runs every case and returns the exit code of the program.
inline int run(std::initializer_list<Case> cases) {
  for (const Case& one : cases) {
    const int checks_before = checks, failures_before = failures;
    one.run();
    check(checks > checks_before, std::string(one.name) + " checked nothing");
    std::printf("%s %s\n", failures == failures_before ? "ok    " : "FAILED", one.name);
  }
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace fused_rnn::test
