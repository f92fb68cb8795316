// Tests the memory that outlives a call, and that a pass which finds weights packed there has the bits of one that
// packs them: whatever changed since, and however the pass before it shared the work.
#include "schedule_checks.h"
// (first: what follows needs its names)
#include "cpu/runtime/workspace.h"

#include "cpu/gemm/kept_weights.h"

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "cpu/runtime/processor.h"
#include "linear_cells.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

Workspace::Key key_with(const void* weights) {
  Workspace::Key key;
  key.w_hh = weights;
  return key;
}

void use(const void* weights, size_t bytes) { const Workspace workspace(key_with(weights), bytes); }

bool is_kept(const void* weights, size_t bytes) { return Workspace(key_with(weights), bytes).data() != nullptr; }

void a_call_finds_what_the_last_one_with_its_key_left() {
  const int first = 0, second = 0;
  use(&first, 1000), use(&second, 1000);
  const void* memory = nullptr;
  {
    const Workspace workspace(key_with(&first), 1000);
    memory = workspace.data();
    check(memory != nullptr, "a key that was seen has memory");
    if (memory == nullptr) return;
    check(reinterpret_cast<uintptr_t>(memory) % Arena::kAlignment == 0, "aligned");
    for (int i = 0; i < 1000; ++i) check(static_cast<const char*>(memory)[i] == 0, "new memory is zeros");
    static_cast<char*>(workspace.data())[999] = 7;
  }
  {
    const Workspace other(key_with(&second), 1000);
    check(other.data() != nullptr && other.data() != memory, "another key has other memory");
    const Workspace same(key_with(&first), 500);
    check(same.data() == memory && static_cast<const char*>(same.data())[999] == 7, "the same key has the same memory");
    check(!is_kept(&first, 500), "memory in use is nobody else's");
    const Workspace beside(key_with(&first), 500);
    check(beside.data() != nullptr && beside.data() != memory, "calls that meet again have memory each");
  }
  const Workspace larger(key_with(&first), 5000);
  check(static_cast<const char*>(larger.data())[4999] == 0, "memory that had to grow is zeros");
}

void weights_have_memory_from_the_second_call_on() {
  const int weights = 0;
  const size_t before = Workspace::waiting_bytes(), bytes = 1000;
  check(!is_kept(&weights, bytes), "none at first");
  check(Workspace::waiting_bytes() == before, "a key takes no memory");
  check(is_kept(&weights, bytes) && Workspace::waiting_bytes() == before + bytes, "the second call leaves its memory");
  check(Workspace({}, bytes).data() != nullptr, "what packs nothing has memory at once");
}

void what_waits_is_bounded() {
  const size_t quarter = Workspace::kMostBytes / 4;
  std::vector<char> keys(10);
  for (const char& key : keys) {
    for (int call = 0; call < 2; ++call) use(&key, quarter);
    check(quarter <= Workspace::waiting_bytes() && Workspace::waiting_bytes() <= Workspace::kMostBytes, "bounded");
  }
  static_cast<char*>(Workspace(key_with(&keys.back()), quarter).data())[0] = 1;
  {
    const Workspace last(key_with(&keys.back()), quarter);
    check(static_cast<char*>(last.data())[0] == 1, "the last to be used waits longest");
  }
  use(nullptr, Workspace::kMostBytes + 1);
  for (int call = 0; call < 2; ++call) check(!is_kept(&keys[0], Workspace::kMostBytes + 1), "too large to be kept");
  check(is_kept(&keys.back(), quarter), "what is too large pushes nothing out");
}

void keys_without_memory_count_as_if_they_had_it() {
  const size_t quarter = Workspace::kMostBytes / 4;
  std::vector<char> keys(100);
  for (int turn = 0; turn < 3; ++turn) {
    for (const char& key : keys) check(!is_kept(&key, quarter), "a key that others pushed out is new");
  }
  check(Workspace::waiting_bytes() == 0, "keys push out memory");
  for (size_t i = 96; i < 100; ++i) check(is_kept(&keys[i], quarter), "the last keys are remembered");
}

void no_more_keys_are_remembered_than_a_limit() {
  std::vector<char> keys(Workspace::kMostBlocks + 1);
  for (const char& key : keys) check(!is_kept(&key, 1), "new");
  check(!is_kept(&keys.front(), 1), "the first was pushed out by the number of the others");
  check(is_kept(&keys.back(), 1), "the last is remembered");
}

// The weights of two gates and two blocks of units, rows with gaps between them; W is what they are packed as.
template <class T, class W>
class KeptMatrix {
 public:
  explicit KeptMatrix(int64_t gap) : row_stride_(kColumns + gap) {
    rows.resize(static_cast<size_t>(kGates * kUnits * row_stride_));
  }

  void pack() {
    for (int64_t block = 0; block < kBlocks; ++block) {
      pack_changed_block<kGates, 1>(source(rows.data(), row_stride_), block, packed_.data() + block * kStride,
                                    copy_.data());
    }
  }
  bool is_packed_from(const T* data, int64_t row_stride) const {
    std::vector<W> expected(packed_.size());
    for (int64_t block = 0; block < kBlocks; ++block) {
      pack_block<kGates, 1>(source(data, row_stride), block, expected.data() + block * kStride);
    }
    return std::memcmp(expected.data(), packed_.data(), expected.size() * sizeof(W)) == 0;
  }
  bool is_current() const { return is_packed_from(rows.data(), row_stride_); }
  bool is_packed_from_copy() const { return is_packed_from(copy_.data(), kColumns); }

  std::vector<T> rows;

 private:
  static constexpr int kGates = 2, kBlocks = 2;
  static constexpr int64_t kLanes = Vec<RealOf<T>>::kLanes, kUnits = kBlocks * kLanes - 1, kColumns = 37;
  static constexpr int64_t kStride = (kColumns + 1) * kGates * kLanes;

  static PackSource<T> source(const T* data, int64_t row_stride) {
    return {data, kUnits, kUnits * row_stride, row_stride, 1, 0, 1, kColumns, kColumns};
  }

  int64_t row_stride_;
  std::vector<T> copy_ = std::vector<T>(kGates * kUnits * kColumns);
  std::vector<W> packed_ = std::vector<W>(kBlocks * kStride);
};

// Runs check_of.operator()<T, W>() for every type of weights and what it is packed as.
template <class Check>
void for_each_type(const Check& check_of) {
  check_of.template operator()<float, float>();
  check_of.template operator()<double, double>();
  check_of.template operator()<BFloat16, float>();
  check_of.template operator()<Float16, float>();
#if defined(FUSED_RNN_BFLOAT16_DOT)
  if (has_bfloat16_dot()) check_of.template operator()<PairedBFloat16, BFloat16Pair>();
#endif
}

void any_writes_to_weights_are_seen() {
  for_each_type([]<class T, class W>() {
    std::mt19937_64 random(7);  // NOLINT(bugprone-random-generator-seed): the same ones each time
    for (const int64_t gap : {0, 3}) {
      KeptMatrix<T, W> matrix(gap);
      check(matrix.is_current(), "zeros are the packed form of zeros");
      for (size_t i = 0; i < matrix.rows.size(); i += 2) matrix.rows[i] = from_double<T>(-0.0);
      matrix.pack();
      check(matrix.is_current(), "zeros with signs");
      bool current = true;
      for (int trial = 0; trial < 3000; ++trial) {
        const size_t writes = 1 + (trial % 3 == 0 ? random() % matrix.rows.size() : trial % 3);
        for (size_t i = 0; i < writes; ++i) {
          T& element = matrix.rows[random() % matrix.rows.size()];
          constexpr double kValues[] = {0.0, -0.0, 1.0, -1.0, 1.5, -0.25};
          element = from_double<T>(kValues[random() % 6]);
          if (random() % 4 == 0) reinterpret_cast<char*>(&element)[random() % sizeof(T)] ^= char(1 << random() % 8);
        }
        matrix.pack();
        current = current && matrix.is_current();
      }
      check(current, "every write is seen");
    }
  });
}

void weights_that_change_while_they_are_packed_are_right_when_they_rest() {
  for_each_type([]<class T, class W>() {
    KeptMatrix<T, W> matrix(0);
    const std::vector<T> ones(matrix.rows.size(), from_double<T>(1.0)), twos(ones.size(), from_double<T>(2.0));
    std::atomic<bool> done = false;
    bool consistent = true, current = true;
    std::thread writer([&] {
      while (!done) {
        for (const auto& values : {std::cref(ones), std::cref(twos)}) {
          std::copy(values.get().begin(), values.get().end(), matrix.rows.begin());
          std::atomic_signal_fence(std::memory_order_seq_cst);  // each is written in fact
        }
      }
    });
    for (int pass = 0; pass < 3000; ++pass) {
      matrix.pack();
      consistent = consistent && matrix.is_packed_from_copy();
    }
    done = true;
    writer.join();
    for (const auto& values : {std::cref(ones), std::cref(twos)}) {
      std::copy(values.get().begin(), values.get().end(), matrix.rows.begin());
      matrix.pack();
      current = current && matrix.is_current();
    }
    check(consistent, "packed == pack(copy)");
    check(current, "right when nobody writes");
  });
}

// Runs the schedule in a memory that it has to itself from pass to pass.
class Passes {
 public:
  template <class Cell, class T>
  Results<T> run(const Shape& s, const Inputs<T>& in, const Plan& plan) {
    Problem problem = problem_of<Cell>(s, kTypeOf<T>);
    problem.keeps_weights = true;
    Results<T> out = empty_results<Cell, T>(s);
    const ForwardViews views = forward_views(in, out);
    using Sweep = Compiled<PlainForward<Cell, T>, ForwardViews>;
    const size_t used = (Sweep::workspace_bytes(problem, views, plan) + sizeof(Line) - 1) / sizeof(Line);
    if (memory_.size() < used) memory_.resize(used);
    Sweep::run(problem, views, plan, memory_.data());
    return out;
  }

 private:
  struct alignas(Arena::kAlignment) Line {
    char bytes[Arena::kAlignment] = {};
  };
  std::vector<Line> memory_ = std::vector<Line>(1 << 14);  // so much that it need not grow
};

template <class Cell, class T>
void check_passes(Shape s) {
  Passes kept;
  Inputs<T> inputs = random_inputs<Cell, T>(s, 4);
  const auto check_pass = [&](const Plan& plan, const std::string& what) {
    check_identical(kept.run<Cell, T>(s, inputs, plan), Passes().run<Cell, T>(s, inputs, {}),
                    std::string(Cell::kName) + to_string(s, plan) + " " + what);
  };
  check_pass({}, "at first");
  check_pass({}, "again");
  check_pass({1, 2, 1}, "by rows");
  check_pass({1, 1, 2}, "by units");
  inputs.w_hh.data.back() = from_double<T>(0.75);
  check_pass({1, 1, 2}, "after a change of W_hh");
  inputs.w_ih.data.front() = from_double<T>(-0.75);
  check_pass({}, "after a change of W_ih");
  if (!inputs.w_hr.data.empty()) inputs.w_hr.data.back() = from_double<T>(0.75);
  check_pass({1, 2, 1}, "after a change of W_hr");
  if (!inputs.b_hh.data.empty()) inputs.b_hh.data.back() = from_double<T>(0.75);
  check_pass({}, "after a change of b_hh");
}

void a_pass_that_finds_packed_weights_has_the_same_bits() {
  Shape s{4, 3, 2, 37, 37};
  s.input_size = 21;
  check_passes<BilinearCell, float>(s);
  check_passes<IdentityCell, BFloat16>(s);
  s.output_size = 18;
  check_passes<TwoStateCell, double>(s);
}

}  // namespace

int main() {
  return test::run({
      {"a call finds what the last one with its key left", a_call_finds_what_the_last_one_with_its_key_left},
      {"weights have memory from the second call on", weights_have_memory_from_the_second_call_on},
      {"what waits is bounded", what_waits_is_bounded},
      {"keys without memory count as if they had it", keys_without_memory_count_as_if_they_had_it},
      {"no more keys are remembered than a limit", no_more_keys_are_remembered_than_a_limit},
      {"any writes to weights are seen", any_writes_to_weights_are_seen},
      {"weights that change while they are packed are right when they rest",
       weights_that_change_while_they_are_packed_are_right_when_they_rest},
      {"a pass that finds packed weights has the same bits", a_pass_that_finds_packed_weights_has_the_same_bits},
  });
}
