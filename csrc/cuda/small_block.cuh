// small_block: one launch for the sequence; a block owns all units of a few rows, and its lanes hold the weights.
//
//   GEMM       small_lanes.cuh or small_tiles.cuh; its sums end where the update is
//   update     pass.cuh, of one unit and one or two rows a lane; with layer norms small_norms.cuh
//   exchange   by shared memory: two buffers in turn and a barrier of the block
//
// Blocks are independent of each other. The inputs of a step are loaded during the step before. Sums have one order for
// a number of hidden units.
#pragma once

#include <type_traits>

#include "cuda/small_norms.cuh"

namespace fused_rnn::cuda {

// The update of a unit and row where no units meet.
template <class Pass>
struct SmallUpdate {
  using Inputs = typename Pass::Inputs;
  using State = Pack<float, Pass::kStates>;
  using Results = Pack<float, Pass::kResults>;
  static constexpr bool kBias = true;

  const typename Pass::Views& views;
  int size;

  FUSED_RNN_DEVICE SmallUpdate(const typename Pass::Views& v, unsigned char* /*shared*/, int /*direction*/,
                               int hidden_size)
      : views(v), size(hidden_size) {}

  FUSED_RNN_DEVICE Inputs load(const SmallTurn& turn) const { return Pass::load(views, turn.e, turn.now, size); }
  FUSED_RNN_DEVICE void prepare(bool /*exists*/, const Inputs& /*first*/) const {}
  FUSED_RNN_DEVICE void begin() const {}
  FUSED_RNN_DEVICE void operator()(const SmallTurn& turn, const Inputs& in, const Inputs& /*next*/,
                                   const Results& results, State& state, typename Pass::Made& made) const {
    if (turn.exists) state = Pass::update(views, turn.e, turn.now, size, in, results, state, made);
  }
  FUSED_RNN_DEVICE void store(const SmallTurn& turn, const typename Pass::Made& made) const {
    Pass::store(views, turn.e, turn.now, size, made);
  }
  FUSED_RNN_DEVICE void end(const Element& e, const State& state, const Results& results) const {
    Pass::end(views, e, size, state, results);
  }
};

template <class Pass, class Gemm>
struct SmallUpdateOf {
  using Type = SmallUpdate<Pass>;
};
template <class Pass, class Gemm>
struct SmallUpdateOf<NormPass<Pass>, Gemm> {
  using Type = std::conditional_t<Pass::kBackward, SmallNormBackward<Pass, Gemm>, SmallNormForward<Pass, Gemm>>;
};

template <class Pass, class Gemm>
struct SmallBlockKernel {
  using State = Pack<float, Pass::kStates>;
  using Results = Pack<float, Pass::kResults>;
  using Update = typename SmallUpdateOf<Pass, Gemm>::Type;
  using Inputs = typename Update::Inputs;
  static constexpr int kThreads = Gemm::kLanes * Gemm::kMostUnits;
  static constexpr int kRoomForBlocks = 1;  // else ptxas spills, to have two
  static constexpr int kOwned = Gemm::kOwned;
  // When the sums take no registers any more: with 128 some pass would spill. A step of so many rows is long.
  static constexpr bool kLoadsLate = Gemm::kLanes > kUnitLanes;
  // Copies of what is done for each row of a lane. With 128 registers some forward pass would spill.
  static constexpr int kUnrolled = Pass::kBackward || Gemm::kMostUnits == 64 ? kOwned : 1;

  // Arguments; the last is made on the host.
  SmallShape shape;
  typename Pass::Views views;
  Gemm gemm;
  int product_bytes;  // of shared memory, after which those of the update come

  void set_shape(const SmallShape& s) {
    using T = typename Pass::T;
    shape = s;
    gemm.set_shape(s);
    product_bytes =
        static_cast<int>(small_shared_bytes(s, std::is_same_v<T, float>, sizeof(T), Pass::kVectors, Pass::kResults));
  }

  FUSED_RNN_DEVICE void operator()() const {
    const int direction = block_x() / shape.row_groups;  // index of D, which counts heads
    const Direction order = direction_of(direction, shape.heads);
    const int first_row = (block_x() - direction * shape.row_groups) * shape.rows;
    const int steps = shape.time_steps, size = shape.hidden_size;

    typename Gemm::Weights weights;
    gemm.load_weights(weights, views, direction, size);
    gemm.clear_vectors();
    // The lane's rows are kRowStep apart; those from `left` on do not exist.
    const int row = Gemm::row(), first = first_row + row, unit = Gemm::unit();
    const int rows = shape.batch - first_row < shape.rows ? shape.batch - first_row : shape.rows;
    const int left = unit < size ? rows - row : 0;
    const auto element = [&](int i) { return Element{first + i * Gemm::kRowStep, direction, unit}; };
    const auto exists = [&](int i) { return i * Gemm::kRowStep < left; };
    const auto turn = [&](int step, int i) {
      return SmallTurn{element(i), moment_at(Pass::position(step, steps), order, steps), exists(i)};
    };
    Results bias{};
    for (int r = 0; Update::kBias && r < Pass::kResults && unit < size; ++r) {
      bias[r] = Pass::bias(views, direction, r, unit, size);
    }
    Update update(views, dynamic_shared() + product_bytes, direction, size);
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
    Inputs next{};
    if (exists(0) && steps > 0) next = update.load(turn(0, 0));
    update.prepare(exists(0), next);
    sync_block();
    update.begin();
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll kUnrolled
      for (int i = 0; i < kOwned; ++i) {
        const Inputs inputs = next;
        const int i_after = (i + 1) % kOwned, step_after = step + (i + 1) / kOwned;
        const auto load_next = [&] {
          if (exists(i_after) && step_after < steps) next = update.load(turn(step_after, i_after));
        };
        if (!kLoadsLate) load_next();
        const Results results = gemm.product(weights, step, i, bias);
        if (kLoadsLate) load_next();
        State state = states.of[0];
        typename Pass::Made made;
        update(turn(step, i), inputs, next, results, state, made);
        if (exists(i) && Gemm::stores()) {
          for (int v = 0; v < Pass::kVectors; ++v) gemm.put(step + 1, i, v, made.vector[v]);
          update.store(turn(step, i), made);
        }
        states.take_turns(state);
      }
      sync_block();
    }
#pragma unroll 1
    for (int i = 0; i < kOwned; ++i) {
      Results results{};
      if (Pass::kBackward) results = gemm.product(weights, steps, i, bias);
      if (exists(i) && Gemm::stores()) update.end(element(i), states.of[0], results);
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
