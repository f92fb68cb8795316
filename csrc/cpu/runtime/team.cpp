// Threads by OpenMP, whose pool is the one torch uses, so that torch.set_num_threads governs both.
#include "cpu/runtime/team.h"

#include <unistd.h>

#include <chrono>
#include <new>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/runtime/contention.h"

namespace fused_rnn {

namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A step between two barriers takes 0.5 to 100 us, and to wake who sleeps some 30. Who waits shorter than that is
// asleep when the one he waited for, himself just woken, arrives, and both go on sleeping in turn. (A pause takes 40 to
// 140 cycles, by processor, so that time is measured and not pauses.)
constexpr int64_t kSpinning = 40'000;
constexpr int kPauses = 32;  // between two looks at the clock

std::atomic<pid_t> first_starter = 0;  // the process that has started a team before any other; 0: none has

int64_t nanoseconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

ThreadLimit limit;
thread_local int64_t slept = 0;  // at barriers, since the team of this thread began

#if defined(_OPENMP)
// What the members of a team lose by waiting for each other: asleep at barriers, and after their own end.
class Waiting {
 public:
  explicit Waiting(int threads) : threads_(threads) {}

  void member_begins() { slept = 0; }
  void member_ends() {
    const int64_t end = nanoseconds_now();
    asleep_ += slept;
    ends_ += end - begin_;
    int64_t last = last_.load();
    while (end > last && !last_.compare_exchange_weak(last, end)) {
    }
  }
  void report() {
    const int64_t took = last_ - begin_, after_end = threads_ * took - ends_;
    limit.report(took, (asleep_ + after_end) / (threads_ - 1), last_);
  }

 private:
  int threads_;
  int64_t begin_ = nanoseconds_now();
  std::atomic<int64_t> asleep_ = 0, ends_ = 0, last_ = begin_;
};
#endif

}  // namespace

void Barrier::make(Barrier* memory, int count) {
  for (int i = 0; i < count; ++i) new (memory + i) Barrier;
}

void Barrier::wait(int count) {
  if (count <= 1) return;
  const int before = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
    arrived_.store(0, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      // Release: publishes what all members, gathered by the read-modify-writes above, wrote before.
      phase_.store(before + 1, std::memory_order_release);
    }
    changed_.notify_all();
    return;
  }
  const auto passed = [&] { return phase_.load(std::memory_order_acquire) != before; };
  const auto passes_soon = [&] {
    for (int spin = 0; spin < kPauses; ++spin) {
      if (passed()) return true;
      pause();
    }
    return false;
  };
  if (passes_soon()) return;  // mostly, without a look at the clock
  const int64_t begin = nanoseconds_now();
  do {
    if (passes_soon()) return;
  } while (nanoseconds_now() < begin + kSpinning);
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, passed);
  }
  slept += nanoseconds_now() - begin;
}

int free_threads(int most) { return limit.limits() ? limit.threads(most, nanoseconds_now()) : most; }

bool threads_are_lost() {
  const pid_t starter = first_starter.load(std::memory_order_relaxed);
  return starter != 0 && starter != getpid();
}

bool run_team(int threads, void (*body)(void*, int), void* context) {
  if (threads == 1) {
    body(context, 0);
    return true;
  }
#if defined(_OPENMP)
  if (threads_are_lost()) return false;
  first_starter.store(getpid(), std::memory_order_relaxed);
  bool complete = true;
  Waiting waiting(threads);
#pragma omp parallel num_threads(threads)
  {
    // Every member sees the same count, so either all run the body or none does.
    if (omp_get_num_threads() == threads) {
      waiting.member_begins();
      body(context, omp_get_thread_num());
      waiting.member_ends();
    } else if (omp_get_thread_num() == 0) {
      complete = false;
    }
  }
  if (complete) waiting.report();
  return complete;
#else
  return false;
#endif
}

}  // namespace fused_rnn
