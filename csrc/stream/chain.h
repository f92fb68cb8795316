// A model's stages with the memory of one stream, and the model that makes them.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "stream/model_file.h"

namespace fused_rnn {

// The stages for a batch, packed once. It makes no steps itself: streams are copies of it, which read its weights.
class Chain {
 public:
  Chain(const ModelFile& model, int64_t batch);

  int64_t batch() const { return batch_; }
  int64_t input_size() const { return input_size_; }
  int64_t output_size() const { return output_size_; }
  bool residual() const { return residual_; }
  const std::vector<std::unique_ptr<Stage>>& stages() const { return stages_; }

 private:
  int64_t batch_, input_size_, output_size_;
  bool residual_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

// A chain in motion, for one thread at a time. What it does after it was made takes no memory, lock or system call.
class Stream {
 public:
  explicit Stream(std::shared_ptr<const Chain> chain);
  Stream(const Stream& other);  // goes on from the same state
  Stream(Stream&&) = delete;
  Stream& operator=(const Stream&) = delete;
  Stream& operator=(Stream&&) = delete;
  ~Stream() = default;

  int64_t batch() const { return chain_->batch(); }

  void steps(const float* x, float* y, int64_t count) noexcept;  // [count, B, I] to [count, B, O]

  // h [B, P] of each layer, followed by its other states [B, H].
  void get_state(float* state) const noexcept;
  void set_state(const float* state) noexcept;
  void reset(const unsigned char* rows) noexcept;  // [B] rows where it is not 0 get a zero state; null: all

 private:
  // Calls visit(values, row, size) for each row of each state.
  template <class Visit>
  void for_each_state(const Visit& visit) const;
  void write_output(const StepRows& from, const float* x, float* y) const noexcept;

  std::shared_ptr<const Chain> chain_;
  std::vector<std::unique_ptr<Stage>> stages_;
  int64_t steps_ = 0;  // made
};

// A file in memory, which streams of any batch size are made of. Calls from several threads take turns.
class Model {
 public:
  // A copy of the bytes. Throws ModelFileError, std::bad_alloc, and what active_stream_unit throws.
  Model(const void* bytes, size_t size);

  const ModelFile& file() const { return file_; }
  int64_t state_size() const;  // floats of a row of the batch

  // Packed weights are shared by the streams of a batch size, as long as there is one. Throws std::bad_alloc.
  std::shared_ptr<const Chain> chain(int64_t batch);

 private:
  struct Release {
    void operator()(std::byte* memory) const;
  };

  std::unique_ptr<std::byte, Release> bytes_;
  ModelFile file_;
  std::mutex mutex_;
  std::map<int64_t, std::weak_ptr<const Chain>> chains_;  // by batch size
};

}  // namespace fused_rnn
