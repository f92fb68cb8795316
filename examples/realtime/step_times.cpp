// Times steps of a model: as many calls as the input has steps, and one call for the block of all of them.
//
//   step_times MODEL.frnn X.f32 Y.f32 BATCH SECONDS
//
// X holds floats [T, B, I]. Y gets the outputs [T, B, O] from a zero state. Each line that is printed has the seconds
// of one step, sample by sample: first those of steps, then those of blocks.
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <fused_rnn.hpp>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

std::vector<float> read_floats(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot open ") + path);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<float> values(bytes.size() / sizeof(float));
  bytes.copy(reinterpret_cast<char*>(values.data()), values.size() * sizeof(float));
  return values;
}

// Prints the time of a step in each call of `run`, which makes `steps` of them, until the seconds are over.
template <class Run>
void print_samples(double seconds, std::size_t steps, const Run& run) {
  std::vector<double> samples;
  const auto begin = Clock::now();
  const auto since = [](Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); };
  while (samples.size() < 5 || since(begin) < seconds) {
    const auto start = Clock::now();
    run();
    samples.push_back(since(start) / static_cast<double>(steps));
  }
  for (const double sample : samples) std::printf("%.4g ", sample);
  std::printf("\n");
}

void run(char** words) {
  const fused_rnn::Model model(words[1]);
  const auto batch = std::stoll(words[4]);
  const double seconds = std::stod(words[5]);
  fused_rnn::Stream stream = model.stream(batch);
  const auto inputs = static_cast<std::size_t>(batch * model.input_size()),
             outputs = static_cast<std::size_t>(batch * model.output_size());
  const std::vector<float> x = read_floats(words[2]);
  const std::size_t steps = x.size() / inputs;
  if (steps == 0) throw std::runtime_error("X must hold a step");
  std::vector<float> y(steps * outputs);
  const auto one_by_one = [&] {
    for (std::size_t i = 0; i < steps; ++i) stream.step(&x[i * inputs], &y[i * outputs]);
  };
  one_by_one();
  std::ofstream(words[3], std::ios::binary)
      .write(reinterpret_cast<const char*>(y.data()), static_cast<std::streamsize>(y.size() * sizeof(float)));
  print_samples(seconds / 2, steps, one_by_one);
  print_samples(seconds / 2, steps, [&] { stream.steps(x.data(), y.data(), static_cast<std::int64_t>(steps)); });
}

}  // namespace

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
