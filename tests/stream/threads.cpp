// What threads may do at once: make and free streams of one model, run streams of their own, and hand them over. It is
// built with ThreadSanitizer, which sees what only happened to go well.
#include <condition_variable>
#include <cstdio>
#include <fused_rnn.hpp>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int kBlocks = 50, kBlock = 8;

void play(fused_rnn::Stream& stream, std::size_t inputs, std::size_t outputs) {
  const std::size_t rows = static_cast<std::size_t>(kBlock * stream.batch_size());
  std::vector<float> x(rows * inputs, 0.5f), y(rows * outputs);
  stream.steps(x.data(), y.data(), kBlock);
}

// A place for one stream on its way to another thread.
class Hand {
 public:
  void give(fused_rnn::Stream stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stream_.emplace(std::move(stream));
    given_.notify_one();
  }
  fused_rnn::Stream take() {
    std::unique_lock<std::mutex> lock(mutex_);
    given_.wait(lock, [this] { return stream_.has_value(); });
    fused_rnn::Stream taken = std::move(*stream_);
    stream_.reset();
    return taken;
  }

 private:
  std::mutex mutex_;
  std::condition_variable given_;
  std::optional<fused_rnn::Stream> stream_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const fused_rnn::Model model(arguments[1]);
  const std::size_t inputs = static_cast<std::size_t>(model.input_size());
  const std::size_t outputs = static_cast<std::size_t>(model.output_size());
  Hand hand;
  const auto own = [&] {
    fused_rnn::Stream kept = model.stream();
    for (int i = 0; i < kBlocks; ++i) {
      play(kept, inputs, outputs);
      fused_rnn::Stream other = model.stream(1 + i % 3), copy = kept;
      play(other, inputs, outputs);
      play(copy, inputs, outputs);
    }
  };
  std::thread first(own), second(own), giver([&] {
    fused_rnn::Stream stream = model.stream();
    play(stream, inputs, outputs);
    hand.give(std::move(stream));
  });
  fused_rnn::Stream stream = hand.take();
  play(stream, inputs, outputs);
  first.join();
  second.join();
  giver.join();
  std::printf("0 failures\n");
  return 0;
}
