// A team of threads that starts together, and the barrier its members meet at.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

namespace fused_rnn {

// Lets `count` threads meet. Whatever a member wrote before wait() is visible to every member after it. Who waits spins
// for a little longer than steps differ, then sleeps: its processor is then free for the member that a busy neighbour
// has displaced. (Yielding instead keeps the processor occupied, and a call of 0.3 ms took 11 beside one busy process.)
class Barrier {
 public:
  // Makes `count` barriers in raw memory. They need no destruction once nobody waits.
  static void make(Barrier* memory, int count);

  void wait(int count);

 private:
  alignas(64) std::atomic<int> arrived_ = 0;
  alignas(64) std::atomic<int> phase_ = 0;
  std::mutex mutex_;  // held to change phase_, so that no sleeper misses the change
  std::condition_variable changed_;
};

// Runs body(context, thread) for thread in 0..threads-1, all at the same time. Returns false, with nothing run, where
// that many threads cannot be had (no OpenMP, inside another parallel region, threads_are_lost).
bool run_team(int threads, void (*body)(void* context, int thread), void* context);

// Whether this process was forked from one that had started a team. A fork copies what OpenMP knows of its threads, but
// not the threads: whoever starts a team then waits for them forever.
bool threads_are_lost();

}  // namespace fused_rnn
