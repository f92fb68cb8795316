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
  CellSpec add(const CellSpec& spec) {
    const std::unique_lock lock(mutex_);
    LoadedCell* cell = find(spec.name);
    if (cell == nullptr) {
      cell = &cells_.emplace_back();
      cell->spec = spec;
      cell->spec.index = Cells::kSize + static_cast<int>(cells_.size()) - 1;
    }
    return cell->spec;
  }

  void add_unit(const CellSpec& known, DataType type, const CpuUnit* added) {
    const std::unique_lock lock(mutex_);
    const CpuUnit*& unit = find(known.name)->units.at(static_cast<size_t>(type));
    if (unit == nullptr) unit = added;
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

std::invalid_argument refusal(const std::string& path, const std::string& why) {
  return std::invalid_argument("cannot load the cell in " + path + ": " + why);
}

}  // namespace

void* function_of_library(const std::string& path, const char* name) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw refusal(path, dlerror());
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr) throw refusal(path, "it is no library of a cell");
  return symbol;
}

CellSpec add_cell(const std::string& path, const CellSpec& cell, const char* compiled_from,
                  const std::string& sources) {
  if (sources != compiled_from) {
    throw refusal(path, "it was compiled from other sources, for another version of fused_rnn");
  }
  if (find_cell(cell.name) >= 0) throw refusal(path, std::string(cell.name) + " is a built-in cell");
  return registry().add(cell);
}

CellSpec load_cell(const std::string& path, const std::string& sources) {
  void* const function = function_of_library(path, kCellModuleFunction);
  static const CpuRuntime runtime{run_team, make_plan, plan_options, &Barrier::make, &Barrier::wait};
  const CellModule& module = reinterpret_cast<CellModuleFunction>(function)(runtime);
  if (sources == module.sources && active_cpu_isa() != module.instruction_set) {
    throw refusal(path, "it was compiled for " + std::string(module.instruction_set) + ", and " + active_cpu_isa() +
                            " is in use");
  }
  const CellSpec cell = add_cell(path, module.cell, module.sources, sources);
  registry().add_unit(cell, module.type, module.unit);
  return cell;
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
