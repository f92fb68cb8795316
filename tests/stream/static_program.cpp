// Layers of compile-time sizes beside the library: values, states, files and what they refuse.
//
//   static_program MODEL.frnn CASE        the model is that of the case's type, below
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <fused_rnn.hpp>
#include <fused_rnn_static.hpp>
#include <iterator>
#include <string>
#include <vector>

namespace {

int failures = 0;

void check(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

constexpr int kSteps = 50;

std::vector<float> inputs(int size) {
  std::vector<float> x(static_cast<std::size_t>(kSteps * size));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 17) / 6 - 1;
  return x;
}

// Sums have another order than those of the library.
void check_near(const std::vector<float>& found, const std::vector<float>& expected, const char* what) {
  float most = 0;
  for (std::size_t i = 0; i < found.size(); ++i) most = std::fmax(most, std::fabs(found[i] - expected[i]));
  check(found.size() == expected.size() && most <= 2e-6f, what);
}

template <class Layer>
std::vector<float> state_of(const Layer& layer) {
  std::vector<float> state(Layer::kStateSize);
  layer.get_state(state.data());
  return state;
}

template <class Layer>
void check_values(const std::string& file) {
  const std::vector<float> x = inputs(Layer::kInputSize);
  std::vector<float> y(kSteps * Layer::kOutputSize), expected(y.size());
  fused_rnn::Stream stream = fused_rnn::Model(file.data(), file.size()).stream();
  stream.steps(x.data(), expected.data(), kSteps);
  Layer layer;
  check(layer.load(file.data(), file.size()) == nullptr, "a file is read");
  for (int i = 0; i < kSteps; ++i) layer.step(&x[i * Layer::kInputSize], &y[i * Layer::kOutputSize]);
  check_near(y, expected, "the values are those of a stream");
  check_near(state_of(layer), stream.state(), "the state is that of a stream");

  Layer copy = layer;
  std::vector<float> again(y.size());
  layer.reset();
  layer.steps(x.data(), again.data(), kSteps);
  check(again == y, "a block has the values of steps, and a reset begins again");
  layer.steps(x.data(), y.data(), 3);
  copy.steps(x.data(), again.data(), 3);
  check(again == y, "a copy goes on from the same state");
  layer.reset();
  layer.set_state(state_of(copy).data());
  check(state_of(layer) == state_of(copy), "a state comes back");
  layer.steps(x.data(), y.data(), 1);
  copy.steps(x.data(), again.data(), 1);
  check(again == y, "a layer goes on from a state");
}

template <class Layer>
void check_refusals(const std::string& file) {
  Layer layer;
  const auto refused = [&](const std::string& bytes) { return layer.load(bytes.data(), bytes.size()) != nullptr; };
  for (std::size_t size = 0; size < file.size(); ++size) check(refused(file.substr(0, size)), "a shorter file");
  for (std::size_t i = 0; i < file.size(); ++i) {
    std::string damaged = file;
    damaged[i] = static_cast<char>(damaged[i] ^ 4);
    check(refused(damaged), "a damaged file");
  }
  fused_rnn::StaticLstm<2, 7> other_size;
  fused_rnn::StaticGru<3, 21, 3> other_output;
  check(other_size.load(file.data(), file.size()) != nullptr, "another size");
  check(other_output.load(file.data(), file.size()) != nullptr, "another output");
  check(state_of(layer) == std::vector<float>(Layer::kStateSize), "what is refused changes nothing");
}

// Weights in torch's layout give what the file of them gives; the file has W_ih at its parameters' begin.
void check_arrays(const std::string& file) {
  using Layer = fused_rnn::StaticGru<3, 5>;
  const auto array = [at = std::size_t{128}, &file](std::size_t count) mutable {
    std::vector<float> values(count);
    std::memcpy(values.data(), file.data() + at, count * sizeof(float));
    at += (count * sizeof(float) + 63) / 64 * 64;
    return values;
  };
  auto take = array;
  const std::vector<float> w_ih = take(15 * 3), w_hh = take(15 * 5), b_ih = take(15), b_hh = take(15);
  Layer given, loaded;
  given.set_weights(w_ih.data(), w_hh.data(), b_ih.data(), b_hh.data());
  check(loaded.load(file.data(), file.size()) == nullptr, "a file is read");
  const std::vector<float> x = inputs(3);
  std::vector<float> y(kSteps * 5), expected(y.size());
  given.steps(x.data(), y.data(), kSteps);
  loaded.steps(x.data(), expected.data(), kSteps);
  check(y == expected, "weights may come from arrays");
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) return 2;
  std::ifstream stream(words[1], std::ios::binary);
  const std::string file(std::istreambuf_iterator<char>(stream), {}), name = words[2];
  if (name == "lstm_1_8_1") {  // less than a vector; a linear layer and a residual
    check_values<fused_rnn::StaticLstm<1, 8, 1>>(file);
    check_refusals<fused_rnn::StaticLstm<1, 8, 1>>(file);
  }
  if (name == "gru_3_5") check_values<fused_rnn::StaticGru<3, 5>>(file), check_arrays(file);
  if (name == "gru_3_21_2") check_values<fused_rnn::StaticGru<3, 21, 2>>(file);  // two vectors, or six
  if (name == "lstm_9_130") check_values<fused_rnn::StaticLstm<9, 130>>(file);   // several tiles
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
