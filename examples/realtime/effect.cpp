// A command-line audio effect: a model that fused_rnn.save_stream wrote, over a WAV file, block by block.
//
//   effect MODEL.frnn IN.wav OUT.wav [--block SAMPLES]
#include <chrono>
#include <cstdio>
#include <exception>
#include <fused_rnn.hpp>
#include <string>
#include <vector>

#include "wav.h"

namespace {

// The sound through the model, and the seconds that it took. Channels are the rows of a batch.
double apply(const fused_rnn::Model& model, int64_t block, Sound& sound) {
  fused_rnn::Stream stream = model.stream(sound.channels);
  const auto samples = static_cast<int64_t>(sound.samples.size()) / sound.channels;
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t at = 0; at < samples; at += block) {
    float* values = sound.samples.data() + at * sound.channels;
    stream.steps(values, values, std::min(block, samples - at));
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int run(const std::vector<std::string>& words) {
  const bool has_block = words.size() == 5 && words[3] == "--block";
  const int64_t block = has_block ? std::stoll(words[4]) : 64;
  if ((words.size() != 3 && !has_block) || block < 1) {
    std::fprintf(stderr, "usage: effect MODEL.frnn IN.wav OUT.wav [--block SAMPLES]\n");
    return 2;
  }
  const fused_rnn::Model model(words[0]);
  if (model.input_size() != 1 || model.output_size() != 1) {
    throw std::runtime_error(words[0] + " must take and give one value a sample");
  }
  Sound sound = wav::read(words[1]);
  const double seconds = apply(model, block, sound);
  wav::write(words[2], sound);
  const double samples = static_cast<double>(sound.samples.size()) / sound.channels, length = samples / sound.rate;
  std::printf("%.2f s of %d channel(s) at %u Hz in %.4f s with %s: %.3f us a sample, real-time factor %.0f\n", length,
              sound.channels, sound.rate, seconds, model.instruction_set(), 1e6 * seconds / samples, length / seconds);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(std::vector<std::string>(arguments + 1, arguments + count));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "effect: %s\n", error.what());
    return 1;
  }
}
