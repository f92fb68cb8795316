// Runs the CUDA schedules in the emulator on the buffers of a test, in a workspace of exactly the size asked for.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "cuda/per_step.cuh"
#include "cuda/run_persistent.cuh"
#include "cuda/schedule.h"
#include "fiber.h"
#include "recurrence_checks.h"

namespace fused_rnn::test {

template <>
struct Number<cuda::BFloat16> {
  static double to_double(cuda::BFloat16 x) { return cuda::to_float(x); }
  static cuda::BFloat16 from_double(double x) { return cuda::round_float(cuda::BFloat16{}, static_cast<float>(x)); }
};
template <>
struct Number<cuda::Float16> {
  static double to_double(cuda::Float16 x) { return cuda::to_float(x); }
  static cuda::Float16 from_double(double x) { return cuda::round_float(cuda::Float16{}, static_cast<float>(x)); }
};
template <>
struct Number<cuda::TFloat32> {
  static double to_double(cuda::TFloat32 x) { return x.value; }
  static cuda::TFloat32 from_double(double x) { return {static_cast<float>(x)}; }
};

template <class T>
constexpr DataType kTypeOf = DataType::kFloat32;
template <>
inline constexpr DataType kTypeOf<double> = DataType::kFloat64;
template <>
inline constexpr DataType kTypeOf<cuda::BFloat16> = DataType::kBFloat16;
template <>
inline constexpr DataType kTypeOf<cuda::Float16> = DataType::kFloat16;
template <class T>
inline constexpr bool kIsTFloat32 = std::is_same_v<T, cuda::TFloat32>;

template <class Cell, class T>
Problem cuda_problem_of(const Shape& s) {
  Problem problem = problem_of<Cell>(s, kTypeOf<T>);
  problem.rounds_factors = kIsTFloat32<T>;
  return problem;
}

// docs/design.md, section 5; TF32 rounds factors as float16 does.
struct Tolerance {
  double outputs, gradients;
};
template <class T>
constexpr Tolerance kTolerance{3e-3, 2e-2};
template <>
inline constexpr Tolerance kTolerance<float>{2e-6, 5e-6};
template <>
inline constexpr Tolerance kTolerance<double>{1e-13, 1e-12};
template <>
inline constexpr Tolerance kTolerance<cuda::BFloat16>{2e-2, 1e-1};

// The GEMMs of per_step as plain loops.
template <class T>
class PlainProducts : public cuda::Products {
 public:
  PlainProducts(const Shape& shape, const Inputs<T>& inputs, bool backward)
      : shape_(shape), in_(inputs), backward_(backward) {}

  void multiply(cuda::Factor factor, const StateView<const void>& from, const StateView<void>& to) override {
    const Matrix<T>& matrix = factor == cuda::Factor::kRecurrent ? in_.w_hh : in_.w_hr;
    const int64_t width = backward_ ? matrix.columns : matrix.rows, depth = backward_ ? matrix.rows : matrix.columns;
    for (int64_t d = 0; d < shape_.directions; ++d) {
      for (int64_t b = 0; b < shape_.batch; ++b) {
        const T* row = static_cast<const T*>(from.data) + from.offset(d, b);
        T* result = static_cast<T*>(to.data) + to.offset(d, b);
        for (int64_t i = 0; i < width; ++i) {
          double sum = 0.0;
          for (int64_t k = 0; k < depth; ++k) {
            sum += to_double(row[k]) * (backward_ ? matrix.get(d, k, i) : matrix.get(d, i, k));
          }
          result[i] = from_double<T>(sum);
        }
      }
    }
  }

 private:
  const Shape& shape_;
  const Inputs<T>& in_;
  bool backward_;
};

// Uninitialised as a test should see it: all ones, which is NaN.
struct Workspace {
  explicit Workspace(size_t bytes) : data(std::aligned_alloc(256, (bytes + 255) / 256 * 256), std::free) {
    std::memset(data.get(), 0xFF, (bytes + 255) / 256 * 256);
    emulator::forbid_beyond(static_cast<unsigned char*>(data.get()), bytes, (bytes + 255) / 256 * 256);
  }
  std::unique_ptr<void, void (*)(void*)> data;
};

template <template <class, class, class, cuda::Features> class PassOf, class Cell, class T, class Views>
void run_per_step(const Shape& s, const Problem& problem, const Inputs<T>& in, const Views& views) {
  using PerStep = cuda::PerStepOf<PassOf<Cell, T, int64_t, cuda::Features::kAll>>;
  const Workspace workspace(PerStep::workspace_bytes(problem));
  PlainProducts<T> products(s, in, problem.backward);
  PerStep(problem, views, products, workspace.data.get(), nullptr).run();
}

// Whether the kernels that stay on the chip are compiled with layer norms, which takes long: one type for each cell,
// since types differ in the tiles of their GEMMs alone.
template <class Cell, class T>
constexpr bool kRunsNorms =
    Cell::kNormGroups > 0 && std::is_same_v<T, std::conditional_t<Cell::kNormGroups == 1, cuda::BFloat16, float>>;

template <class Pass, class Views>
void run_with_norms(const Problem& problem, const cuda::Option& option, const Views& views, void* workspace) {
  if constexpr (kRunsNorms<typename Pass::Cell, typename Pass::T>) {
    if (problem.normalized) return cuda::run_persistent<cuda::NormPass<Pass>>(option, views, workspace, nullptr);
  }
  cuda::run_persistent<Pass>(option, views, workspace, nullptr);
}

template <template <class, class, class, cuda::Features> class PassOf, class Cell, class T, class Views>
void run_pass(const Shape& s, const Problem& problem, const cuda::Option& option, const Inputs<T>& in,
              const Views& views) {
  check(cuda::offsets_fit(problem, views), "offsets fit");
  if (option.schedule == cuda::Schedule::kPerStep) {
    run_per_step<PassOf, Cell>(s, problem, in, views);
  } else if constexpr (!std::is_same_v<T, double>) {
    const Workspace workspace(option.all_workspace_bytes());
    // The passes without features are compiled for one type only, since each compilation takes long.
    using cuda::Features;
    constexpr Features kFewest =
        std::is_same_v<T, cuda::BFloat16> && Cell::kUnitWeights == 0 ? Features::kNone : Features::kAll;
    if (kFewest == Features::kNone && cuda::needs_no_features(views)) {
      run_with_norms<PassOf<Cell, T, int, kFewest>>(problem, option, views, workspace.data.get());
    } else {
      run_with_norms<PassOf<Cell, T, int, Features::kAll>>(problem, option, views, workspace.data.get());
    }
  }
}

constexpr cuda::Device kHopper{90, 132, 232448}, kSmall{90, 5, 101376};  // the second makes launches follow another

// The shapes in which a group has as many rows as its tiles. Those that share the rows among idle blocks have a test of
// their own, since they take the emulator several times as long.
inline std::vector<cuda::Option> full_shapes(cuda::Schedule schedule, const Problem& problem,
                                             const cuda::Device& device = kHopper) {
  std::vector<cuda::Option> found = shapes(schedule, problem, device);
  std::erase_if(found, [](const cuda::Option& option) {
    const cuda::PersistentShape& s = option.shape;
    return s.row_groups > 0 && s.row_groups * s.columns() >= s.batch + s.columns();  // small_block has none
  });
  return found;
}

// Forward and backward, each by one option.
template <class Cell, class T>
Results<T> run(const Shape& s, const Inputs<T>& in, const cuda::Option& forward, const cuda::Option& backward) {
  Results<T> out = empty_results<Cell, T>(s);
  Problem problem = cuda_problem_of<Cell, T>(s);
  run_pass<cuda::ForwardPass, Cell>(s, problem, forward, in, forward_views(in, out));
  problem.backward = true;
  run_pass<cuda::BackwardPass, Cell>(s, problem, backward, in, backward_views(in, out));
  return out;
}

}  // namespace fused_rnn::test
