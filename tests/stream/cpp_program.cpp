// The wrapper from C++17: owners, exceptions, and streams of several threads.
#include <cstdio>
#include <fused_rnn.hpp>
#include <string>
#include <thread>
#include <type_traits>
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

// What was moved from is nothing, which an assignment ends.
void check_moves(const std::string& path) {
  static_assert(std::is_nothrow_move_constructible<fused_rnn::Stream>::value, "");
  static_assert(std::is_nothrow_move_assignable<fused_rnn::Model>::value, "");
  static_assert(!std::is_copy_constructible<fused_rnn::Model>::value, "");
  fused_rnn::Model model(path), other = std::move(model);
  fused_rnn::Stream stream = other.stream(), moved = std::move(stream);
  const auto is_refused = [](const auto& call) {
    try {
      call();
      return false;
    } catch (const fused_rnn::Error& error) {
      return error.status() == FUSED_RNN_BAD_ARGUMENT;
    }
  };
  check(is_refused([&] { model.stream(); }), "a model that was moved makes no streams");
  check(is_refused([&] { fused_rnn::Stream copy = stream; }), "a stream that was moved has no copies");
  const std::vector<float> first = outputs(moved, 20);
  fused_rnn::Stream& same = moved;
  moved = same;
  stream = std::move(moved);
  moved = stream;
  check(outputs(moved, 20) == outputs(stream, 20), "what was moved may be assigned to");
  model = std::move(other);
  stream = model.stream();
  check(outputs(stream, 20) == first, "a model that was assigned makes streams");
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
  check_moves(arguments[1]);
  check_threads(model);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
