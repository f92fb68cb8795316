// How many threads a call takes while other work keeps the processors busy.
//
// Where another process displaces one thread of a team, all others wait for it: for milliseconds, in which one thread
// could have made many calls. A call of n threads of which each waited w of its time t did the work of n (t - w). Half
// the threads would have taken 2 (t - w), which is less than t where w > t / 2. Then calls take half of the threads
// for a pause. After it, a call tries again with more; each that fails doubles the pause, and time well spent ends it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace fused_rnn {

// Times are in nanoseconds. Calls may come from any thread; a lost update costs one pause too many or too few.
class ThreadLimit {
 public:
  static constexpr int64_t kShortestPause = 10'000'000, kLongestPause = 1'000'000'000;
  static constexpr int64_t kLeastWaited = 300'000;  // to wake a thread takes up to a third of it, and no neighbour
  static constexpr int kMostHalvings = 8;

  // Whether `threads` needs the time.
  bool limits() const { return halvings_.load(std::memory_order_relaxed) > 0; }

  // The threads that a call may take of `most`.
  int threads(int most, int64_t now) {
    int halvings = halvings_.load(std::memory_order_relaxed);
    if (halvings > 0 && now >= until_.load(std::memory_order_relaxed)) {
      until_.store(now + pause_.load(std::memory_order_relaxed), std::memory_order_relaxed);
      halvings_.store(--halvings, std::memory_order_relaxed);
    }
    return std::max(most >> halvings, 1);
  }

  // What a call of several threads took until `now`, and how long each waited for others, in the mean.
  void report(int64_t took, int64_t waited, int64_t now) {
    const int64_t pause = pause_.load(std::memory_order_relaxed);
    if (waited < kLeastWaited || 2 * waited < took) {
      if (pause > 0) pause_.store(std::max<int64_t>(pause - took, 0), std::memory_order_relaxed);
      return;
    }
    const int64_t longer = std::clamp(2 * pause, kShortestPause, kLongestPause);
    pause_.store(longer, std::memory_order_relaxed);
    until_.store(now + longer, std::memory_order_relaxed);
    const int halvings = halvings_.load(std::memory_order_relaxed);
    halvings_.store(std::min(halvings + 1, kMostHalvings), std::memory_order_relaxed);
  }

 private:
  std::atomic<int> halvings_ = 0;
  std::atomic<int64_t> pause_ = 0, until_ = 0;
};

// The threads of at most `most` that a call should take now, by what the teams of this process have waited.
int free_threads(int most);

}  // namespace fused_rnn
