// The CUDA schedules as the host sees them: which could run a problem, which is chosen and why, and how it is run.
#pragma once

#include <string>
#include <vector>

#include "core/problem_text.h"
#include "cuda/plan.h"

namespace fused_rnn::cuda {

// What a choice depends on.
struct Device {
  int capability;       // 10 * major + minor
  int multiprocessors;  // that this process may use
  int shared_bytes;     // that one block may have
};

// One schedule for one problem: how it would run, or why it cannot.
struct Option : Plan {
  const char* name;
  std::string refusal;   // empty: it can run
  double step_us = 0;    // a model's estimate, in microseconds for each time step
  std::string estimate;  // where the numbers of that model come from
};

// Every schedule, the fastest by the model first, refused ones last. Workspace of per_step is known only where CUDA is
// built.
std::vector<Option> options(const Problem& problem, const Device& device);
// The order of options().
void sort_options(std::vector<Option>& options);
// Every shape in which a persistent schedule could run the problem.
std::vector<Option> shapes(Schedule schedule, const Problem& problem, const Device& device);
std::string describe(const Option& option);
// Whether strides and offsets within one step of every buffer fit into 32 bits, as all schedules but per_step need.
bool offsets_fit(const Problem& problem, const ForwardViews& views);
bool offsets_fit(const Problem& problem, const BackwardViews& views);

// Below: only where CUDA is built (runtime.cu); errors of the runtime are std::runtime_error.

Device current_device();
// options() on the current device, which knows what it can hold at once.
std::vector<Option> options_here(const Problem& problem);
// The first of the options that the current device can run, as far as it can tell before the launch. `forced`: the
// name of the only schedule allowed, or empty. Throws with every reason when there is none.
Option choose(const Problem& problem, const std::string& forced);
template <class Views>
void run(const Problem& problem, const Option& option, const Views& views, Products& products, void* workspace,
         void* stream);

// Makes a device current for as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_;
  bool changed_;
};

}  // namespace fused_rnn::cuda
