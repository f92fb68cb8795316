// One step of one layer at a time, with its weights packed once: the interface between a Stepper and the layers that
// each instruction set compiles.
#pragma once

#include <cstdint>
#include <memory>

#include "core/problem.h"

namespace fused_rnn {

// How a layer keeps its matrices: in the type of the model, or in less memory, computed in float32.
enum class StepStorage { kExact, kBFloat16, kInt8 };

struct StepProblem {
  CellSpec cell;
  DataType type;  // float32 or float64; of x, of the states, and of the parameters as they are given
  StepStorage storage;
  bool rounds_factors;  // of exact float32 products, as of a Problem
  int threads;          // that share a step, at most
  int64_t batch;
  int64_t input_size;   // I
  int64_t hidden_size;  // H
  int64_t output_size;  // P: the projected size, or H
  bool projected;
  int64_t heads = 1;  // N, groups of H/N units between which W_hh has no entries; one where h is projected
};

// Contiguous arrays, read while a layer is made. A null pointer means zeros, where it may be null. Of several heads the
// parameters lie head by head, [N*G*H/N, I] and [N*R*H/N, H/N], and so do the units of x and of the states.
struct StepParameters {
  const void* w_ih;          // [G*H, I]
  const void* w_hh;          // [R*H, P], null where R = 0
  const void* b_ih;          // [G*H], optional
  const void* b_hh;          // [R*H], optional
  const void* w_hr;          // [P, H], when projected
  const void* unit_weights;  // [N, K, H/N], for cells that have them
};

// The most steps whose inputs are multiplied at once. With few rows a product waits for its weights, which the rows of
// several steps share.
constexpr int64_t steps_ahead(int64_t batch) { return batch < 8 ? 4 : 1; }  // a power of 2

// What a layer takes before step number `step` of the `steps` of a block: the inputs of so many steps, or none, and the
// place of this one among those taken. The first layer of a stack has the inputs of all steps, the others those of one.
struct StepInputs {
  int64_t count, place;
};
constexpr StepInputs step_inputs(bool is_first_layer, int64_t step, int64_t steps, int64_t batch) {
  if (!is_first_layer) return {1, 0};
  const int64_t ahead = steps_ahead(batch), place = step & (ahead - 1);
  return {place > 0 ? 0 : ahead < steps - step ? ahead : steps - step, place};
}

// The state lives here, in two copies of h: step number s reads the copy s % 2 and writes the other.
class StepLayer {
 public:
  StepLayer() = default;
  StepLayer(const StepLayer&) = delete;
  StepLayer(StepLayer&&) = delete;
  StepLayer& operator=(const StepLayer&) = delete;
  StepLayer& operator=(StepLayer&&) = delete;
  virtual ~StepLayer();

  // The share that thread `part` of `parts` has of the gates from x [count, B, x_stride], for the next `count` steps,
  // at most steps_ahead; of a step, which is the one at `place` of these: the cell's update of its units; and of what a
  // projection makes of all units, once all threads have made the update.
  virtual void take(const void* x, int64_t x_stride, int64_t count, int part, int parts) = 0;
  virtual void update(int64_t step, int64_t place, int part, int parts) = 0;
  virtual void project(int64_t step, int part, int parts) = 0;

  // h before step number `step`, [B, h_stride], and the k-th of the other states, [B, c_stride], null without one.
  virtual void* h(int64_t step) = 0;
  virtual void* c(int k) = 0;
  virtual int64_t h_stride() const = 0;
  virtual int64_t c_stride() const = 0;
  virtual int64_t weight_bytes() const = 0;

  // With a state of its own. It reads the packed weights of the layer that was made from parameters, which has to
  // outlive it.
  virtual std::unique_ptr<StepLayer> clone() const = 0;
};

}  // namespace fused_rnn
