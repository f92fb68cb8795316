// The wrapper from C++17: owners, exceptions, and streams of several threads.
#include <cstdio>
#include <fused_rnn.hpp>
#include <thread>
#include <utility>
#include <vector>

namespace {

int failures = 0;

void check(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

// The outputs of a new stream, or of one that goes on.
std::vector<float> outputs(fused_rnn::Stream& stream, int count) {
  std::vector<float> x(static_cast<std::size_t>(count)), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) / 4 - 1;
  stream.steps(x.data(), y.data(), count);
  return y;
}

void check_errors() {
  try {
    const fused_rnn::Model model("no such file");
    check(false, "a file that is not there");
  } catch (const fused_rnn::Error& error) {
    check(error.status() == FUSED_RNN_CANNOT_READ, "a file that is not there");
  }
  try {
    const fused_rnn::Model model("nothing", 7);
    check(false, "bytes that are no model");
  } catch (const fused_rnn::Error& error) {
    check(error.status() == FUSED_RNN_DAMAGED, "bytes that are no model");
  }
}

void check_owners(const fused_rnn::Model& model) {
  fused_rnn::Stream stream = model.stream();
  const std::vector<float> first = outputs(stream, 20), state = stream.state();
  fused_rnn::Stream copy = stream, moved = std::move(stream);
  const std::vector<float> next = outputs(moved, 20);
  check(outputs(copy, 20) == next, "a copy goes on from the same state");
  copy.set_state(state.data());
  check(outputs(copy, 20) == next, "a state comes back");
  copy.reset();
  check(outputs(copy, 20) == first, "a reset begins again");
  copy = moved;
  check(outputs(copy, 1) == outputs(moved, 1), "an assignment copies");
}

// Threads make streams of one model, run them and hand them over; all compute the same.
void check_threads(fused_rnn::Model& model) {
  constexpr int kThreads = 4;
  std::vector<std::vector<float>> found(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&model, &result = found[static_cast<std::size_t>(i)]] {
      fused_rnn::Stream stream = model.stream();
      outputs(stream, 100);
      std::thread([&] { result = outputs(stream, 100); }).join();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& each : found) check(each == found[0] && !each.empty(), "threads compute the same");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  fused_rnn::Model model(arguments[1]);
  check_errors();
  check_owners(model);
  check_threads(model);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
