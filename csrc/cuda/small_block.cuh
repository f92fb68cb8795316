// small_block: one launch for the sequence; a block owns all units of a few rows, and its lanes hold the weights.
//
//   GEMM       small_lanes.cuh or small_tiles.cuh; its sums end where the update is
//   update     pass.cuh, of one unit and one or two rows a lane
//   exchange   by shared memory: two buffers in turn and a barrier of the block
//
// Blocks are independent of each other. The inputs of a step are loaded during the step before. Sums have one order for
// a number of hidden units.
#pragma once

#include "cuda/pass.cuh"
#include "cuda/small_shape.h"

namespace fused_rnn::cuda {

template <class Pass, class Gemm>
struct SmallBlockKernel {
  using State = Pack<float, Pass::kStates>;
  using Results = Pack<float, Pass::kResults>;
  static constexpr int kThreads = kUnitLanes * Gemm::kMostUnits;
  static constexpr int kRoomForBlocks = 1;  // else ptxas spills, to have two
  static constexpr int kOwned = Gemm::kOwned;
  // Copies of what is done for each row of a lane. With 128 registers some forward pass would spill.
  static constexpr int kUnrolled = Pass::kBackward || Gemm::kMostUnits == 64 ? kOwned : 1;

  // Arguments; the last is made on the host.
  SmallShape shape;
  typename Pass::Views views;
  Gemm gemm;

  void set_shape(const SmallShape& s) {
    shape = s;
    gemm.set_shape(s);
  }

  FUSED_RNN_DEVICE void operator()() const {
    const int direction = block_x() / shape.row_groups;  // index of D, which counts heads
    const Direction order = direction_of(direction, shape.heads);
    const int first_row = (block_x() - direction * shape.row_groups) * shape.rows;
    const int steps = shape.time_steps, size = shape.hidden_size;
    const auto moment = [&](int step) { return moment_at(Pass::position(step, steps), order, steps); };

    typename Gemm::Weights weights;
    gemm.load_weights(weights, views, direction, size);
    gemm.clear_vectors();
    // The lane's rows are kRowStep apart; those from `left` on do not exist.
    const int row = Gemm::row(), first = first_row + row, unit = Gemm::unit();
    const int rows = shape.batch - first_row < shape.rows ? shape.batch - first_row : shape.rows;
    const int left = unit < size ? rows - row : 0;
    const auto element = [&](int i) { return Element{first + i * Gemm::kRowStep, direction, unit}; };
    const auto exists = [&](int i) { return i * Gemm::kRowStep < left; };
    Results bias{};
    for (int r = 0; r < Pass::kResults && unit < size; ++r) bias[r] = Pass::bias(views, direction, r, unit, size);
    States states{};
    sync_block();
#pragma unroll 1
    for (int i = 0; i < kOwned; ++i) {
      State state{};
      if (exists(i)) {
        state = Pass::first_state(views, element(i), first_time(steps, order), size);
        const float value = Pass::first_vector(views, element(i), first_time(steps, order));
        for (int v = 0; v < Pass::kVectors && Gemm::stores(); ++v) gemm.put(0, i, v, value);
      }
      states.take_turns(state);
    }
    typename Pass::Inputs next;
    if (exists(0) && steps > 0) next = Pass::load(views, element(0), moment(0), size);
    sync_block();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll kUnrolled
      for (int i = 0; i < kOwned; ++i) {
        const typename Pass::Inputs inputs = next;
        const int i_after = (i + 1) % kOwned, step_after = step + (i + 1) / kOwned;
        if (exists(i_after) && step_after < steps) {
          next = Pass::load(views, element(i_after), moment(step_after), size);
        }
        const Results results = gemm.product(weights, step, i, bias);
        State state = states.of[0];
        if (exists(i)) {
          typename Pass::Made made;
          state = Pass::update(views, element(i), moment(step), size, inputs, results, state, made);
          if (Gemm::stores()) {
            for (int v = 0; v < Pass::kVectors; ++v) gemm.put(step + 1, i, v, made.vector[v]);
            Pass::store(views, element(i), moment(step), size, made);
          }
        }
        states.take_turns(state);
      }
      sync_block();
    }
#pragma unroll 1
    for (int i = 0; i < kOwned; ++i) {
      Results results{};
      if (Pass::kBackward) results = gemm.product(weights, steps, i, bias);
      if (exists(i) && Gemm::stores()) Pass::end(views, element(i), size, states.of[0], results);
      states.take_turns(states.of[0]);
    }
  }

 private:
  // Of the lane's rows, the one in turn first: registers have no index.
  struct States {
    State of[kOwned];

    FUSED_RNN_DEVICE void take_turns(const State& state) {
#pragma unroll
      for (int i = 0; i + 1 < kOwned; ++i) of[i] = of[i + 1];
      of[kOwned - 1] = state;
    }
  };
};

}  // namespace fused_rnn::cuda
