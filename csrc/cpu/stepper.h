// A stack of layers that makes one step at a time.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cpu/runtime/stepping.h"
#include "cpu/runtime/team.h"

namespace fused_rnn {

// Arrays are contiguous and of the model's type. Calls from several threads take turns.
class Stepper {
 public:
  struct Layer {
    StepProblem problem;
    StepParameters parameters;
  };

  // The layers from the input to the output, for one batch size and type. Throws std::bad_alloc.
  Stepper(const std::vector<Layer>& layers, int threads);

  // Goes on from the same state, apart from this one.
  std::unique_ptr<Stepper> clone() const;

  int64_t batch() const { return problems_.front().batch; }
  int64_t input_size() const { return problems_.front().input_size; }
  int64_t output_size() const { return problems_.back().output_size; }
  size_t element_bytes() const { return element_bytes_; }
  int64_t weight_bytes() const;
  int threads() const { return threads_; }

  void steps(const void* x, void* y, int64_t count);  // [count, B, I] to [count, B, P]

  // h [L, B, P] and c [L, B, E*H]; c is not looked at where the cell has none.
  void get_state(void* h, void* c);
  void set_state(const void* h, const void* c);
  void reset(const uint8_t* rows);  // [B] rows where it is not 0 get a zero state; null: all

 private:
  Stepper() = default;

  struct Part;  // one layer's h or c as rows

  void run(int thread);
  void run_step(int thread, int64_t i, const char* x);  // the i-th of the block
  void copy_output(int64_t step, char* y) const;
  template <class Visit>
  void for_each_state(const Visit& visit);

  std::vector<StepProblem> problems_;
  std::vector<std::shared_ptr<StepLayer>> layers_;
  std::vector<std::shared_ptr<StepLayer>>
      packed_;       // whose weights they read: themselves, or what they were cloned from
  int threads_ = 1;  // at most
  size_t element_bytes_ = 0;
  int64_t steps_ = 0;  // made before the block
  struct Block {       // that is made
    const char* x = nullptr;
    char* y = nullptr;
    int64_t count = 0;
    int threads = 1;
  } block_;
  Barrier barrier_;
  mutable std::mutex mutex_;
};

}  // namespace fused_rnn
