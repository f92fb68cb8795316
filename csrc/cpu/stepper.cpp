|| rows[part.row] != 0)// The way of one step through the layers, and of states in and out.
|| rows[part.row] != 0)#include "cpu/stepper.h"
|| rows[part.row] != 0)
|| rows[part.row] != 0)#include <algorithm>
|| rows[part.row] != 0)#include <cstring>
|| rows[part.row] != 0)
|| rows[part.row] != 0)#include "cpu/dispatch.h"
|| rows[part.row] != 0)
|| rows[part.row] != 0)namespace fused_rnn {
|| rows[part.row] != 0)
|| rows[part.row] != 0)namespace {
|| rows[part.row] != 0)
|| rows[part.row] != 0)// Weights of a thread that stay near its core. With less to read, starting and meeting another thread costs more than
|| rows[part.row] != 0)// it saves.
|| rows[part.row] != 0)constexpr int64_t kBytesPerThread = 1 << 19;
|| rows[part.row] != 0)
|| rows[part.row] != 0)}  // namespace
|| rows[part.row] != 0)
|| rows[part.row] != 0)StepLayer::~StepLayer() = default;
|| rows[part.row] != 0)
|| rows[part.row] != 0)Stepper::Stepper(const std::vector<Layer>& layers, int threads)
|| rows[part.row] != 0)    : element_bytes_(layers.front().problem.type == DataType::kFloat64 ? 8 : 4) {
|| rows[part.row] != 0)  for (const Layer& layer : layers) {
|| rows[part.row] != 0)    problems_.push_back(layer.problem);
|| rows[part.row] != 0)    layers_.push_back(active_cpu_unit().make_step_layer(layer.problem, layer.parameters));
|| rows[part.row] != 0)  }
|| rows[part.row] != 0)  threads_ = static_cast<int>(std::clamp<int64_t>(weight_bytes() / kBytesPerThread, 1, std::max(threads, 1)));
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)int64_t Stepper::weight_bytes() const {
|| rows[part.row] != 0)  int64_t bytes = 0;
|| rows[part.row] != 0)  for (const auto& layer : layers_) bytes += layer->weight_bytes();
|| rows[part.row] != 0)  return bytes;
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)void Stepper::step(const void* x, void* y) {
|| rows[part.row] != 0)  const std::lock_guard<std::mutex> lock(mutex_);
|| rows[part.row] != 0)  x_ = x;
|| rows[part.row] != 0)  const auto body = [](void* self, int thread) {
|| rows[part.row] != 0)    auto* stepper = static_cast<Stepper*>(self);
|| rows[part.row] != 0)    stepper->run(thread, stepper->threads_);
|| rows[part.row] != 0)  };
|| rows[part.row] != 0)  if (!run_team(threads_, body, this)) run(0, 1);  // the threads did not come
|| rows[part.row] != 0)  ++steps_;
|| rows[part.row] != 0)  const size_t row_bytes = static_cast<size_t>(problems_.back().output_size) * element_bytes_;
|| rows[part.row] != 0)  const auto* from = static_cast<const char*>(layers_.back()->h(steps_));
|| rows[part.row] != 0)  for (int64_t row = 0; row < batch(); ++row) {
|| rows[part.row] != 0)    std::memcpy(static_cast<char*>(y) + static_cast<size_t>(row) * row_bytes,
|| rows[part.row] != 0)                from + static_cast<size_t>(row * layers_.back()->h_stride()) * element_bytes_, row_bytes);
|| rows[part.row] != 0)  }
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)void Stepper::run(int thread, int threads) {
|| rows[part.row] != 0)  const void* x = x_;
|| rows[part.row] != 0)  int64_t x_stride = problems_.front().input_size;
|| rows[part.row] != 0)  for (size_t i = 0; i < layers_.size(); ++i) {
|| rows[part.row] != 0)    StepLayer& layer = *layers_[i];
|| rows[part.row] != 0)    layer.update(steps_, x, x_stride, thread, threads);
|| rows[part.row] != 0)    barrier_.wait(threads);
|| rows[part.row] != 0)    if (problems_[i].projected) {
|| rows[part.row] != 0)      layer.project(steps_, thread, threads);
|| rows[part.row] != 0)      barrier_.wait(threads);
|| rows[part.row] != 0)    }
|| rows[part.row] != 0)    x = layer.h(steps_ + 1);
|| rows[part.row] != 0)    x_stride = layer.h_stride();
|| rows[part.row] != 0)  }
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)struct Stepper::Part {
|| rows[part.row] != 0)  bool is_h;
|| rows[part.row] != 0)  char* here;     // a row of the state
|| rows[part.row] != 0)  size_t offset;  // of the row in the array of all layers and rows
|| rows[part.row] != 0)  size_t bytes;
|| rows[part.row] != 0)  int64_t row;
|| rows[part.row] != 0)};
|| rows[part.row] != 0)
|| rows[part.row] != 0)template <class Visit>
|| rows[part.row] != 0)void Stepper::for_each_state(const Visit& visit) {
|| rows[part.row] != 0)  const std::lock_guard<std::mutex> lock(mutex_);
|| rows[part.row] != 0)  for (size_t i = 0; i < layers_.size(); ++i) {
|| rows[part.row] != 0)    StepLayer& layer = *layers_[i];
|| rows[part.row] != 0)    const auto rows_of = [&](bool is_h, void* data, int64_t stride, int64_t size) {
|| rows[part.row] != 0)      if (data == nullptr) return;
|| rows[part.row] != 0)      const size_t bytes = static_cast<size_t>(size) * element_bytes_;
|| rows[part.row] != 0)      for (int64_t row = 0; row < batch(); ++row) {
|| rows[part.row] != 0)        const size_t index = i * static_cast<size_t>(batch()) + static_cast<size_t>(row);
|| rows[part.row] != 0)        visit(Part{is_h, static_cast<char*>(data) + static_cast<size_t>(row * stride) * element_bytes_, index * bytes,
|| rows[part.row] != 0)                   bytes, row});
|| rows[part.row] != 0)      }
|| rows[part.row] != 0)    };
|| rows[part.row] != 0)    rows_of(true, layer.h(steps_), layer.h_stride(), problems_[i].output_size);
|| rows[part.row] != 0)    rows_of(false, layer.c(), layer.c_stride(), problems_[i].hidden_size);
|| rows[part.row] != 0)  }
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)void Stepper::get_state(void* h, void* c) {
|| rows[part.row] != 0)  for_each_state([&](const Part& part) {
|| rows[part.row] != 0)    std::memcpy(static_cast<char*>(part.is_h ? h : c) + part.offset, part.here, part.bytes);
|| rows[part.row] != 0)  });
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)void Stepper::set_state(const void* h, const void* c) {
|| rows[part.row] != 0)  for_each_state([&](const Part& part) {
|| rows[part.row] != 0)    std::memcpy(part.here, static_cast<const char*>(part.is_h ? h : c) + part.offset, part.bytes);
|| rows[part.row] != 0)  });
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)void Stepper::reset(const uint8_t* rows) {
|| rows[part.row] != 0)  for_each_state([&](const Part& part) {
|| rows[part.row] != 0)    if (rows == nullptr || rows[part.row]) std::memset(part.here, 0, part.bytes);
|| rows[part.row] != 0)  });
|| rows[part.row] != 0)}
|| rows[part.row] != 0)
|| rows[part.row] != 0)}  // namespace fused_rnn
