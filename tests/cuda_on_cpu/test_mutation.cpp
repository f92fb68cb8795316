// Shows that the tests of the schedules bite: with any one synchronisation of the kernels left out, some run goes
// wrong.
#include <algorithm>
#include <set>

#include "cells/table.h"
#include "emulated_schedules.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;
using cuda::Option;
using cuda::Schedule;
using T = cuda::BFloat16;
using Cell = LstmCell;

struct Case {
  Shape shape;
  Schedule schedule;
  int splits, column_tiles;  // or the rows of small_block
  bool scatters = false;     // in backward
};

constexpr Shape normalized(Shape shape) {
  shape.normalized = true;
  return shape;
}

// Both ways to meet (one warp for a tile, or several), one and two tiles of columns, every exchange; with layer norms
// where there are kernels for them.
const Case kCases[] = {{{4, 6, 1, 24, 24}, Schedule::kOneBlock, 1, 1},
                       {{4, 12, 1, 24, 24}, Schedule::kOneBlock, 4, 2},
                       {{4, 6, 1, 40, 40}, Schedule::kCluster, 4, 1},
                       {{5, 12, 2, 40, 40}, Schedule::kCluster, 8, 2},
                       {{4, 6, 1, 40, 40}, Schedule::kCluster, 4, 1, true},
                       {{5, 12, 2, 72, 72}, Schedule::kCluster, 4, 2, true},
                       {{4, 6, 1, 40, 40}, Schedule::kGrid, 4, 1},
                       {{5, 12, 2, 40, 40}, Schedule::kGrid, 8, 2},
                       {{4, 3, 2, 24, 24}, Schedule::kSmallBlock, 1, 0},
                       {{4, 6, 1, 40, 40}, Schedule::kSmallBlock, 4, 0},
                       {{4, 6, 1, 40, 40}, Schedule::kSmallBlock, 8, 0},
                       {{3, 2, 1, 72, 72}, Schedule::kSmallBlock, 2, 0},
                       {normalized({4, 9, 1, 24, 24}), Schedule::kOneBlock, 4, 1},
                       {normalized({4, 6, 1, 40, 40}), Schedule::kCluster, 4, 1},
                       {normalized({4, 6, 1, 40, 40}), Schedule::kGrid, 4, 1},
                       {normalized({4, 3, 1, 40, 40}), Schedule::kSmallBlock, 4, 0}};

Option option_of(const Case& one, bool backward) {
  Problem problem = problem_of<Cell>(one.shape, kTypeOf<T>);
  problem.backward = backward;
  for (const Option& option : shapes(one.schedule, problem, kHopper)) {
    if (one.schedule == Schedule::kSmallBlock && option.small.rows == one.splits) return option;
    const cuda::PersistentShape& s = option.shape;
    const bool scatters = one.scatters && backward;
    if (s.splits == one.splits && s.column_tiles == one.column_tiles && s.scatters == scatters) return option;
  }
  check(false, "the shape is possible");
  return {};
}

class Runs {
 public:
  Runs() {
    for (const Case& one : kCases) {
      inputs_.push_back(random_inputs<Cell, T>(one.shape, 7));
      emulator::set_seed(1);
      expected_.push_back(run_case(inputs_.size() - 1));
    }
  }

  // Whether some run, under some order of the threads, throws or differs.
  bool something_goes_wrong() const {
    for (uint64_t seed = 1; seed <= 12; ++seed) {
      for (size_t i = 0; i < inputs_.size(); ++i) {
        emulator::set_seed(seed);
        try {
          if (differs(run_case(i), expected_[i])) return true;
        } catch (const std::logic_error&) {
          return true;
        }
      }
    }
    return false;
  }

 private:
  Results<T> run_case(size_t i) const {
    return run<Cell, T>(kCases[i].shape, inputs_[i], option_of(kCases[i], false), option_of(kCases[i], true));
  }
  static bool differs(const Results<T>& a, const Results<T>& b) {
    bool found = false;
    for_each_buffer(a, b, [&](const char*, const Buffer<T>& left, const Buffer<T>& right) {
      found |=
          !left.data.empty() && std::memcmp(left.data.data(), right.data.data(), left.data.size() * sizeof(T)) != 0;
    });
    return found;
  }

  std::vector<Inputs<T>> inputs_;
  std::vector<Results<T>> expected_;
};

void every_synchronisation_is_needed() {
  const Runs runs;
  std::set<std::string> sites;
  for (const std::string& site : emulator::synchronisation_sites()) sites.insert(site);
  for (const char* file : {"persistent_gemm.cuh", "small_block.cuh", "small_norms.cuh", "one_block.cuh", "cluster.cuh",
                           "scatter.cuh", "grid.cuh", "norm_sums.cuh"}) {
    const auto of_file = [&](const std::string& site) { return site.find(file) == 0; };
    check(std::any_of(sites.begin(), sites.end(), of_file), std::string("synchronisation in ") + file);
  }
  check(!runs.something_goes_wrong(), "nothing goes wrong while nothing is left out");
  for (const std::string& site : sites) {
    emulator::skip_synchronisation(site);
    check(runs.something_goes_wrong(), "without " + site);
    emulator::skip_synchronisation("");
  }
}

}  // namespace

int main() { return test::run({{"every synchronisation is needed", every_synchronisation_is_needed}}); }
