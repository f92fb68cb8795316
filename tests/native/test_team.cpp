// Tests the barrier with more threads than processors, so that members sleep and are displaced, and the team itself.
#include "cpu/runtime/team.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/runtime/contention.h"

namespace {

using namespace fused_rnn;
using test::check;

// Every member writes its slot, waits, and must find all slots written; a second wait ends the reading.
void check_rounds(int threads, int rounds) {
  alignas(Barrier) unsigned char memory[sizeof(Barrier)];
  Barrier::make(reinterpret_cast<Barrier*>(memory), 1);
  Barrier& barrier = *reinterpret_cast<Barrier*>(memory);
  std::vector<int> slots(static_cast<size_t>(threads), -1);
  std::atomic<int> stale = 0;
  std::vector<std::thread> members;
  members.reserve(static_cast<size_t>(threads));
  for (int member = 0; member < threads; ++member) {
    members.emplace_back([&, member] {
      for (int round = 0; round < rounds; ++round) {
        slots[static_cast<size_t>(member)] = round;
        barrier.wait(threads);
        for (const int slot : slots) stale += slot != round;
        barrier.wait(threads);
      }
    });
  }
  for (std::thread& member : members) member.join();
  check(stale == 0, std::to_string(stale) + " stale reads with " + std::to_string(threads) + " threads");
}

void what_is_written_before_the_barrier_is_read_after_it() {
  for (const int threads : {1, 2, 3, 8}) check_rounds(threads, threads > 2 ? 400 : 10000);
}

struct Calls {
  std::atomic<int> seen[4] = {};
};

void every_member_of_a_team_runs_once_or_none_does() {
  for (const int threads : {1, 2, 4}) {
    Calls calls;
    const bool complete =
        run_team(threads, [](void* context, int thread) { ++static_cast<Calls*>(context)->seen[thread]; }, &calls);
    for (int thread = 0; thread < threads; ++thread) {
      check(calls.seen[thread] == (complete ? 1 : 0), "thread " + std::to_string(thread) + " runs once");
    }
    check(complete || threads > 1, "a team of one always runs");
  }
}

void a_team_inside_a_parallel_region_is_refused() {
  bool refused = true;
#if defined(_OPENMP)
#pragma omp parallel num_threads(2) reduction(&& : refused)
  {
    Calls calls;
    const bool complete =
        run_team(2, [](void* context, int thread) { ++static_cast<Calls*>(context)->seen[thread]; }, &calls);
    refused = !complete && calls.seen[0] == 0 && calls.seen[1] == 0;
  }
#endif
  check(refused, "nested teams are refused with nothing run");
}

// OpenMP's threads do not come with a fork, and to wait for them would be forever.
void a_forked_process_has_no_team_if_its_parent_had_one() {
  Calls calls;
  const auto body = [](void* context, int thread) { ++static_cast<Calls*>(context)->seen[thread]; };
  const bool had_one = run_team(2, body, &calls);
  check(!threads_are_lost(), "the parent keeps its threads");
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);  // ends it where it waits
    Calls own;
    const bool runs_alone = !run_team(2, body, &own) && own.seen[0] == 0 && run_team(1, body, &own) && own.seen[0] == 1;
    _exit(runs_alone && threads_are_lost() == had_one ? 0 : 1);
  }
  int status = -1;
  check(waitpid(child, &status, 0) == child && status == 0, "a child runs alone, status " + std::to_string(status));
}

constexpr int64_t kMillisecond = 1'000'000;

void calls_that_wait_take_half_of_the_threads_for_a_pause() {
  ThreadLimit limit;
  check(!limit.limits() && limit.threads(16, 0) == 16, "all threads at first");
  limit.report(10 * kMillisecond, 4 * kMillisecond, 0);  // less than half
  limit.report(kMillisecond / 4, kMillisecond / 4, 0);   // too short to tell
  check(!limit.limits(), "no limit after calls that waited little");
  int64_t now = 0;
  for (const int threads : {8, 4, 2, 1, 1}) {
    limit.report(10 * kMillisecond, 6 * kMillisecond, now);
    check(limit.limits() && limit.threads(16, now) == threads, std::to_string(threads) + " threads");
    now += kMillisecond;
  }
  check(limit.threads(1, now) == 1, "one of one");
}

void a_pause_that_is_over_is_followed_by_a_call_with_more_threads() {
  ThreadLimit limit;
  int64_t now = 0, pause = ThreadLimit::kShortestPause;
  for (int failure = 0; failure < 12; ++failure) {
    limit.report(4 * kMillisecond, 3 * kMillisecond, now);
    check(limit.threads(2, now + pause - 1) == 1, "one thread in the pause");
    now += pause;
    check(limit.threads(2, now) == 2 && !limit.limits(), "a call with both after it");
    pause = std::min(2 * pause, ThreadLimit::kLongestPause);  // the next is twice as long
  }
}

void time_well_spent_ends_the_pauses() {
  ThreadLimit limit;
  for (int failure = 0; failure < 5; ++failure) limit.report(4 * kMillisecond, 3 * kMillisecond, 0);
  int64_t now = 0;
  for (int pauses = 0; pauses < 5; ++pauses) limit.threads(2, now += ThreadLimit::kLongestPause);
  check(!limit.limits(), "no limit");
  for (int call = 0; call < 40; ++call) limit.report(4 * kMillisecond, 0, now);
  limit.report(4 * kMillisecond, 3 * kMillisecond, now);
  check(limit.threads(2, now + ThreadLimit::kShortestPause) == 2, "the shortest pause again");
}

}  // namespace

int main() {
  return test::run({
      {"what is written before the barrier is read after it", what_is_written_before_the_barrier_is_read_after_it},
      {"every member of a team runs once, or none does", every_member_of_a_team_runs_once_or_none_does},
      {"a team inside a parallel region is refused", a_team_inside_a_parallel_region_is_refused},
      {"a forked process has no team if its parent had one", a_forked_process_has_no_team_if_its_parent_had_one},
      {"calls that wait take half of the threads for a pause", calls_that_wait_take_half_of_the_threads_for_a_pause},
      {"a pause that is over is followed by a call with more threads",
       a_pause_that_is_over_is_followed_by_a_call_with_more_threads},
      {"time well spent ends the pauses", time_well_spent_ends_the_pauses},
  });
}
