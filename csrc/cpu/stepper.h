// A stack of layers that makes one step at a time.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "cpu/stepping.h"
#include "cpu/team.h"

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

  int64_t batch() const { return problems_.front().batch; }
  int64_t weight_bytes() const;
  int threads() const { return threads_; }

  void step(const void* x, void* y);  // [B, I] to [B, P]

  // h [L, B, P] and c [L, B, H]; c is not looked at where the cell has none.
  void get_state(void* h, void* c);
  void set_state(const void* h, const void* c);
  void reset(const uint8_t* rows);  // [B] rows where it is not 0 get a zero state; null: all

 private:
  struct Part;  // one layer's h or c as rows

  void run(int thread, int threads);
  template <class Visit>
  void for_each_state(const Visit& visit);

  std::vector<StepProblem> problems_;
  std::vector<std::unique_ptr<StepLayer>> layers_;
  int threads_;
  size_t element_bytes_;
  int64_t steps_ = 0;  // made so far
  const void* x_ = nullptr;
  Barrier barrier_;
  std::mutex mutex_;
};

}  // namespace fused_rnn
