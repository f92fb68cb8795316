// The way of one step through the layers, and of states in and out.
#include "cpu/stepper.h"

#include <algorithm>
#include <cstring>

#include "cpu/loaded_cells.h"
#include "cpu/runtime/contention.h"

namespace fused_rnn {

namespace {

// Weights of a thread that stay in its L2. With less to read, starting and meeting another thread costs more than
// it saves.
constexpr int64_t kBytesPerThread = 1 << 19;

}  // namespace

Stepper::Stepper(const std::vector<Layer>& layers, int threads)
    : element_bytes_(layers.front().problem.type == DataType::kFloat64 ? 8 : 4) {
  for (const Layer& layer : layers) {
    problems_.push_back(layer.problem);
    layers_.push_back(
        cpu_unit_of(layer.problem.cell, layer.problem.type).make_step_layer(layer.problem, layer.parameters));
  }
  packed_ = layers_;
  threads_ = static_cast<int>(std::clamp<int64_t>(weight_bytes() / kBytesPerThread, 1, std::max(threads, 1)));
}

std::unique_ptr<Stepper> Stepper::clone() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<Stepper> made(new Stepper);
  made->problems_ = problems_;
  for (const auto& layer : layers_) made->layers_.push_back(layer->clone());
  made->packed_ = packed_;
  made->threads_ = threads_;
  made->element_bytes_ = element_bytes_;
  made->steps_ = steps_;
  return made;
}

int64_t Stepper::weight_bytes() const {
  int64_t bytes = 0;
  for (const auto& layer : layers_) bytes += layer->weight_bytes();
  return bytes;
}

void Stepper::steps(const void* x, void* y, int64_t count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  block_ = {static_cast<const char*>(x), static_cast<char*>(y), count, free_threads(threads_)};
  const auto body = [](void* self, int thread) { static_cast<Stepper*>(self)->run(thread); };
  if (!run_team(block_.threads, body, this)) {  // the threads did not come
    block_.threads = 1;
    run(0);
  }
  steps_ += count;
}

void Stepper::run(int thread) {
  const size_t rows = static_cast<size_t>(batch()) * element_bytes_;
  const size_t x_bytes = static_cast<size_t>(problems_.front().input_size) * rows;
  const size_t y_bytes = static_cast<size_t>(problems_.back().output_size) * rows;
  for (int64_t i = 0; i < block_.count; ++i) {
    run_step(thread, i, block_.x + static_cast<size_t>(i) * x_bytes);
    // The others go on: this h is written again by the step after the next one.
    if (thread == 0) copy_output(steps_ + i + 1, block_.y + static_cast<size_t>(i) * y_bytes);
  }
}

void Stepper::run_step(int thread, int64_t i, const char* x) {
  const int threads = block_.threads;
  const int64_t step = steps_ + i;
  const void* rows = x;
  int64_t stride = input_size();
  for (size_t k = 0; k < layers_.size(); ++k) {
    StepLayer& layer = *layers_[k];
    const StepInputs inputs = step_inputs(k == 0, i, block_.count, batch());
    if (inputs.count > 0) layer.take(rows, stride, inputs.count, thread, threads);
    layer.update(step, inputs.place, thread, threads);
    barrier_.wait(threads);
    if (problems_[k].projected) {
      layer.project(step, thread, threads);
      barrier_.wait(threads);
    }
    rows = layer.h(step + 1);
    stride = layer.h_stride();
  }
}

void Stepper::copy_output(int64_t step, char* y) const {
  StepLayer& last = *layers_.back();
  const size_t row_bytes = static_cast<size_t>(problems_.back().output_size) * element_bytes_;
  const auto* from = static_cast<const char*>(last.h(step));
  for (int64_t row = 0; row < batch(); ++row) {
    std::memcpy(y + static_cast<size_t>(row) * row_bytes,
                from + static_cast<size_t>(row * last.h_stride()) * element_bytes_, row_bytes);
  }
}

struct Stepper::Part {
  bool is_h;
  char* here;     // a row of the state
  size_t offset;  // of the row in the array of all layers and rows
  size_t bytes;
  int64_t row;
};

template <class Visit>
void Stepper::for_each_state(const Visit& visit) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    StepLayer& layer = *layers_[i];
    const auto rows_of = [&](bool is_h, void* data, int64_t stride, int64_t size, size_t place, size_t of_row) {
      if (data == nullptr) return;
      const size_t bytes = static_cast<size_t>(size) * element_bytes_;
      for (int64_t row = 0; row < batch(); ++row) {
        const size_t index = (i * static_cast<size_t>(batch()) + static_cast<size_t>(row)) * of_row + place;
        visit(Part{is_h, static_cast<char*>(data) + static_cast<size_t>(row * stride) * element_bytes_, index * bytes,
                   bytes, row});
      }
    };
    rows_of(true, layer.h(steps_), layer.h_stride(), problems_[i].output_size, 0, 1);
    const int others = problems_[i].cell.cell_states();
    for (int k = 0; k < others; ++k) {
      rows_of(false, layer.c(k), layer.c_stride(), problems_[i].hidden_size, static_cast<size_t>(k),
              static_cast<size_t>(others));
    }
  }
}

void Stepper::get_state(void* h, void* c) {
  for_each_state([&](const Part& part) {
    std::memcpy(static_cast<char*>(part.is_h ? h : c) + part.offset, part.here, part.bytes);
  });
}

void Stepper::set_state(const void* h, const void* c) {
  for_each_state([&](const Part& part) {
    std::memcpy(part.here, static_cast<const char*>(part.is_h ? h : c) + part.offset, part.bytes);
  });
}

void Stepper::reset(const uint8_t* rows) {
  for_each_state([&](const Part& part) {
    if (rows == nullptr || rows[part.row] != 0) std::memset(part.here, 0, part.bytes);
  });
}

}  // namespace fused_rnn
