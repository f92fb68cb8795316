// See loaded_cells.h.
#include "cpu/loaded_cells.h"

#include <dlfcn.h>

#include <array>
#include <deque>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>

#include "cells/table.h"

namespace fused_rnn {

namespace {

constexpr size_t kTypes = 4;

struct LoadedCell {
  CellSpec spec;
  std::array<const CpuUnit*, kTypes> units{};  // by DataType
};

class Registry {
 public:
  CellSpec add(const CellModule& module) {
    const std::unique_lock lock(mutex_);
    LoadedCell* cell = find(module.cell.name);
    if (cell == nullptr) {
      cell = &cells_.emplace_back();
      cell->spec = module.cell;
      cell->spec.index = Cells::kSize + static_cast<int>(cells_.size()) - 1;
    }
    const CpuUnit*& unit = cell->units.at(static_cast<size_t>(module.type));
    if (unit == nullptr) unit = module.unit;
    return cell->spec;
  }

  std::optional<CellSpec> spec_of(std::string_view name) {
    const std::shared_lock lock(mutex_);
    const LoadedCell* const cell = find(name);
    return cell == nullptr ? std::nullopt : std::optional(cell->spec);
  }

  const CpuUnit* unit_of(int index, DataType type) {
    const std::shared_lock lock(mutex_);
    const auto place = static_cast<size_t>(index - Cells::kSize);
    return place < cells_.size() ? cells_[place].units.at(static_cast<size_t>(type)) : nullptr;
  }

 private:
  LoadedCell* find(std::string_view name) {
    for (LoadedCell& cell : cells_) {
      if (name == cell.spec.name) return &cell;
    }
    return nullptr;
  }

  std::shared_mutex mutex_;
  std::deque<LoadedCell> cells_;
};

Registry& registry() {
  static Registry all;
  return all;
}

}  // namespace

CellSpec load_cell(const std::string& path, const std::string& sources) {
  const auto refuse = [&](const std::string& why) -> std::invalid_argument {
    return std::invalid_argument("cannot load the cell in " + path + ": " + why);
  };
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw refuse(dlerror());
  void* const symbol = dlsym(library, kCellModuleFunction);
  if (symbol == nullptr) throw refuse("it is no library of a cell");
  static const CpuRuntime runtime{run_team, make_plan, plan_options, &Barrier::make, &Barrier::wait};
  const CellModule& module = reinterpret_cast<CellModuleFunction>(symbol)(runtime);
  if (sources != module.sources) throw refuse("it was compiled from other sources, for another version of fused_rnn");
  if (active_cpu_isa() != module.instruction_set) {
    throw refuse("it was compiled for " + std::string(module.instruction_set) + ", and " + active_cpu_isa() +
                 " is in use");
  }
  if (find_cell(module.cell.name) >= 0) throw refuse(std::string(module.cell.name) + " is a built-in cell");
  return registry().add(module);
}

std::optional<CellSpec> find_loaded_cell(std::string_view name) { return registry().spec_of(name); }

const CpuUnit& cpu_unit_of(const CellSpec& cell, DataType type) {
  if (cell.index < Cells::kSize) return active_cpu_unit();
  const CpuUnit* const unit = registry().unit_of(cell.index, type);
  if (unit == nullptr) {
    throw std::invalid_argument("cell \"" + std::string(cell.name) + "\" was not compiled for " + name_of(type));
  }
  return *unit;
}

}  // namespace fused_rnn
