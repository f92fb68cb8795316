// The CUDA runtime's part of schedule.h: devices, what they can hold, and the way from a problem to its kernels.
#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "cells/table.h"
#include "cuda/kernels.h"
#include "cuda/launch_error.h"
#include "cuda/loaded_cells.h"
#include "cuda/schedule.h"

namespace fused_rnn::cuda {

namespace {

int current_index() {
  int index = 0;
  check(cudaGetDevice(&index), "cudaGetDevice");
  return index;
}

// Calls visitor(Tag<T>) with the type of a problem's elements.
template <class Visitor>
void visit_element(DataType type, Visitor&& visitor) {
  switch (type) {
    case DataType::kFloat32:
      return visitor(Tag<float>{});
    case DataType::kFloat64:
      return visitor(Tag<double>{});
    case DataType::kBFloat16:
      return visitor(Tag<BFloat16>{});
    case DataType::kFloat16:
      return visitor(Tag<Float16>{});
  }
}

// Those of a cell, built in or loaded.
const CellKernels& kernels_for(const Problem& problem) {
  const CellKernels* found = nullptr;
  visit_type(Cells{}, problem.cell.index, [&](auto cell) {
    visit_element(problem.type, [&](auto element) {
      found = &kernels_of<typename decltype(cell)::type, typename decltype(element)::type>();
    });
  });
  return found != nullptr ? *found : loaded_kernels(problem.cell, problem.type);
}

// The cheapest shape of the option's schedule that the device can hold, or the option refused.
Option resident(const Problem& problem, const Device& device, const Option& option) {
  std::vector<Option> all = shapes(option.schedule, problem, device);
  std::stable_sort(all.begin(), all.end(), [](const Option& a, const Option& b) { return a.step_us < b.step_us; });
  for (Option& one : all) {
    const int groups = kernels_for(problem).resident_groups(problem, one);
    if (groups < 1) continue;
    if (one.schedule == Schedule::kGrid) one.groups_at_once = std::min(one.groups_at_once, groups);
    return one;
  }
  Option refused = option;
  refused.refusal = "the device cannot hold its blocks at once";
  return refused;
}

}  // namespace

Device current_device() {
  return {
      10 * device_attribute(cudaDevAttrComputeCapabilityMajor) + device_attribute(cudaDevAttrComputeCapabilityMinor),
      device_attribute(cudaDevAttrMultiProcessorCount), device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

std::vector<Option> options_here(const Problem& problem) {
  const Device device = current_device();
  std::vector<Option> all = options(problem, device);
  for (Option& option : all) {
    if (option.schedule == Schedule::kPerStep) {
      option.workspace_bytes = kernels_for(problem).per_step_bytes(problem);
    } else if (option.refusal.empty()) {
      option = resident(problem, device, option);
    }
  }
  sort_options(all);
  return all;
}

Option choose(const Problem& problem, const std::string& forced) {
  // Kept for each problem, but for its number of steps, on which the choice does not depend: making it is slow.
  using Key = std::tuple<int, std::string, std::string>;
  static std::mutex mutex;
  static std::map<Key, Option> known;
  Problem any_length = problem;
  constexpr int64_t kLong = int64_t{1} << 30;  // beyond it some schedules refuse
  if (problem.time_steps <= kLong) any_length.time_steps = std::min<int64_t>(problem.time_steps, 1);
  const Key key{current_index(), to_string(any_length), forced};
  {
    const std::lock_guard lock(mutex);
    if (const auto found = known.find(key); found != known.end()) {
      Option option = found->second;
      option.shape.time_steps = option.small.time_steps = static_cast<int>(problem.time_steps);
      return option;
    }
  }
  std::string reasons;
  for (const Option& option : options_here(problem)) {
    if (!forced.empty() && forced != option.name) continue;
    if (option.refusal.empty()) {
      constexpr size_t kMost = 4096;
      const std::lock_guard lock(mutex);
      if (known.size() == kMost) known.clear();
      return known[key] = option;
    }
    reasons += std::string("; ") + option.name + ": " + option.refusal;
  }
  if (reasons.empty()) reasons = "; there is no schedule called \"" + forced + "\"";
  throw std::runtime_error("fused_rnn: no CUDA schedule for " + to_string(problem) + reasons);
}

template <class Views>
void run(const Problem& problem, const Option& option, const Views& views, Products& products, void* workspace,
         void* stream) {
  const CellKernels& kernels = kernels_for(problem);
  if constexpr (std::is_same_v<Views, ForwardViews>) {
    kernels.forward(problem, option, views, products, workspace, stream);
  } else {
    kernels.backward(problem, option, views, products, workspace, stream);
  }
}
template void run(const Problem&, const Option&, const ForwardViews&, Products&, void*, void*);
template void run(const Problem&, const Option&, const BackwardViews&, Products&, void*, void*);

CurrentDevice::CurrentDevice(int index) : before_(current_index()), changed_(index != before_) {
  if (changed_) check(cudaSetDevice(index), "cudaSetDevice");
}
CurrentDevice::~CurrentDevice() {
  if (changed_) cudaSetDevice(before_);
}

}  // namespace fused_rnn::cuda
