// See run.h.
#include "cpu/run.h"

#include <algorithm>
#include <cstring>

#include "core/range.h"
#include "cpu/loaded_cells.h"
#include "cpu/runtime/contention.h"
#include "cpu/runtime/team.h"
#include "cpu/runtime/workspace.h"
#include "cpu/schedules/weight_gradients.h"

namespace fused_rnn {

namespace {

// Multiplications of a GEMM that are worth one more thread: 18 us of one core, where starting a thread takes 1 to 10.
constexpr double kWorthOneThread = 1 << 21;
constexpr size_t kCopyWorthOneThread = 1 << 19;  // bytes, likewise: 16 us (EPYC, Zen 4, 2026-11-30)

double multiplications(const MatrixWork& work) {
  double size = 0;
  for (const MatrixProduct& gemm : work) {
    for (const RightFactor& factor : gemm.factors) {
      size += static_cast<double>(gemm.rows) * static_cast<double>(gemm.depth) * static_cast<double>(factor.columns);
    }
  }
  return size;
}

int threads_for(double multiplications, int most) {
  return static_cast<int>(std::clamp(multiplications / kWorthOneThread, 1.0, static_cast<double>(most)));
}

// Whether packed weights can be compared with where they came from: row by row.
bool are_rows(const ForwardViews& views) {
  const auto rows = [](const WeightView& w) { return !w || w.column_stride == 1; };
  return (views.w_hh || views.w_ih) && rows(views.w_hh) && rows(views.w_ih) && rows(views.w_hr);
}

const BackwardSchedule& backward_schedule(const Problem& problem) {
  return cpu_unit_of(problem.cell, problem.type).backward(problem);
}

void run_planned(const BackwardSchedule& schedule, const Problem& problem, const BackwardViews& views,
                 const Plan& plan) {
  const Workspace workspace({}, schedule.workspace_bytes(problem, plan));
  schedule.run(problem, views, plan, workspace.data());
}

// All of one type, whose factors are all rounded or none.
void multiply_on(const MatrixWork& work, int threads) {
  if (work.empty()) return;
  const int used = threads_for(multiplications(work), threads);
  const Products& products = active_cpu_unit().products(work.front().type, work.front().rounds_factors);
  const Workspace workspace({}, products.workspace_bytes(work, used));
  products.run(work, used, workspace.data());
}

}  // namespace

void run_forward(const Problem& problem, const ForwardViews& views, int threads) {
  const ForwardSchedule& schedule = cpu_unit_of(problem.cell, problem.type).forward(problem);
  const Plan plan = schedule.plan(problem, free_threads(threads));
  if (problem.keeps_weights && are_rows(views)) {
    const Workspace kept(Workspace::key_of(problem, views), schedule.workspace_bytes(problem, plan));
    if (kept.data() != nullptr) return schedule.run(problem, views, plan, kept.data());
  }
  Problem packing = problem;
  packing.keeps_weights = false;
  const Workspace workspace({}, schedule.workspace_bytes(packing, plan));
  schedule.run(packing, views, plan, workspace.data());
}

void run_backward(const Problem& problem, const BackwardViews& views, int threads) {
  const BackwardSchedule& schedule = backward_schedule(problem);
  run_planned(schedule, problem, views, schedule.plan(problem, free_threads(threads)));
}

void run_backward(const Problem& problem, const BackwardViews& views, const LayerGradientViews& layer, int most) {
  const int threads = free_threads(most);
  Arena counter(nullptr);
  const WeightGradients counting(problem, views, layer, counter);
  const Workspace memory({}, counter.used());
  Arena arena(memory.data());
  const WeightGradients gradients(problem, views, layer, arena);
  gradients.prepare();
  const GradientWork work = gradients.work();
  const BackwardSchedule& schedule = backward_schedule(problem);
  const Plan plan = schedule.plan(problem, threads);
  double size = multiplications(work.at_end);
  for (const MatrixWork& some : work.of_steps) size += multiplications(some);
  if (schedule.run_with_gradients != nullptr && threads_for(size, threads) == plan.threads()) {
    const Workspace workspace({}, schedule.gradients_workspace_bytes(problem, plan, work));
    return schedule.run_with_gradients(problem, views, plan, workspace.data(), work);
  }
  // The pass and the GEMMs want another number of threads each.
  run_planned(schedule, problem, views, plan);
  for (auto some = work.of_steps.rbegin(); some != work.of_steps.rend(); ++some) multiply_on(*some, threads);
  multiply_on(work.at_end, threads);
}

void multiply(const MatrixWork& work, int threads) { multiply_on(work, free_threads(threads)); }

void copy(void* to, const void* from, size_t bytes, int threads) {
  if (bytes == 0) return;
  struct Copying {
    char* to;
    const char* from;
    Range bytes;
    int threads;
  };
  const size_t worth = std::max<size_t>(bytes / kCopyWorthOneThread, 1);
  Copying copying{static_cast<char*>(to), static_cast<const char*>(from), {0, static_cast<int64_t>(bytes)}, 1};
  if (worth > 1) copying.threads = static_cast<int>(std::min<size_t>(worth, free_threads(threads)));
  const auto body = [](void* context, int thread) {
    const Copying& all = *static_cast<const Copying*>(context);
    const Range part = part_of(all.bytes, all.threads, thread);
    std::memcpy(all.to + part.begin, all.from + part.begin, part.size());
  };
  if (!run_team(copying.threads, body, &copying)) std::memcpy(to, from, bytes);  // the threads did not come
}

}  // namespace fused_rnn
