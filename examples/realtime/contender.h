// What step_times takes the time of: a way to make steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// One way to make the `count` steps from x [count, B, I] to y [count, B, O].
struct Contender {
  std::string name;
  std::function<void()> reset;
  std::function<void(const float* x, float* y, std::size_t count)> run;
  std::vector<double> samples = {};  // seconds of a step
};

// Those of other programs, each in a file of its own, for the model of one recurrent layer with biases. `file` is what
// fused_rnn.save_stream writes; `onnx` is a model of one step from x, h_0_l0 and c_0_l0 to output, h_n_l0 and c_n_l0.
void add_torch(std::vector<Contender>& contenders, const std::string& file, std::int64_t batch);
void add_onnxruntime(std::vector<Contender>& contenders, const std::string& file, const std::string& onnx,
                     std::int64_t batch);

// The sizes of that layer, as the record of the file has them (docs/guides/realtime.md), and where its weights are.
struct LayerOfFile {
  std::uint32_t cell;  // 1 LSTM, 2 GRU, 3 RNN with tanh, 4 RNN with relu
  std::int64_t inputs, hidden;
  const float* weights;  // W_ih, W_hh, b_ih and b_hh, each from a multiple of 64 bytes on
};
LayerOfFile layer_of(const std::string& file);
