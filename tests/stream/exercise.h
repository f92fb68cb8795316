// Bytes as a model: an error in words, or a model whose streams make steps. What is wrong ends the program.
#pragma once

#include <fused_rnn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace stream_tests {

using Bytes = std::vector<unsigned char>;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("failed: %s\n", what);
  std::abort();
}

// Steps, states, resets and copies of `rows` rows, of values that `seed` says; some are not finite.
inline void exercise_streams(fused_rnn_model* model, int64_t rows, uint32_t seed) {
  constexpr int64_t kSteps = 3;
  using Limits = std::numeric_limits<float>;
  constexpr float kOdd[] = {Limits::denorm_min(), Limits::lowest(), Limits::infinity(), Limits::quiet_NaN()};
  const auto floats = [&](int64_t size) { return std::vector<float>(static_cast<size_t>(size * rows)); };
  std::vector<float> x = floats(kSteps * fused_rnn_model_input_size(model));
  std::vector<float> y = floats(kSteps * fused_rnn_model_output_size(model));
  std::vector<float> state = floats(fused_rnn_model_state_size(model));
  const std::vector<unsigned char> flags(static_cast<size_t>(rows), static_cast<unsigned char>(seed & 1));
  for (float& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = (seed >> 24) == 0 ? kOdd[(seed >> 8) % 4] : static_cast<float>(seed >> 8) / (1 << 23) - 1;
  }
  fused_rnn_stream *stream, *copy;
  if (fused_rnn_stream_create(model, rows, &stream, nullptr) != FUSED_RNN_OK) return;
  fused_rnn_step(stream, x.data(), y.data());
  fused_rnn_get_state(stream, state.data());
  if (fused_rnn_stream_copy(stream, &copy, nullptr) == FUSED_RNN_OK) {
    fused_rnn_reset(stream, flags.data());
    fused_rnn_set_state(stream, state.data());
    fused_rnn_steps(stream, x.data(), y.data(), kSteps);
    fused_rnn_stream_free(stream);
    fused_rnn_steps(copy, x.data(), y.data(), kSteps);
  }
  fused_rnn_stream_free(copy);
}

// Loads the file from memory of exactly its size.
inline fused_rnn_status exercise(const unsigned char* data, size_t size) {
  const std::unique_ptr<unsigned char[]> exact(new unsigned char[size]);
  std::copy(data, data + size, exact.get());
  fused_rnn_model* model;
  fused_rnn_error error;
  const fused_rnn_status status = fused_rnn_load_memory(exact.get(), size, &model, &error);
  if (status != FUSED_RNN_OK) {
    require(model == nullptr && error.status == status && std::strlen(error.text) > 10, "an error has words");
    return status;
  }
  for (const int64_t rows : {1, 3}) exercise_streams(model, rows, data[size - 1]);
  fused_rnn_model_free(model);
  return status;
}

}  // namespace stream_tests
