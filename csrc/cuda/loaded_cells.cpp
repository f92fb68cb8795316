// See loaded_cells.h.
#include "cuda/loaded_cells.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace fused_rnn::cuda {

namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::pair<int, DataType>, const CellKernels*> kernels;  // by the cell's index
};

Registry& registry() {
  static Registry all;
  return all;
}

}  // namespace

void add_kernels(const CellSpec& cell, DataType type, const CellKernels& kernels) {
  const std::lock_guard lock(registry().mutex);
  registry().kernels.try_emplace({cell.index, type}, &kernels);
}

const CellKernels& loaded_kernels(const CellSpec& cell, DataType type) {
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().kernels.find({cell.index, type});
  if (found == registry().kernels.end()) {
    throw std::invalid_argument("cell \"" + std::string(cell.name) + "\" was not compiled for GPUs and " +
                                name_of(type));
  }
  return *found->second;
}

}  // namespace fused_rnn::cuda
