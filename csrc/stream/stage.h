// A stage of a chain: a layer that makes one step at a time, with the memory of one stream.
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/runtime/stepping.h"

namespace fused_rnn {

// Float32 rows of a batch, [B, size], from one row to the next `stride` floats.
struct StepRows {
  const float* data;
  int64_t stride;
};

// What a stage that is not recurrent does to each value, or to the values of a row.
enum class Activation { kTanh, kRelu, kSigmoid, kSoftmax, kPrelu };

// The state of a stage: h [B, h_size] of a layer and so many others [B, c_size]; no layer where there is none.
struct StageState {
  StepLayer* layer = nullptr;
  int64_t h_size = 0, c_size = 0;
  int others = 0;
};

class Stage {
 public:
  Stage() = default;
  Stage(const Stage&) = delete;
  Stage(Stage&&) = delete;
  Stage& operator=(const Stage&) = delete;
  Stage& operator=(Stage&&) = delete;
  virtual ~Stage();

  // Looks at x [count, B, I] of the next steps, at most steps_ahead.
  virtual void take(const StepRows& x, int64_t count);
  // Makes step number `step`, the one at `place` of those that were taken, from x [B, I]. The result [B, O] is the
  // stage's memory, valid until its next step.
  virtual StepRows run(int64_t step, int64_t place, const StepRows& x) = 0;

  virtual StageState state() const;  // none, where a stage does not say otherwise

  // With a state of its own. It reads the weights of the stage that was made first, which has to outlive it.
  virtual std::unique_ptr<Stage> clone() const = 0;
};

// A matrix product with bias: y = b + W x.
struct LinearProblem {
  int64_t batch, input_size, output_size;
  const float* weight;  // [O, I], read while the stage is made
  const float* bias;    // [O], or null: zeros
};

struct ActivationProblem {
  Activation kind;
  int64_t batch, size;
  const float* slopes;  // of PReLU, read while the stage is made
  int64_t slope_count;  // 1: one for all values; or `size`
};

// What each instruction set compiles for streams. Each function throws std::bad_alloc where memory is short.
struct StreamUnit {
  std::unique_ptr<StepLayer> (*make_recurrent)(const StepProblem&, const StepParameters&);  // of float32
  std::unique_ptr<Stage> (*make_linear)(const LinearProblem&);
  std::unique_ptr<Stage> (*make_activation)(const ActivationProblem&);
};

// That of the active instruction set. Throws std::invalid_argument as active_instruction_set does.
const StreamUnit& active_stream_unit();

}  // namespace fused_rnn
