// The C functions of fused_rnn.h with owners and exceptions: a model and its streams free themselves.
//
// What is said there of sizes, threads and real time holds here. Loading and making streams may throw; steps do not.
// What was moved from may be assigned to, and has no other use.
#ifndef FUSED_RNN_HPP_
#define FUSED_RNN_HPP_

#include <fused_rnn.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace fused_rnn {

// Not in the way of names that the library has for itself.
inline namespace api {

// What a C function failed with; what() is its text.
class Error : public std::runtime_error {
 public:
  explicit Error(const fused_rnn_error& error) : std::runtime_error(error.text), status_(error.status) {}
  fused_rnn_status status() const noexcept { return status_; }

 private:
  fused_rnn_status status_;
};

// A model in motion, for one thread at a time. A copy goes on from the same state, which is its own from then on.
class Stream {
 public:
  Stream(const Stream& other) : state_size_(other.state_size_) {
    fused_rnn_stream* made;
    fused_rnn_error error;
    if (fused_rnn_stream_copy(other.stream_.get(), &made, &error) != FUSED_RNN_OK) throw Error(error);
    stream_.reset(made);
  }
  Stream(Stream&&) noexcept = default;
  Stream& operator=(const Stream& other) { return *this = Stream(other); }
  Stream& operator=(Stream&&) noexcept = default;
  ~Stream() = default;

  std::int64_t batch_size() const noexcept { return fused_rnn_stream_batch_size(stream_.get()); }

  // x [B, I] to y [B, O], and x [count, B, I] to y [count, B, O].
  void step(const float* x, float* y) noexcept { fused_rnn_step(stream_.get(), x, y); }
  void steps(const float* x, float* y, std::int64_t count) noexcept { fused_rnn_steps(stream_.get(), x, y, count); }

  // All rows, or those where rows [B] is not 0.
  void reset() noexcept { fused_rnn_reset(stream_.get(), nullptr); }
  void reset(const unsigned char* rows) noexcept { fused_rnn_reset(stream_.get(), rows); }

  // B times Model::state_size() floats. `state` allocates, and `get_state` does not.
  std::vector<float> state() const {
    std::vector<float> values(static_cast<std::size_t>(batch_size() * state_size_));
    get_state(values.data());
    return values;
  }
  void get_state(float* state) const noexcept { fused_rnn_get_state(stream_.get(), state); }
  void set_state(const float* state) noexcept { fused_rnn_set_state(stream_.get(), state); }

 private:
  friend class Model;
  Stream(fused_rnn_stream* stream, std::int64_t state_size) : stream_(stream), state_size_(state_size) {}

  struct Free {
    void operator()(fused_rnn_stream* stream) const noexcept { fused_rnn_stream_free(stream); }
  };
  std::unique_ptr<fused_rnn_stream, Free> stream_;
  std::int64_t state_size_;  // of a row
};

// A model, which threads may share. Its streams go on without it.
class Model {
 public:
  // From the file at `path`, or from `size` bytes, which are copied. Throws Error.
  explicit Model(const std::string& path) {
    fused_rnn_model* made;
    fused_rnn_error error;
    if (fused_rnn_load_file(path.c_str(), &made, &error) != FUSED_RNN_OK) throw Error(error);
    model_.reset(made);
  }
  Model(const void* bytes, std::size_t size) {
    fused_rnn_model* made;
    fused_rnn_error error;
    if (fused_rnn_load_memory(bytes, size, &made, &error) != FUSED_RNN_OK) throw Error(error);
    model_.reset(made);
  }

  std::int64_t input_size() const noexcept { return fused_rnn_model_input_size(model_.get()); }
  std::int64_t output_size() const noexcept { return fused_rnn_model_output_size(model_.get()); }
  std::int64_t state_size() const noexcept { return fused_rnn_model_state_size(model_.get()); }
  const char* instruction_set() const noexcept { return fused_rnn_model_instruction_set(model_.get()); }

  // A stream of `batch_size` rows with a zero state. Throws Error.
  Stream stream(std::int64_t batch_size = 1) const {
    fused_rnn_stream* made;
    fused_rnn_error error;
    if (fused_rnn_stream_create(model_.get(), batch_size, &made, &error) != FUSED_RNN_OK) throw Error(error);
    return Stream(made, state_size());
  }

 private:
  struct Free {
    void operator()(fused_rnn_model* model) const noexcept { fused_rnn_model_free(model); }
  };
  std::unique_ptr<fused_rnn_model, Free> model_;
};

}  // namespace api
}  // namespace fused_rnn

#endif  // FUSED_RNN_HPP_
