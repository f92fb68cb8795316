// The persistent schedules: one launch for the whole sequence, in which the weights never leave the chip.
//
// A group of blocks owns some rows of the batch in one head of one direction. Each block owns some hidden units, and
// keeps their weights in registers and shared memory. A step is
//
//   GEMM       W times the vector that the step before made, from shared memory (persistent_gemm.cuh)
//   update     each unit of each row by one thread, which keeps its state (pass.cuh)
//   exchange   every block needs the units of all: what differs between the schedules (one_block.cuh, cluster.cuh,
//              grid.cuh)
//
// While the exchange is under way the next step's inputs are loaded and, but in grid, what the update made is stored.
// Forward and backward differ in what is exchanged, h or the gate gradients, and in how many sums a unit has: the same
// tiles of weights serve both.
//
// Every sum is made in one order, which depends on the shape alone: results are bitwise repeatable.
//
// A step is short, and what counts are the instructions from one GEMM to the next: the loop has one copy of
// everything, and nothing that is needed once.
#pragma once

#include "cuda/persistent_gemm.cuh"

namespace fused_rnn::cuda {

template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct PersistentKernel : PersistentGemm<Pass> {
  using Gemm = PersistentGemm<Pass>;
  using Exchange = ExchangeOf<typename Pass::T, Pass::kVectors>;
  using State = Pack<float, Pass::kStates>;
  using WalkOfPass = Walk<int, Pass::kBackward>;
  using Gemm::kGates, Gemm::kInterleaved, Gemm::kRegisterTiles, Gemm::kThreads;
  using Gemm::map, Gemm::owned_log2, Gemm::shape, Gemm::sharing, Gemm::turns, Gemm::views;
  using typename Gemm::T, typename Gemm::Weights, typename Gemm::Results;
  static constexpr bool kNeedsClusters = Exchange::kNeedsClusters;

  // Further arguments.
  VectorLayout layout;
  typename Exchange::Global global;

  void set_shape(const PersistentShape& s) {
    Gemm::set_shape(s);
    map =
        shared_map(s, sizeof(T), Pass::kVectors, Pass::kResults, Pass::kStates, Exchange::kBuffers, Exchange::kStages);
    layout = {map.stride, s.columns(), s.padded(), s.covered(), s.units(), s.units_log2(), s.ranks};
  }

  FUSED_RNN_DEVICE void operator()() const {
    Thread thread(*this);
    const Role& role = thread.role;
    const bool owns = thread.owns;
    fill_states(thread);
    Exchange exchange = begin(thread);

    const int steps = shape.time_steps;
    typename Pass::Inputs inputs;
    Element next = element(role, 0);  // whose inputs are loaded
    WalkOfPass walk(direction_of(next), steps);
    if (owns && steps > 0) load_inputs(inputs, role, next, walk, 0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      const bool goes_on = Pass::kBackward || step + 1 < steps;  // backward has one more GEMM
#pragma unroll 1
      for (int turn = 0; turn < turns; ++turn) {
        multiply(thread, exchange, step, turn);
        typename Pass::Made made;
        const Element e = hidden(next);
        if (owns) {
          const Results results = results_at(thread, turn, e);
          State state = state_before(thread, turn);
          made.vector = {};
          if (exists(role, e)) {
            state = Pass::update(views, e, walk.at(step, steps), shape.hidden_size, inputs, results, state, made);
            if (Exchange::kStoresFirst) Pass::store(views, e, walk.at(step, steps), shape.hidden_size, made);
          }
          store_state(thread, turn, state);
          for (int v = 0; v < Pass::kVectors; ++v)
            exchange.put(static_cast<unsigned>(step), e.row - role.first_row, v, e.unit - role.first_unit,
                         to_factor<T>(made.vector[v]));
        }
        const bool is_last = turn + 1 == turns;
        if (is_last && goes_on) exchange.send(static_cast<unsigned>(step), rows_of(role));
        if (!owns) continue;
        next = element(role, is_last ? 0 : turn + 1);
        const Moment<int> now = walk.at(step, steps);
        if (is_last) walk = walk.next();
        if (!is_last || step + 1 < steps) load_inputs(inputs, role, next, walk, is_last ? step + 1 : step);
        if (Exchange::kStoresFirst) continue;
        const Element stored = hidden(e);
        if (exists(role, stored)) Pass::store(views, stored, now, shape.hidden_size, made);
      }
      if (goes_on) exchange.receive(static_cast<unsigned>(step), rows_of(role));
    }
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      if (Pass::kBackward) multiply(thread, exchange, steps, turn);
      if (!owns) continue;
      const Element e = element(role, turn);
      const Results results = Pass::kBackward ? results_at(thread, turn, e) : Results{};
      if (exists(role, e)) Pass::end(views, e, shape.hidden_size, state_before(thread, turn), results);
    }
  }

 protected:
  using typename Gemm::Role;
  // What a thread has for all steps.
  struct Thread {
    Role role;
    bool owns;  // whether it updates units
    float *states, *bias;
    Weights weights[kRegisterTiles][kGates];
    int set = 0;  // of partial sums: two in turn, since those of the tile before may still be read

    FUSED_RNN_DEVICE explicit Thread(const PersistentKernel& kernel) : role(kernel.role_of()) {
      unsigned char* const shared = dynamic_shared();
      owns = role.first_value < Gemm::kValues;
      states = reinterpret_cast<float*>(shared + kernel.map.state) + thread_index();
      bias = reinterpret_cast<float*>(shared + kernel.map.bias);
      kernel.load_weights(weights, role, role.first_unit + role.first_of_warp);
      kernel.fill_bias(bias, role);
    }
  };
  // Every thread's first vector and state are there, and all blocks of the group have begun, when this returns.
  FUSED_RNN_DEVICE Exchange begin(const Thread& thread) const {
    unsigned char* const shared = dynamic_shared();
    fill_first_vector(reinterpret_cast<T*>(shared + map.vectors), thread.role);
    Exchange exchange(shared + map.vectors, shared + map.stage, shared + map.barriers, global, layout,
                      thread.role.first_unit, block_y());
    exchange.begin(rows_of(thread.role));
    return exchange;
  }
  FUSED_RNN_DEVICE Role role_of() const {
    const int warp = warp_index(), split = warp % sharing;
    const int group = shape.first_group + block_y(), lane = lane_index();
    Role role;
    role.first_warp = warp - split;
    role.direction = group / shape.row_groups;
    role.first_row = (group - role.direction * shape.row_groups) * shape.rows;
    role.end_row = role.first_row + shape.rows < shape.batch ? role.first_row + shape.rows : shape.batch;
    role.first_unit = block_x() * shape.units();
    role.first_of_warp = warp / sharing * (kInterleaved ? shape.units_of_warp() : Gemm::Lanes::kUnits);
    role.column = kInterleaved ? InterleavedTile::column() : lane % 4 * 2;
    role.unit = role.first_of_warp + (kInterleaved ? InterleavedTile::unit() : lane / 4);
    role.first_value = kInterleaved ? split * Gemm::kValues : split << owned_log2;
    role.first_tile = split * (kInterleaved ? shape.parts_of_warp() : 1) * shape.split_tiles();
    role.tiles = kInterleaved ? shape.split_tiles() : shape.tiles_of(split);
    return role;
  }

  // Computed again wherever it is needed: the weights need the registers.
  FUSED_RNN_DEVICE int rows_of(const Role& role) const { return role.end_row - hidden_from_compiler(role.first_row); }
  FUSED_RNN_DEVICE int value_of(const Role& role, int turn) const {
    return role.first_value + (turn & ((1 << owned_log2) - 1));
  }
  FUSED_RNN_DEVICE Element element(const Role& role, int turn) const {
    const int value = value_of(role, turn), column_tile = turn >> owned_log2;
    if constexpr (kInterleaved) {
      return {role.first_row + column_tile * kTileColumns + role.column, role.direction,
              role.first_unit + role.unit + value * InterleavedTile::kUnits};
    }
    return {role.first_row + column_tile * kTileColumns + role.column + (value & 1), role.direction,
            role.first_unit + role.unit + (value >> 1) * 8};
  }
  // Addresses in all buffers would otherwise wait in registers.
  FUSED_RNN_DEVICE static Element hidden(const Element& e) {
    return {hidden_from_compiler(e.row), e.direction, hidden_from_compiler(e.unit)};
  }
  FUSED_RNN_DEVICE Direction direction_of(const Element& e) const {
    return fused_rnn::direction_of(e.direction, shape.heads);
  }
  FUSED_RNN_DEVICE Moment<int> moment(const Element& e, int step) const {
    return moment_at(Pass::position(step, shape.time_steps), direction_of(e), shape.time_steps);
  }
  FUSED_RNN_DEVICE bool exists(const Role& role, const Element& e) const {
    return e.row < role.end_row && e.unit < shape.hidden_size;
  }

  FUSED_RNN_DEVICE void load_inputs(typename Pass::Inputs& inputs, const Role& role, const Element& e,
                                    const WalkOfPass& walk, int step) const {
    if (!exists(role, e)) return;
    inputs = Pass::load(views, e, walk.at(step, shape.time_steps), shape.hidden_size);
    // One turn of an exchange between blocks takes longer than the memory.
    const Moment<int> ahead = walk.next().at(step + 1, shape.time_steps);
    if ((Exchange::kShortSteps || turns > 1) && ahead.position > 0 && ahead.position < shape.time_steps) {
      Pass::prefetch_inputs(views, e, ahead, shape.hidden_size);
    }
  }

  FUSED_RNN_DEVICE float& state_at(const Thread& thread, int turn, int s) const {
    return thread.states[(s * turns + turn) * kThreads];
  }
  FUSED_RNN_DEVICE State state_before(const Thread& thread, int turn) const {
    State state;
    for (int s = 0; s < Pass::kStates; ++s) state[s] = state_at(thread, turn, s);
    return state;
  }
  FUSED_RNN_DEVICE void store_state(const Thread& thread, int turn, const State& state) const {
    for (int s = 0; s < Pass::kStates; ++s) state_at(thread, turn, s) = state[s];
  }
  FUSED_RNN_DEVICE void fill_states(const Thread& thread) const {
    for (int turn = 0; thread.owns && turn < turns; ++turn) {
      const Element e = element(thread.role, turn);
      State state{};
      if (exists(thread.role, e))
        state = Pass::first_state(views, e, first_time(shape.time_steps, direction_of(e)), shape.hidden_size);
      store_state(thread, turn, state);
    }
  }
  // Before the first turn of a tile of columns: leaves its sums for the threads that update it.
  FUSED_RNN_DEVICE void multiply(Thread& thread, const Exchange& exchange, int step, int turn) const {
    if (value_of(thread.role, turn) != thread.role.first_value) return;
    thread.set ^= 1;
    Gemm::multiply(thread.set, thread.weights, exchange.vector(static_cast<unsigned>(step)), turn >> owned_log2,
                   thread.role);
  }
  FUSED_RNN_DEVICE Results results_at(const Thread& thread, int turn, const Element& e) const {
    return Gemm::sums_of(thread.set, thread.bias, thread.role.first_warp, value_of(thread.role, turn),
                         e.unit - thread.role.first_unit);
  }

  // Every block makes the whole vector of the first step, in all of its buffers: what no block owns stays zero.
  FUSED_RNN_DEVICE void fill_first_vector(T* vectors, const Role& role) const {
    const int width = Pass::kVectors * layout.padded;
    for (int i = thread_index(); i < layout.columns * width; i += kThreads) {
      const int column = i / width, index = i % width;
      const Element e{role.first_row + column, role.direction, index % layout.padded};
      float value = 0.0f;
      if (exists(role, e)) value = Pass::first_vector(views, e, first_time(shape.time_steps, direction_of(e)));
      for (int b = 0; b < Exchange::kBuffers; ++b) {
        vectors[b * map.vector_elements + column * layout.stride + index] = to_factor<T>(b == 0 ? value : 0.0f);
      }
    }
  }
};

}  // namespace fused_rnn::cuda
