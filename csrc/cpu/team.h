// A team of threads that starts together, and the barrier its members meet at.
#pragma once

namespace fused_rnn {

// Lets `count` threads meet. Whatever a member wrote before wait() is visible to every member after it. Spins for a few
// microseconds, then yields the processor at each look, so that a busy neighbour costs a time slice and not more.
struct Barrier {
  alignas(64) int arrived = 0;
  alignas(64) int phase = 0;

  void wait(int count);
};

// Runs body(context, thread) for thread in 0..threads-1, all at the same time. Returns false, with nothing run, where
// that many threads cannot be had (no OpenMP, inside another parallel region).
bool run_team(int threads, void (*body)(void* context, int thread), void* context);

}  // namespace fused_rnn
