// The CUDA schedules as the host sees them: which could run a problem, which is chosen and why, and how it is run.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "core/problem.h"
#include "core/views.h"
#include "cuda/persistent_shape.h"
#include "cuda/products.h"
#include "cuda/small_shape.h"

namespace fused_rnn::cuda {

// What a choice depends on.
struct Device {
  int capability;       // 10 * major + minor
  int multiprocessors;  // that this process may use
  int shared_bytes;     // that one block may have
};

enum class Schedule { kPerStep, kSmallBlock, kOneBlock, kCluster, kGrid };

// One schedule for one problem: how it would run, or why it cannot.
struct Option {
  Schedule schedule;
  const char* name;
  std::string refusal;         // empty: it can run
  double step_us = 0;          // a model's estimate, in microseconds for each time step
  std::string estimate;        // where the numbers of that model come from
  PersistentShape shape{};     // of one_block, cluster and grid
  SmallShape small{};          // of small_block
  int groups = 0;              // of blocks, in all
  int groups_at_once = 0;      // in one launch
  size_t shared_bytes = 0;     // of a block
  size_t workspace_bytes = 0;  // in global memory
};

// Every schedule, the fastest by the model first, refused ones last. Workspace of per_step is known only where CUDA is
// built.
std::vector<Option> options(const Problem& problem, const Device& device);
// The order of options().
void sort_options(std::vector<Option>& options);
// Every shape in which a persistent schedule could run the problem.
std::vector<Option> shapes(Schedule schedule, const Problem& problem, const Device& device);
std::string describe(const Option& option);
// Whether strides and offsets within one step of every buffer fit into 32 bits, as all schedules but per_step need;
// those of the variants, which per_step alone runs, are not looked at.
bool offsets_fit(const Problem& problem, const ForwardViews& views);
bool offsets_fit(const Problem& problem, const BackwardViews& views);

// The kernels of one cell for one type.
struct CellKernels {
  void (*forward)(const Problem&, const Option&, const ForwardViews&, Products&, void* workspace, void* stream);
  void (*backward)(const Problem&, const Option&, const BackwardViews&, Products&, void* workspace, void* stream);
  size_t (*per_step_bytes)(const Problem&);  // workspace of per_step
  // How many groups of a persistent option's blocks the current device can hold at once; 0 where there is no kernel.
  int (*resident_groups)(const Problem&, const Option&);
};

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
