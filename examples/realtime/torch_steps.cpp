// Steps by torch's operators, as a program in C++ makes them: a step by the cell's, a block by the layer's.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gru.h>
#include <ATen/ops/gru_cell.h>
#include <ATen/ops/lstm.h>
#include <ATen/ops/lstm_cell.h>
#include <ATen/ops/rnn_relu.h>
#include <ATen/ops/rnn_relu_cell.h>
#include <ATen/ops/rnn_tanh.h>
#include <ATen/ops/rnn_tanh_cell.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "contender.h"

namespace {

using at::Tensor;

class Layer {
 public:
  Layer(const std::string& file, std::int64_t batch) : file_(layer_of(file)), batch_(batch) {
    const std::int64_t gates = file_.cell == 1 ? 4 : file_.cell == 2 ? 3 : 1, rows = gates * file_.hidden;
    const float* at = file_.weights;
    for (const std::int64_t columns : {file_.inputs, file_.hidden, std::int64_t{0}, std::int64_t{0}}) {
      const auto shape = columns > 0 ? std::vector<std::int64_t>{rows, columns} : std::vector<std::int64_t>{rows};
      weights_.push_back(at::from_blob(const_cast<float*>(at), shape).clone());
      at += (weights_.back().numel() + 15) / 16 * 16;
    }
    reset();
  }

  void reset() { h_ = c_ = at::zeros({batch_, file_.hidden}); }

  void step_by_step(const float* x, float* y, std::size_t count) {
    const c10::InferenceMode guard;
    for (std::size_t i = 0; i < count; ++i, x += batch_ * file_.inputs, y += h_.numel()) {
      step(at::from_blob(const_cast<float*>(x), {batch_, file_.inputs}));
      std::copy_n(h_.const_data_ptr<float>(), h_.numel(), y);
    }
  }

  void block(const float* x, float* y, std::size_t count) {
    const c10::InferenceMode guard;
    const auto steps = static_cast<std::int64_t>(count);
    const Tensor output = layer(at::from_blob(const_cast<float*>(x), {steps, batch_, file_.inputs})).contiguous();
    std::copy_n(output.const_data_ptr<float>(), output.numel(), y);
  }

 private:
  void step(const Tensor& x) {
    const Tensor &w_ih = weights_[0], &w_hh = weights_[1], &b_ih = weights_[2], &b_hh = weights_[3];
    if (file_.cell == 1) {
      std::tie(h_, c_) = at::lstm_cell(x, {h_, c_}, w_ih, w_hh, b_ih, b_hh);
    } else {
      const auto cell = file_.cell == 2 ? at::gru_cell : file_.cell == 3 ? at::rnn_tanh_cell : at::rnn_relu_cell;
      h_ = cell(x, h_, w_ih, w_hh, b_ih, b_hh);
    }
  }

  // The output, [T, B, H].
  Tensor layer(const Tensor& x) {
    constexpr bool kHasBiases = true, kTrain = false, kBidirectional = false, kBatchFirst = false;
    constexpr std::int64_t kLayers = 1;
    constexpr double kDropout = 0;
    const Tensor h = h_.unsqueeze(0), c = c_.unsqueeze(0);
    Tensor output, last;
    if (file_.cell == 1) {
      std::tie(output, last, c_) =
          at::lstm(x, {h, c}, weights_, kHasBiases, kLayers, kDropout, kTrain, kBidirectional, kBatchFirst);
      c_ = c_.squeeze(0);
    } else if (file_.cell == 2) {
      std::tie(output, last) =
          at::gru(x, h, weights_, kHasBiases, kLayers, kDropout, kTrain, kBidirectional, kBatchFirst);
    } else if (file_.cell == 3) {
      std::tie(output, last) =
          at::rnn_tanh(x, h, weights_, kHasBiases, kLayers, kDropout, kTrain, kBidirectional, kBatchFirst);
    } else {
      std::tie(output, last) =
          at::rnn_relu(x, h, weights_, kHasBiases, kLayers, kDropout, kTrain, kBidirectional, kBatchFirst);
    }
    h_ = last.squeeze(0);
    return output;
  }

  LayerOfFile file_;
  std::int64_t batch_;
  std::vector<Tensor> weights_;
  Tensor h_, c_;  // [B, H]
};

}  // namespace

void add_torch(std::vector<Contender>& contenders, const std::string& file, std::int64_t batch) {
  at::set_num_threads(1);
  const auto layer = std::make_shared<Layer>(file, batch);
  const auto reset = [=] { layer->reset(); };
  contenders.push_back(
      {"torch, step", reset, [=](const float* x, float* y, std::size_t count) { layer->step_by_step(x, y, count); }});
  contenders.push_back(
      {"torch, block", reset, [=](const float* x, float* y, std::size_t count) { layer->block(x, y, count); }});
}
