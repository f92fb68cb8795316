// Runs a pair of CPU schedules on the buffers of a test, and checks what every pair promises: the oracle's results, and
// bits that depend neither on how threads share the work nor on the batch that a row is in.
#pragma once

#include "cpu/simd/compiler_isa.h"
// (first: what follows needs its names)
#include "cpu/gemm/matrices.h"
#include "cpu/runtime/arena.h"
#include "cpu/runtime/plan.h"
#include "cpu/simd/terms.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "recurrence_checks.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {
template <class Cell, class T, bool HasVariants>
class ForwardSweep;
template <class Cell, class T, bool HasVariants>
class BackwardSweep;
template <class Cell, class T>
  requires(Cell::kNormGroups > 0)
class RowForward;
template <class Cell, class T>
  requires(Cell::kNormGroups > 0)
class RowBackward;
template <class Cell, class T>
  requires(recurrent_gates<Cell>() == 0)
class DiagonalForward;
template <class Cell, class T>
  requires(recurrent_gates<Cell>() == 0)
class DiagonalBackward;
template <class Sweep>
class SweepWithGradients;
}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn

namespace fused_rnn::test {

// The type of an identity cell's sweeps: under sanitizers, which compile several times as long, each cell has one type.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
using IdentityType = BFloat16;
#else
using IdentityType = float;
#endif

template <>
struct Number<BFloat16> {
  static double to_double(BFloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
  static BFloat16 from_double(double x) {
    BFloat16 out{};
    store<BFloat16>(&out, Vec<RealOf<BFloat16>>(static_cast<float>(x)), 1);
    return out;
  }
};

template <>
struct Number<Float16> {
  static double to_double(Float16 x) {
    float lanes[Vec<float>::kLanes];
    load<Float16>(&x, 1).store(lanes);
    return lanes[0];
  }
  static Float16 from_double(double x) {
    Float16 out{};
    store<Float16>(&out, Vec<float>(static_cast<float>(x)), 1);
    return out;
  }
};

template <>
struct Number<PairedBFloat16> {
  static double to_double(PairedBFloat16 x) { return Number<BFloat16>::to_double(x); }
  static PairedBFloat16 from_double(double x) { return {Number<BFloat16>::from_double(x)}; }
};

template <class T>
constexpr DataType kTypeOf = DataType::kFloat32;
template <>
inline constexpr DataType kTypeOf<double> = DataType::kFloat64;
template <>
inline constexpr DataType kTypeOf<BFloat16> = DataType::kBFloat16;
template <>
inline constexpr DataType kTypeOf<PairedBFloat16> = DataType::kBFloat16;

// What rounding may do: the longest sum and the carry amplify one rounding by less than a hundred.
template <class T>
constexpr double kTolerance = 100 * 0x1p-53;
template <>
inline constexpr double kTolerance<float> = 100 * 0x1p-24;
template <>
inline constexpr double kTolerance<BFloat16> = 16 * 0x1p-8;  // a rounding of h that falls the other way is carried on
template <>
inline constexpr double kTolerance<PairedBFloat16> = kTolerance<BFloat16>;

inline std::string to_string(const Shape& s, const Plan& plan) {
  return to_string(s) + " threads " + std::to_string(plan.direction_parts) + "x" + std::to_string(plan.row_parts) +
         "x" + std::to_string(plan.unit_parts);
}

// A shape without variants, with each alone that the cell has, and with all of them.
template <class Cell>
std::vector<Shape> variants_of(Shape s) {
  const bool normalized = Cell::kNormGroups > 0, zoneout = s.output_size == s.hidden_size;
  std::vector<Shape> shapes{s};
  const auto add = [&](bool norm, bool zone, bool mask) {
    s.normalized = norm, s.zoneout = zone, s.recurrent_mask = mask;
    shapes.push_back(s);
  };
  if (normalized) add(true, false, false);
  if (zoneout) add(false, true, false);
  add(false, false, true);
  add(normalized, zoneout, true);
  return shapes;
}

// One schedule as the units run it. Compiled once for all programs: schedules.h defines it, sweeps.cpp, rows.cpp,
// diagonals.cpp and pairs.cpp instantiate it for what the tests run.
template <class Schedule, class Views>
struct Compiled {
  static size_t workspace_bytes(const Problem& problem, const Views& views, const Plan& plan);
  // `workspace` has workspace_bytes and is aligned to Arena::kAlignment.
  static void run(const Problem& problem, const Views& views, const Plan& plan, void* workspace);
};

// A backward schedule with work on its gate gradients.
template <class Sweep>
struct CompiledGradients {
  static void run(const Problem& problem, const BackwardViews& views, const Plan& plan, const GradientWork& work);
};

// Memory that begins as NaN and has exactly the size asked for.
inline std::unique_ptr<void, void (*)(void*)> poisoned(size_t bytes) {
  std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(Arena::kAlignment, bytes), std::free);
  std::memset(memory.get(), 0xFF, bytes);
  return memory;
}

// Runs one schedule in a workspace of exactly the size asked for that begins as NaN.
template <class Schedule, class Views>
void run_schedule(const Problem& problem, const Views& views, const Plan& plan) {
  const size_t bytes = Compiled<Schedule, Views>::workspace_bytes(problem, views, plan);
  Compiled<Schedule, Views>::run(problem, views, plan, poisoned(bytes).get());
}

template <template <class, class> class Forward, template <class, class> class Backward>
struct ScheduleChecks {
  template <class Cell, class T>
  using ForwardOf = Forward<Cell, T>;

  template <class Cell, class T>
  static Results<T> run(const Shape& s, const Inputs<T>& in, const Plan& plan = {}) {
    Results<T> out = empty_results<Cell, T>(s);
    Problem problem = problem_of<Cell>(s, kTypeOf<T>);
    run_schedule<Forward<Cell, T>>(problem, forward_views(in, out), plan);
    problem.backward = true;
    run_schedule<Backward<Cell, T>>(problem, backward_views(in, out), plan);
    return out;
  }

  template <class Cell, class T>
  static std::string name_of_case() {
    return std::string(Cell::kName) + " " + name_of(kTypeOf<T>);
  }

  template <class Cell, class T>
  static void check_shape(const Shape& s, const Plan& plan = {}, double tolerance = kTolerance<T>) {
    const Inputs<T> inputs = random_inputs<Cell, T>(s, 7);
    check_oracle<Cell, T>(run<Cell, T>(s, inputs, plan), s, inputs, to_string(s, plan), tolerance);
  }

  // What `inputs` should give, which may be others than those that gave `actual`.
  template <class Cell, class T>
  static void check_oracle(const Results<T>& actual, const Shape& s, const Inputs<T>& inputs, const std::string& what,
                           double tolerance = kTolerance<T>) {
    const std::string name = name_of_case<Cell, T>() + what;
    if constexpr (kJudgesValues) {
      check_close(actual, PlainRecurrence<Cell, T>(s, inputs).compute(), tolerance, tolerance, name);
    } else {
      check_gaps(actual, name);
    }
  }

  template <class Cell, class T>
  static void check_plans(const Shape& s, std::initializer_list<Plan> plans) {
    const Inputs<T> inputs = random_inputs<Cell, T>(s, 8);
    const Results<T> alone = run<Cell, T>(s, inputs);
    for (const Plan& plan : plans)
      check_identical(run<Cell, T>(s, inputs, plan), alone, name_of_case<Cell, T>() + to_string(s, plan));
  }

  // A row in a batch of any size is the same numbers, since every sum has one order.
  template <class Cell, class T>
  static void check_rows(const Shape& s) {
    const Inputs<T> inputs = random_inputs<Cell, T>(s, 9);
    const Results<T> whole = run<Cell, T>(s, inputs);
    Shape one_row = s;
    one_row.batch = 1;
    for (int64_t row = 0; row < s.batch; ++row) {
      const auto copy_row = [&](const Buffer<T>& from, Buffer<T>& to) {
        to.for_each([&](int64_t i, int64_t, int64_t d, int64_t u) {
          std::memcpy(&to.at(i, 0, d, u), &from.data[i * from.first_stride + row * from.row_stride + d * from.size + u],
                      sizeof(T));
        });
      };
      Inputs<T> part = random_inputs<Cell, T>(one_row, 9);
      part.w_hh = inputs.w_hh, part.b_hh = inputs.b_hh, part.w_hr = inputs.w_hr;
      part.unit_weights = inputs.unit_weights, part.norm = inputs.norm;
      copy_row(inputs.gates, part.gates), copy_row(inputs.h_0, part.h_0), copy_row(inputs.c_0, part.c_0);
      copy_row(inputs.d_output, part.d_output), copy_row(inputs.d_h_n, part.d_h_n);
      copy_row(inputs.d_c_n, part.d_c_n), copy_row(inputs.d_cells, part.d_cells);
      part.w_ih = inputs.w_ih, part.b_ih = inputs.b_ih;
      copy_row(inputs.x, part.x), copy_row(inputs.zoneout, part.zoneout),
          copy_row(inputs.recurrent_mask, part.recurrent_mask);
      if (s.lengths) part.lengths = {inputs.lengths[row]};
      if (s.resets) std::copy_n(&inputs.resets[row * s.time_steps], s.time_steps, part.resets.get());
      Results<T> expected = empty_results<Cell, T>(one_row);
      const Results<T> actual = run<Cell, T>(one_row, part);
      for_each_buffer(whole, expected, [&](const char*, const Buffer<T>& from, const Buffer<T>& to) {
        copy_row(from, const_cast<Buffer<T>&>(to));
      });
      check_identical(actual, expected, name_of_case<Cell, T>() + to_string(s) + " row " + std::to_string(row));
    }
  }
};

template <class Cell, class T>
using PlainForward = ForwardSweep<Cell, T, false>;
template <class Cell, class T>
using PlainBackward = BackwardSweep<Cell, T, false>;
using Sweeps = ScheduleChecks<PlainForward, PlainBackward>;
template <class Cell, class T>
using VariedForward = ForwardSweep<Cell, T, true>;
template <class Cell, class T>
using VariedBackward = BackwardSweep<Cell, T, true>;
using Variants = ScheduleChecks<VariedForward, VariedBackward>;
using Rows = ScheduleChecks<RowForward, RowBackward>;
using Diagonals = ScheduleChecks<DiagonalForward, DiagonalBackward>;

}  // namespace fused_rnn::test
