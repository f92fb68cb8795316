// Times steps of a model: as many calls as the input has steps, and one call for the block of all of them.
//
//   step_times MODEL.frnn X.f32 Y.f32 BATCH SECONDS
//
// X holds floats [T, B, I]. Y gets the outputs [contenders, T, B, O], each from a zero state. Each line that is printed
// has a contender's name and the seconds of one step, sample by sample. The contenders take turns.
//
// Compiled with -DCELL=Lstm -DINPUT=1 -DHIDDEN=16 it also times the compile-time size, for a model of this one layer.
// With -DWITH_RTNEURAL as well, it times the compile-time model of RTNeural (github.com/jatinchowdhury18/RTNeural).
// -DWITH_TORCH and -DWITH_ONNXRUNTIME are for programs that torch_steps.cpp and onnxruntime_steps.cpp are linked to.
// The model of ONNX Runtime is in MODEL.frnn.onnx.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <fused_rnn.hpp>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "contender.h"

#ifdef CELL
#include <fused_rnn_static.hpp>
#endif
#ifdef WITH_RTNEURAL
#include <RTNeural/RTNeural.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
using Size = std::size_t;

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<float> read_floats(const char* path) {
  const std::string bytes = read_bytes(path);
  std::vector<float> values(bytes.size() / sizeof(float));
  bytes.copy(reinterpret_cast<char*>(values.data()), values.size() * sizeof(float));
  return values;
}

void add_library(std::vector<Contender>& contenders, const fused_rnn::Model& model, std::int64_t batch) {
  const auto stream = std::make_shared<fused_rnn::Stream>(model.stream(batch));
  const auto reset = [=] { stream->reset(); };
  const auto inputs = static_cast<Size>(batch * model.input_size()),
             outputs = static_cast<Size>(batch * model.output_size());
  contenders.push_back({"C, step", reset, [=](const float* x, float* y, Size count) {
                          for (Size i = 0; i < count; ++i) stream->step(x + i * inputs, y + i * outputs);
                        }});
  contenders.push_back({"C, block", reset, [=](const float* x, float* y, Size count) {
                          stream->steps(x, y, static_cast<std::int64_t>(count));
                        }});
}

#ifdef CELL

#define JOIN_NAMES(a, b) a##b
#define JOIN(a, b) JOIN_NAMES(a, b)
using Static = fused_rnn::JOIN(Static, CELL)<INPUT, HIDDEN>;

void add_static(std::vector<Contender>& contenders, const std::string& file) {
  const auto layer = std::make_shared<Static>();
  if (const char* const error = layer->load(file.data(), file.size())) throw std::runtime_error(error);
  const auto reset = [=] { layer->reset(); };
  contenders.push_back({"static, step", reset, [=](const float* x, float* y, Size count) {
                          for (Size i = 0; i < count; ++i) layer->step(x + i * INPUT, y + i * HIDDEN);
                        }});
  contenders.push_back({"static, block", reset, [=](const float* x, float* y, Size count) {
                          layer->steps(x, y, static_cast<std::int64_t>(count));
                        }});
}

#endif

#ifdef WITH_RTNEURAL

using LstmPeer = RTNeural::LSTMLayerT<float, INPUT, HIDDEN>;
using GruPeer = RTNeural::GRULayerT<float, INPUT, HIDDEN>;
using Peer = RTNeural::ModelT<float, INPUT, HIDDEN, JOIN(CELL, Peer)>;
using Rows = std::vector<std::vector<float>>;

// [columns][rows] of a matrix [rows, columns], as RTNeural wants it; the gates r and z of a GRU change places.
Rows transposed(const float* matrix, Size rows, Size columns, bool gru) {
  Rows made(columns, std::vector<float>(rows));
  for (Size row = 0; row < rows; ++row) {
    const Size to = !gru || row >= 2 * HIDDEN ? row : row < HIDDEN ? row + HIDDEN : row - HIDDEN;
    for (Size column = 0; column < columns; ++column) made[column][to] = matrix[row * columns + column];
  }
  return made;
}

// Its weights are those of the file.
template <class Layer>
void set_weights(Layer& layer, const std::string& file) {
  constexpr bool kGru = std::is_same_v<Layer, GruPeer>;
  constexpr Size kRows = (kGru ? 3 : 4) * HIDDEN;
  const float* at = layer_of(file).weights;
  const auto take = [&at](Size columns) {
    const Rows made = transposed(at, kRows, columns, kGru);
    at += (kRows * columns + 15) / 16 * 16;
    return made;
  };
  layer.setWVals(take(INPUT));
  layer.setUVals(take(HIDDEN));
  Rows biases{take(1)[0], take(1)[0]};
  if constexpr (kGru) {
    layer.setBVals(biases);
  } else {
    for (Size i = 0; i < kRows; ++i) biases[0][i] += biases[1][i];
    layer.setBVals(biases[0]);
  }
}

void add_peer(std::vector<Contender>& contenders, const std::string& file) {
  const std::shared_ptr<Peer> model(new Peer);
  set_weights(model->get<0>(), file);
  contenders.push_back({"RTNeural", [=] { model->reset(); },
                        [=](const float* x, float* y, Size count) {
                          for (Size i = 0; i < count; ++i) {
                            model->forward(x + i * INPUT);
                            std::copy_n(model->getOutputs(), HIDDEN, y + i * HIDDEN);
                          }
                        }});
}

#endif

// Runs all in turns until the seconds of each are over.
void measure(std::vector<Contender>& contenders, const std::vector<float>& x, float* y, Size steps, double seconds) {
  const auto since = [](Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); };
  const auto begin = Clock::now();
  const double all = seconds * static_cast<double>(contenders.size());
  while (contenders[0].samples.size() < 5 || since(begin) < all) {
    for (Contender& each : contenders) {
      const auto start = Clock::now();
      each.run(x.data(), y, steps);
      each.samples.push_back(since(start) / static_cast<double>(steps));
    }
  }
}

void run(char** words) {
  const fused_rnn::Model model(words[1]);
  const auto batch = std::stoll(words[4]);
  std::vector<Contender> contenders;
  add_library(contenders, model, batch);
#ifdef CELL
  add_static(contenders, read_bytes(words[1]));
#endif
#ifdef WITH_RTNEURAL
  add_peer(contenders, read_bytes(words[1]));
#endif
#ifdef WITH_TORCH
  add_torch(contenders, read_bytes(words[1]), batch);
#endif
#ifdef WITH_ONNXRUNTIME
  add_onnxruntime(contenders, read_bytes(words[1]), read_bytes(std::string(words[1]) + ".onnx"), batch);
#endif
  const std::vector<float> x = read_floats(words[2]);
  const Size steps = x.size() / static_cast<Size>(batch * model.input_size());
  if (steps == 0) throw std::runtime_error("X must hold a step");
  std::vector<float> y(steps * static_cast<Size>(batch * model.output_size()));
  std::ofstream outputs(words[3], std::ios::binary);
  for (const Contender& each : contenders) {
    each.reset();
    each.run(x.data(), y.data(), steps);
    outputs.write(reinterpret_cast<const char*>(y.data()), static_cast<std::streamsize>(y.size() * sizeof(float)));
  }
  measure(contenders, x, y.data(), steps, std::stod(words[5]) / static_cast<double>(contenders.size()));
  for (const Contender& each : contenders) {
    std::printf("%s:", each.name.c_str());
    for (const double sample : each.samples) std::printf(" %.4g", sample);
    std::printf("\n");
  }
}

}  // namespace

LayerOfFile layer_of(const std::string& file) {
  constexpr Size kHeader = 64, kWeights = 128;  // bytes of the header, and with one record
  struct {
    std::uint32_t kind, cell, storage, inputs, hidden, outputs, has_bias;
  } record;
  if (file.size() < kWeights) throw std::runtime_error("the model is no file of one layer");
  std::memcpy(&record, file.data() + kHeader, sizeof record);
  if (record.kind != 1 || record.cell > 4 || record.storage != 0 || record.has_bias != 1) {
    throw std::runtime_error("the model must be one LSTM, GRU or RNN in float32 with biases");
  }
  return {record.cell, record.inputs, record.hidden, reinterpret_cast<const float*>(file.data() + kWeights)};
}

int main(int count, char** words) {
  if (count != 6) {
    std::fprintf(stderr, "usage: step_times MODEL.frnn X.f32 Y.f32 BATCH SECONDS\n");
    return 2;
  }
  try {
    run(words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "step_times: %s\n", error.what());
    return 1;
  }
  return 0;
}
