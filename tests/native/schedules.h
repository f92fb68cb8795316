// What the programs declare in schedule_checks.h: a schedule's workspace and its run by a team.
#pragma once

#include <thread>
#include <vector>

#include "cpu/runtime/team.h"
#include "schedule_checks.h"

namespace fused_rnn::test {

// OpenMP's team; under ThreadSanitizer, which does not see how OpenMP synchronises, threads of the test's own.
inline bool run_threads(int threads, void (*body)(void* context, int thread), void* context) {
#if defined(__SANITIZE_THREAD__)
  std::vector<std::thread> members;
  for (int thread = 0; thread < threads; ++thread) members.emplace_back(body, context, thread);
  for (std::thread& member : members) member.join();
  return true;
#else
  return run_team(threads, body, context);
#endif
}

template <class Schedule, class Views>
size_t Compiled<Schedule, Views>::workspace_bytes(const Problem& problem, const Views& views, const Plan& plan) {
  Arena arena(nullptr);
  Schedule(problem, views, plan, arena);
  return arena.used();
}

template <class Schedule>
void run_by_team(const Schedule& schedule, const Plan& plan) {
  schedule.before_team();
  const auto body = [](void* context, int thread) { static_cast<const Schedule*>(context)->run(thread); };
  const bool ran = run_threads(plan.threads(), body, const_cast<Schedule*>(&schedule));
  check(ran, "a team of " + std::to_string(plan.threads()) + " threads");
}

template <class Schedule, class Views>
void Compiled<Schedule, Views>::run(const Problem& problem, const Views& views, const Plan& plan, void* workspace) {
  Arena arena(workspace);
  run_by_team(Schedule(problem, views, plan, arena), plan);
}

template <class Sweep>
void CompiledGradients<Sweep>::run(const Problem& problem, const BackwardViews& views, const Plan& plan,
                                   const GradientWork& work) {
  Arena counting(nullptr);
  const SweepWithGradients<Sweep> counted(problem, views, plan, work, counting);
  const auto workspace = poisoned(counting.used());
  Arena arena(workspace.get());
  run_by_team(SweepWithGradients<Sweep>(problem, views, plan, work, arena), plan);
}

}  // namespace fused_rnn::test
