// Times every shape of every persistent schedule against the estimate of cuda/select.cpp, which chooses among them.
//
// Usage: shape_times SECONDS, after which no further problem is begun. A line of JSON for each shape; "verified": its
// last states agree with those of the first shape of the problem, which is another order of the same sums. The numbers
// of cuda/tuning.h come from these lines.
#include "cuda/kernels.h"
#include "harness.h"
// (first: what follows needs its names)

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "cells/table.h"
#include "cuda/schedule.h"
#include "cuda/vector_io.cuh"

namespace fused_rnn::micro {

namespace {

using namespace fused_rnn::cuda;

constexpr int kTimeSteps = 256, kRepeats = 4;
constexpr size_t kPoolBytes = size_t{12} << 30;

// Equally distributed numbers in [low, high), the same for the same seed.
template <class T>
struct Fill {
  static constexpr int kThreads = 256;
  T* to;
  int64_t count;
  uint32_t seed;
  float low, high;

  FUSED_RNN_DEVICE void operator()() const {
    const int64_t index = static_cast<int64_t>(block_x()) * kThreads + thread_index();
    if (index >= count) return;
    uint64_t bits = (static_cast<uint64_t>(index) + 1) * 0x9E3779B97F4A7C15u + seed * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ (bits >> 30)) * 0x94D049BB133111EBu;
    const float unit = static_cast<float>(static_cast<uint32_t>(bits >> 40)) * 0x1p-24f;
    to[index] = from_real<T>(low + (high - low) * unit);
  }
};

// Device memory that the buffers of one problem after another lie in.
class Pool {
 public:
  Pool() : memory_(kPoolBytes) {}
  void reset() { used_ = 0; }
  template <class T>
  T* take(int64_t count) {
    T* const data = reinterpret_cast<T*>(memory_.data() + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    if (used_ > kPoolBytes) throw std::runtime_error("the pool is too small");
    return data;
  }
  template <class T>
  T* random(int64_t count, float low, float high) {
    T* const data = take<T>(count);
    const LaunchShape shape{.grid_x = static_cast<unsigned>((count + 255) / 256), .threads = 256};
    launch(Fill<T>{data, count, static_cast<uint32_t>(used_), low, high}, shape, nullptr);
    return data;
  }

 private:
  DeviceArray<unsigned char> memory_;
  size_t used_ = 0;
};

class NoProducts : public Products {
 public:
  void multiply(Factor, const StateView<const void>&, const StateView<void>&) override {
    throw std::logic_error("a persistent schedule multiplies by itself");
  }
};

template <class T>
constexpr const char* kTypeName = "f32";
template <>
inline constexpr const char* kTypeName<TFloat32> = "tf32";
template <>
inline constexpr const char* kTypeName<BFloat16> = "bf16";
template <>
inline constexpr const char* kTypeName<Float16> = "f16";

template <class T>
constexpr DataType kTypeOf = DataType::kFloat32;
template <>
inline constexpr DataType kTypeOf<BFloat16> = DataType::kBFloat16;
template <>
inline constexpr DataType kTypeOf<Float16> = DataType::kFloat16;

template <class T>
std::vector<float> read(const T* data, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  check(cudaMemcpy(values.data(), data, values.size() * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  std::vector<float> found;
  for (const T& value : values) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
      float single;
      static_assert(sizeof single == sizeof bits);
      __builtin_memcpy(&single, &bits, sizeof bits);
      found.push_back(single);
    } else if constexpr (std::is_same_v<T, TFloat32>) {
      found.push_back(value.value);
    } else {
      found.push_back(value);
    }
  }
  return found;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
    scale = std::max(scale, std::abs(static_cast<double>(a[i])));
  }
  return largest / scale;
}

// The buffers of a problem in one pass, all dense.
template <class T>
struct Buffers {
  int64_t steps, batch, size, gates, saved, states;
  Pool& pool;

  template <class Void>
  SequenceView<Void> sequence(T* data, int64_t width) const {
    return {data, batch * width * size, width * size, width * size};
  }
  template <class Void>
  StateView<Void> state(T* data) const {
    return {data, batch * size, size};
  }
  T* random(int64_t width, float low, float high) const {
    return pool.random<T>(steps * batch * width * size, low, high);
  }
  T* result(int64_t width) const { return pool.take<T>(steps * batch * width * size); }
  WeightView weights() const {
    const float bound = 1.0f / std::sqrt(static_cast<float>(size));
    T* const data = pool.random<T>(gates * size * size, -bound, bound);
    return {data, gates * size * size, size, 1};
  }
};

template <class T, class Views>
void time_shapes(const Problem& problem, const Views& views, T* last, int64_t count, Pool& pool) {
  std::vector<float> first;
  NoProducts none;
  for (const Schedule schedule : {Schedule::kSmallBlock, Schedule::kOneBlock, Schedule::kCluster, Schedule::kGrid}) {
    for (const Option& option : shapes(schedule, problem, current_device())) {
      Line line("shape_times");
      line.text("cell", problem.cell.name).text("type", kTypeName<T>).text("pass", problem.backward ? "back" : "fwd");
      line.number("hidden", static_cast<double>(problem.hidden_size))
          .number("batch", static_cast<double>(problem.batch));
      line.text("schedule", option.name).number("splits", option.shape.splits).number("rows", option.small.rows);
      line.number("column_tiles", option.shape.column_tiles).number("ranks", option.shape.ranks);
      line.number("scatters", option.shape.scatters ? 1 : 0);
      line.number("groups", option.groups).number("shared", static_cast<double>(option.shared_bytes));
      line.number("model_us", option.step_us);
      try {
        unsigned char* const workspace = pool.take<unsigned char>(static_cast<int64_t>(option.all_workspace_bytes()));
        const auto enqueue = [&] { run(problem, option, views, none, workspace, nullptr); };
        check(cudaMemset(last, 0xff, static_cast<size_t>(count) * sizeof(T)), "cudaMemset");  // NaNs
        enqueue();
        finish();
        const std::vector<float> found = read(last, count);
        if (first.empty()) first = found;
        const double difference = largest_difference(first, found);
        line.number("difference", difference).flag("verified", difference < (sizeof(T) == 2 ? 5e-2 : 5e-3));
        std::vector<double> samples;
        for (int i = 0; i < kRepeats; ++i) samples.push_back(milliseconds(enqueue) * 1e3 / kTimeSteps);
        const Spread us = spread(samples);
        line.number("us_min", us.min).number("us_median", us.median);
      } catch (const std::exception& error) {
        cudaGetLastError();  // it has been heard
        line.text("skipped", error.what());
        finish();  // throws after an error that no later call survives
      }
    }
  }
}

template <class Cell, class T>
void time_problem(int64_t size, int64_t batch, Pool& pool) {
  const CellSpec cell = cell_spec(find_cell(Cell::kName));
  Problem problem{cell, kTypeOf<T>, kTimeSteps, batch, 1, size, size, false, false};
  problem.rounds_factors = std::is_same_v<T, TFloat32>;
  Buffers<T> buffers{kTimeSteps, batch, size, cell.gates, cell.saved, cell.states, pool};
  pool.reset();
  ForwardViews forward{};
  forward.w_hh = buffers.weights();
  forward.gates = buffers.template sequence<const void>(buffers.random(cell.gates, -1, 1), cell.gates);
  forward.output = buffers.template sequence<void>(buffers.result(1), 1);
  T* const h_n = pool.take<T>(batch * size);
  forward.h_n = buffers.template state<void>(h_n);
  if (cell.states == 2) {
    forward.c_n = buffers.template state<void>(pool.take<T>(batch * size));
    forward.cells = buffers.template sequence<void>(buffers.result(1), 1);
  }
  if (cell.saved > 0) forward.saved = buffers.template sequence<void>(buffers.result(cell.saved), cell.saved);
  time_shapes<T>(problem, forward, h_n, batch * size, pool);

  problem.backward = true;
  pool.reset();
  BackwardViews backward{};
  backward.w_hh = buffers.weights();
  backward.d_output = buffers.template sequence<const void>(buffers.random(1, -1, 1), 1);
  backward.output = buffers.template sequence<const void>(buffers.random(1, -1, 1), 1);
  if (cell.states == 2) backward.cells = buffers.template sequence<const void>(buffers.random(1, -1, 1), 1);
  if (cell.saved > 0) {
    backward.saved = buffers.template sequence<const void>(buffers.random(cell.saved, 0, 1), cell.saved);
  }
  backward.d_gates = buffers.template sequence<void>(buffers.result(cell.gates), cell.gates);
  if (cell.split) backward.d_gates_h = buffers.template sequence<void>(buffers.result(cell.gates), cell.gates);
  T* const d_h_0 = pool.take<T>(batch * size);
  backward.d_h_0 = buffers.template state<void>(d_h_0);
  if (cell.states == 2) backward.d_c_0 = buffers.template state<void>(pool.take<T>(batch * size));
  time_shapes<T>(problem, backward, d_h_0, batch * size, pool);
}

}  // namespace

}  // namespace fused_rnn::micro

int main(int count, char** arguments) {
  using namespace fused_rnn;
  using namespace fused_rnn::micro;
  const double seconds = count == 2 ? std::atof(arguments[1]) : 0;
  if (!(seconds > 0)) {
    std::fprintf(stderr, "usage: shape_times SECONDS, more than 0\n");
    return 2;
  }
  return report("shape_times", [&](const Gpu&) {
    const auto start = std::chrono::steady_clock::now();
    Pool pool;
    const auto each = [&](auto visit) {
      for (const int64_t size : {512, 256, 1024, 128, 64, 768, 2048}) {
        for (const int64_t batch : {16, 1, 64, 32, 8, 128}) {
          if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > seconds) return;
          visit(size, batch);
        }
      }
    };
    each([&](int64_t size, int64_t batch) {
      time_problem<LstmCell, cuda::BFloat16>(size, batch, pool);
      time_problem<GruCell, cuda::BFloat16>(size, batch, pool);
      time_problem<LstmCell, cuda::TFloat32>(size, batch, pool);
    });
    each([&](int64_t size, int64_t batch) {
      time_problem<LstmCell, float>(size, batch, pool);
      time_problem<GruCell, cuda::TFloat32>(size, batch, pool);
      time_problem<ElmanCell<Tanh>, cuda::BFloat16>(size, batch, pool);
    });
  });
}
