// Tests that the results of the CPU schedules are the same bits however threads share the work, with more parts than
// there is work too; under ThreadSanitizer, also that the threads wait for all that they share.
#include "schedule_checks.h"
// (first: what follows needs its names)
#include "cpu/schedules/partition.h"

#include "linear_cells.h"

namespace {

using namespace fused_rnn;
using namespace fused_rnn::test;

template <class Cell, class T>
void check_sweep(const Shape& s) {
  Sweeps::check_plans<Cell, T>(s, {Plan{2, 1, 1}, Plan{1, 2, 1}, Plan{1, 1, 2}, Plan{1, 1, 3}, Plan{2, 1, 2},
                                   Plan{1, 2, 2}, Plan{1, 3, 1}, Plan{2, 2, 1}});
}

void sweeps_do_not_depend_on_how_threads_share_the_work() {
  check_sweep<IdentityCell, IdentityType>({8, 5, 2, 70, 70});
  check_sweep<BilinearCell, float>({8, 5, 2, 37, 37});
  check_sweep<TwoStateCell, double>({8, 3, 2, 37, 37});
  check_sweep<TwoStateCell, double>({8, 5, 2, 70, 33});
  check_sweep<IdentityCell, BFloat16>({8, 5, 2, 70, 70});
  check_sweep<BilinearCell, float>({8, 5, 2, 37, 37, true, true, false, true, true});
  check_sweep<TwoStateCell, double>({8, 5, 2, 70, 33, true, true, false, true, true});
  Shape made{8, 5, 2, 70, 33};
  made.input_size = 40;
  check_sweep<TwoStateCell, double>(made);
  made.lengths = made.resets = true;  // rows are cut by their steps, not evenly
  check_sweep<TwoStateCell, double>(made);
  made.lengths = made.resets = false;
  made.time_steps = 1, made.output_size = 70;
  check_sweep<TwoStateCell, double>(made);
  check_sweep<BilinearCell, float>(made);
}

template <class Cell, class T>
void check_variants(const Shape& s) {
  for (const Shape& shape : variants_of<Cell>(s)) {
    if (shape.normalized) continue;
    Variants::check_plans<Cell, T>(
        shape, {Plan{2, 1, 1}, Plan{1, 2, 1}, Plan{1, 1, 2}, Plan{1, 1, 3}, Plan{2, 1, 2}, Plan{1, 2, 2}});
  }
}

void variants_do_not_depend_on_how_threads_share_the_work() {
  check_variants<WeightedCell, float>({7, 5, 2, 37, 37, true, true, false, true, true});
  check_variants<TwoStateCell, double>({7, 4, 2, 37, 37});
  check_variants<TwoStateCell, double>({7, 5, 2, 70, 33, true, true, false, true, true});
}

template <class Cell, class T>
void check_row_schedule(const Shape& s) {
  for (const Shape& shape : variants_of<Cell>(s)) {
    if (!shape.normalized) continue;
    Rows::check_plans<Cell, T>(
        shape, {Plan{2, 1, 1}, Plan{1, 2, 1}, Plan{1, 3, 1}, Plan{2, 2, 1}, Plan{1, 6, 1}, Plan{2, 3, 1}});
  }
}

void schedules_of_whole_rows_do_not_depend_on_how_threads_share_the_work() {
  check_row_schedule<TwoStateCell, double>({7, 4, 2, 37, 37});
  check_row_schedule<TwoStateCell, double>({7, 5, 2, 70, 33, true, true, false, true, true});
}

// The first rows of all parts, and the end.
std::vector<int64_t> cut(const std::vector<int64_t>& lengths, int64_t parts) {
  const Problem problem{.cell = {},
                        .type = {},
                        .time_steps = 10,
                        .batch = static_cast<int64_t>(lengths.size()),
                        .directions = 1,
                        .hidden_size = 1,
                        .output_size = 1,
                        .backward = false,
                        .projected = false};
  std::vector<int64_t> rows;
  for (int64_t part = 0; part <= parts; ++part) {
    rows.push_back(first_row_of_part(problem, lengths.data(), parts, part));
  }
  return rows;
}

void rows_are_cut_where_both_sides_have_as_many_steps() {
  using Rows = std::vector<int64_t>;
  check(cut({10, 10, 10, 10}, 2) == Rows{0, 2, 4}, "equal rows");
  check(cut({10, 3, 3, 3, 1}, 2) == Rows{0, 1, 5}, "a long one first");
  check(cut({1, 3, 3, 3, 10}, 2) == Rows{0, 4, 5}, "a long one last");
  check(cut({99, 5, 5, -3}, 2) == Rows{0, 1, 4}, "lengths beyond the sequence");
  check(cut({10, 0, 0, 0}, 3) == Rows{0, 1, 2, 4}, "no part is empty");
  check(cut({0, 0, 0}, 3) == Rows{0, 1, 2, 3}, "no steps");
  check(cut({7}, 3).back() == 1, "more parts than rows");
}

}  // namespace

int main() {
  return test::run({
      {"sweeps do not depend on how threads share the work", sweeps_do_not_depend_on_how_threads_share_the_work},
      {"variants do not depend on how threads share the work", variants_do_not_depend_on_how_threads_share_the_work},
      {"schedules of whole rows do not depend on how threads share the work",
       schedules_of_whole_rows_do_not_depend_on_how_threads_share_the_work},
      {"rows are cut where both sides have as many steps", rows_are_cut_where_both_sides_have_as_many_steps},
  });
}
