// Tests the memory that outlives a call, and that a pass which finds weights packed there has the bits of one that
// packs them: whatever changed since, and however the pass before it shared the work.
#include "schedule_checks.h"
// (first: what follows needs its names)
#include "cpu/workspace.h"

#include "cpu/backward_sweep.h"
#include "cpu/forward_sweep.h"

#include "linear_cells.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

Workspace::Key key_with(const void* weights) {
  Workspace::Key key;
  key.w_hh = weights;
  return key;
}

void a_call_finds_what_the_last_one_with_its_key_left() {
  const int first = 0, second = 0;
  const void* memory = nullptr;
  {
    const Workspace workspace(key_with(&first), 1000);
    memory = workspace.data();
    check(reinterpret_cast<uintptr_t>(memory) % Arena::kAlignment == 0, "aligned");
    for (int i = 0; i < 1000; ++i) check(static_cast<const char*>(memory)[i] == 0, "new memory is zeros");
    static_cast<char*>(workspace.data())[999] = 7;
  }
  {
    const Workspace other(key_with(&second), 1000);
    check(other.data() != memory, "another key has other memory");
    const Workspace same(key_with(&first), 500);
    check(same.data() == memory && static_cast<const char*>(same.data())[999] == 7, "the same key has the same memory");
    const Workspace beside(key_with(&first), 500);
    check(beside.data() != memory, "memory in use is nobody else's");
  }
  const Workspace larger(key_with(&first), 5000);
  check(static_cast<const char*>(larger.data())[4999] == 0, "memory that had to grow is zeros");
}

void what_waits_is_bounded() {
  std::vector<char> keys(10);
  for (const char& key : keys) {
    {
      const Workspace workspace(key_with(&key), Workspace::kMostBytes / 4);
    }
    check(Workspace::waiting_bytes() <= Workspace::kMostBytes, "bounded");
  }
  {
    const Workspace last(key_with(&keys.back()), Workspace::kMostBytes / 4);
    static_cast<char*>(last.data())[0] = 1;
  }
  const Workspace last(key_with(&keys.back()), Workspace::kMostBytes / 4);
  check(static_cast<char*>(last.data())[0] == 1, "the last to be used waits longest");
  {
    const Workspace huge({}, Workspace::kMostBytes + 1);
  }
  check(Workspace::waiting_bytes() <= Workspace::kMostBytes, "what is too large does not wait");
}

template <class T>
void check_fingerprint() {
  constexpr int kGroups = 2;
  const int64_t units = 2 * Vec<RealOf<T>>::kLanes - 1, size = 150;  // two blocks
  std::vector<T> values(static_cast<size_t>(kGroups * units * size));
  Random random(5);
  for (T& value : values) value = from_double<T>(random(-1.0, 1.0));
  const auto of_block = [&](int64_t block) {
    return fingerprint_of<kGroups, 1>(PackSource<T>{values.data(), units, units * size, size, 1, 0, 1, size, size},
                                      block);
  };
  const Fingerprint before[] = {of_block(0), of_block(1)};
  check(before[0] == of_block(0) && !(before[0] == before[1]), "of the same and of other values");
  char* bytes = reinterpret_cast<char*>(values.data());
  const size_t count = values.size() * sizeof(T);
  const auto seen = [&] { return !(before[0] == of_block(0)) || !(before[1] == of_block(1)); };
  bool every_bit = true;
  for (size_t byte = 0; byte < count; byte += 7) {
    bytes[byte] ^= char(1 << byte % 8);
    every_bit = every_bit && seen();
    bytes[byte] ^= char(1 << byte % 8);
  }
  check(every_bit, "a changed bit is seen");
  bool every_pair = true;  // of signs: they are the highest bits, which a product does not spread
  for (size_t distance = 1; distance < 2 * static_cast<size_t>(Fingerprint::kBytes) / sizeof(T); ++distance) {
    for (const size_t at : {size_t{0} + distance, distance + 1}) {
      bytes[(at - distance + 1) * sizeof(T) - 1] ^= char(-128), bytes[(at + 1) * sizeof(T) - 1] ^= char(-128);
      every_pair = every_pair && seen();
      bytes[(at - distance + 1) * sizeof(T) - 1] ^= char(-128), bytes[(at + 1) * sizeof(T) - 1] ^= char(-128);
    }
  }
  check(every_pair, "two changed signs are seen");
  for (size_t i = sizeof(T) - 1; i < count; i += sizeof(T)) bytes[i] ^= char(-128);
  check(seen(), "all changed signs are seen");
}

void a_fingerprint_sees_changes() {
  check_fingerprint<float>();
  check_fingerprint<double>();
  check_fingerprint<BFloat16>();
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
    Arena counting(nullptr);
    ForwardSweep<Cell, T>(problem, views, plan, counting);
    const size_t used = (counting.used() + sizeof(Line) - 1) / sizeof(Line);
    if (memory_.size() < used) memory_.resize(used);
    Arena arena(memory_.data());
    const ForwardSweep<Cell, T> sweep(problem, views, plan, arena);
    sweep.before_team();
    const auto body = [](void* context, int thread) {
      static_cast<const ForwardSweep<Cell, T>*>(context)->run(thread);
    };
    check(run_threads(plan.threads(), body, const_cast<ForwardSweep<Cell, T>*>(&sweep)), "a team");
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
  if (inputs.w_hh.rows != inputs.w_hh.columns) return;
  for (const char* what : {"as its transpose in the same memory", "as it was before"}) {
    std::swap(inputs.w_hh.row_stride, inputs.w_hh.column_stride);
    check_pass({}, what);
  }
}

void a_pass_that_finds_packed_weights_has_the_same_bits() {
  for (const bool transposed : {false, true}) {
    Shape s{4, 3, 2, 37, 37};
    s.input_size = 21, s.transposed = transposed;
    check_passes<BilinearCell, float>(s);
    check_passes<IdentityCell, BFloat16>(s);
    s.output_size = 18;
    check_passes<TwoStateCell, double>(s);
  }
}

}  // namespace

int main() {
  return test::run({
      {"a call finds what the last one with its key left", a_call_finds_what_the_last_one_with_its_key_left},
      {"what waits is bounded", what_waits_is_bounded},
      {"a fingerprint sees changes", a_fingerprint_sees_changes},
      {"a pass that finds packed weights has the same bits", a_pass_that_finds_packed_weights_has_the_same_bits},
  });
}
