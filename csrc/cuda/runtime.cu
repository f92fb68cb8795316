// The CUDA runtime's part of schedule.h: devices, what they can hold, and the way from a problem to its kernels.
#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "cells/table.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"
#include "cuda/run_persistent.cuh"

namespace fused_rnn::cuda {

namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

int current_index() {
  int index = 0;
  check(cudaGetDevice(&index), "cudaGetDevice");
  return index;
}

int persistent_type(DataType type, bool tfloat32) {
  switch (type) {
    case DataType::kFloat32:
      return tfloat32 ? 1 : 0;
    case DataType::kBFloat16:
      return 2;
    default:
      return 3;
  }
}

int per_step_type(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return 0;
    case DataType::kFloat64:
      return 1;
    case DataType::kBFloat16:
      return 2;
    default:
      return 3;
  }
}

// Calls visitor(Tag<Cell>, Tag<T>).
template <class Types, class Visitor>
void visit_kernels(const Problem& problem, Types types, int type, Visitor&& visitor) {
  visit_type(Cells{}, problem.cell.index,
             [&](auto cell) { visit_type(types, type, [&](auto element) { visitor(cell, element); }); });
}

// Whether the device can hold a group of the option at all; the answer is kept, since the question is slow.
int resident_groups(const Problem& problem, bool tfloat32, const Option& option) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, int, bool, Schedule, size_t, int>, int> known;
  const int type = persistent_type(problem.type, tfloat32);
  const std::tuple key{current_index(),     problem.cell.index, type, problem.backward, option.schedule,
                       option.shared_bytes, option.shape.ranks};
  const std::lock_guard lock(mutex);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  int groups = 0;
  visit_kernels(problem, PersistentTypes{}, type, [&](auto cell, auto element) {
    using Kernels = PersistentKernels<typename decltype(cell)::type, typename decltype(element)::type>;
    groups = Kernels::resident_groups(option, problem.backward);
  });
  return known[key] = groups;
}

template <class Views>
void run_option(const Problem& problem, bool tfloat32, const Option& option, const Views& views, Products& products,
                void* workspace, void* stream) {
  if (option.schedule == Schedule::kPerStep) {
    visit_kernels(problem, PerStepTypes{}, per_step_type(problem.type), [&](auto cell, auto element) {
      using Kernels = PerStepKernels<typename decltype(cell)::type, typename decltype(element)::type>;
      Kernels::run(problem, views, products, workspace, stream);
    });
    return;
  }
  visit_kernels(problem, PersistentTypes{}, persistent_type(problem.type, tfloat32), [&](auto cell, auto element) {
    using Kernels = PersistentKernels<typename decltype(cell)::type, typename decltype(element)::type>;
    Kernels::run(option, views, workspace, stream);
  });
}

}  // namespace

void clear(void* data, size_t bytes, Stream stream) {
  check(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Device current_device() {
  const int index = current_index();
  return {
      10 * attribute(cudaDevAttrComputeCapabilityMajor, index) + attribute(cudaDevAttrComputeCapabilityMinor, index),
      attribute(cudaDevAttrMultiProcessorCount, index), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index)};
}

std::vector<Option> options_here(const Problem& problem, bool tfloat32) {
  std::vector<Option> all = options(problem, tfloat32, current_device());
  for (Option& option : all) {
    if (option.schedule == Schedule::kPerStep) {
      visit_kernels(problem, PerStepTypes{}, per_step_type(problem.type), [&](auto cell, auto element) {
        using Kernels = PerStepKernels<typename decltype(cell)::type, typename decltype(element)::type>;
        option.workspace_bytes = Kernels::workspace_bytes(problem);
      });
    } else if (option.refusal.empty()) {
      const int groups = resident_groups(problem, tfloat32, option);
      if (groups < 1) {
        option.refusal = "the device cannot hold " + std::to_string(option.shape.ranks) + " such blocks at once";
      } else if (option.schedule == Schedule::kGrid) {
        option.groups_at_once = option.groups_at_once < groups ? option.groups_at_once : groups;
      }
    }
  }
  std::stable_partition(all.begin(), all.end(), [](const Option& option) { return option.refusal.empty(); });
  return all;
}

Option choose(const Problem& problem, bool tfloat32, const std::string& forced) {
  std::string reasons;
  for (const Option& option : options_here(problem, tfloat32)) {
    if (!forced.empty() && forced != option.name) continue;
    if (option.refusal.empty()) return option;
    reasons += std::string("; ") + option.name + ": " + option.refusal;
  }
  if (reasons.empty()) reasons = "; there is no schedule called \"" + forced + "\"";
  throw std::runtime_error("fused_rnn: no CUDA schedule for " + to_string(problem) + reasons);
}

void run(const Problem& problem, bool tfloat32, const Option& option, const ForwardViews& views, Products& products,
         void* workspace, void* stream) {
  run_option(problem, tfloat32, option, views, products, workspace, stream);
}
void run(const Problem& problem, bool tfloat32, const Option& option, const BackwardViews& views, Products& products,
         void* workspace, void* stream) {
  run_option(problem, tfloat32, option, views, products, workspace, stream);
}

CurrentDevice::CurrentDevice(int index) : before_(current_index()) {
  if (index != before_) check(cudaSetDevice(index), "cudaSetDevice");
}
CurrentDevice::~CurrentDevice() { cudaSetDevice(before_); }

}  // namespace fused_rnn::cuda
