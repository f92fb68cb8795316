// The persistent schedules: one launch for the whole sequence, in which the weights never leave the chip.
//
// A group of blocks owns some rows of the batch in one head of one direction. Each block owns some hidden units, and
// keeps their weights in registers and shared memory. A step is
//
//   GEMM       W times the vector that the step before made, from shared memory; warps that share the units of a tile
//              each multiply a part of the hidden indices; sums meet in shared memory
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

#include "cuda/launch.h"
#include "cuda/pass.cuh"
#include "cuda/persistent_shape.h"
#include "cuda/tile.cuh"

namespace fused_rnn::cuda {

template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct PersistentKernel {
  using T = typename Pass::T;
  using Exchange = ExchangeOf<T, Pass::kVectors>;
  using Lanes = TileLanes<T, Pass::kResults>;
  using Sums = TileSums<T, Lanes>;
  using Weights = TileWeights<T, Lanes>;
  using State = Pack<float, Pass::kStates>;
  using Results = Pack<float, Pass::kResults>;
  using WalkOfPass = Walk<int, Pass::kBackward>;
  static constexpr int kThreads = kPersistentWarps * kWarpLanes;
  static constexpr bool kNeedsClusters = Exchange::kNeedsClusters;
  static constexpr int kGates = recurrent_gates<typename Pass::Cell>();
  static constexpr bool kExact = std::is_same_v<T, float>;
  static constexpr int kRegisterTiles = register_tiles(kGates, sizeof(T), kExact);
  // Sums that go on independently, so that one product does not wait for the one before.
  static constexpr int kChains = kExact ? 1 : (Pass::kResults >= 3 ? 1 : (sizeof(T) == 2 ? 4 : 2));
  static constexpr int kPartialValues = Pass::kResults * Sums::kValues;

  // Arguments; those of the shape are made on the host, so that they are constants of the kernel and need no registers.
  PersistentShape shape;
  SharedMap map;
  VectorLayout layout;
  int turns, owned_log2;
  typename Pass::Views views;
  typename Exchange::Global global;

  void set_shape(const PersistentShape& s) {
    shape = s;
    map =
        shared_map(s, sizeof(T), Pass::kVectors, Pass::kResults, Pass::kStates, Exchange::kBuffers, Exchange::kStages);
    layout = {map.stride, s.columns(), s.padded(), s.covered(), s.units(), s.units_log2(), s.ranks};
    turns = s.turns();
    owned_log2 = s.owned_log2();
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
    WalkOfPass walk(fused_rnn::direction_of(role.direction, shape.heads), steps);
    if (owns && steps > 0) load_inputs(inputs, role, next, walk);
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
            state = Pass::update(views, e, walk.now(), shape.hidden_size, inputs, results, state, made);
            if (Exchange::kStoresFirst) Pass::store(views, e, walk.now(), shape.hidden_size, made);
          }
          store_state(thread, turn, state);
          for (int v = 0; v < Pass::kVectors; ++v)
            exchange.put(static_cast<unsigned>(step), e.row - role.first_row, v, e.unit - role.first_unit,
                         to_factor<T>(made.vector[v]));
        }
        const bool is_last = turn + 1 == turns;
        if (is_last && goes_on) exchange.send(static_cast<unsigned>(step), rows_of(role));
        if (!owns) continue;
        if (turns > 1) next = element(role, is_last ? 0 : turn + 1);
        const Moment<int> now = walk.now();
        if (is_last) walk = walk.next();
        if (!is_last || step + 1 < steps) load_inputs(inputs, role, next, walk);
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
  // What a thread is for.
  struct Role {
    int unit_tile, first_warp;                      // of the tile of units that the warp multiplies, maybe with others
    int direction, first_row, end_row, first_unit;  // of the block; direction: index of D, which counts heads
    int column, unit, first_value;  // of a tile's values in a lane, where they are and which the warp updates
    int first_tile, tiles;          // of hidden indices that the warp multiplies
  };
  // What a thread has for all steps.
  struct Thread {
    Role role;
    bool owns;  // whether it updates units
    float *states, *bias;
    Words4* slots;
    Weights weights[kRegisterTiles][kGates];
    int set = 0;  // of partial sums: two in turn, since those of the tile before may still be read

    FUSED_RNN_DEVICE explicit Thread(const PersistentKernel& kernel) : role(kernel.role_of()) {
      unsigned char* const shared = dynamic_shared();
      owns = role.first_value < Sums::kValues;
      states = reinterpret_cast<float*>(shared + kernel.map.state) + thread_index();
      bias = reinterpret_cast<float*>(shared + kernel.map.bias);
      slots = reinterpret_cast<Words4*>(shared + kernel.map.weights) +
              static_cast<size_t>(warp_index()) * kernel.shape.weight_slots() * kGates * Weights::kChunks * kWarpLanes;
      kernel.load_weights(weights, slots, role, role.first_unit + role.unit_tile * Lanes::kUnits);
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
    const int warp = warp_index(), split = warp % shape.splits, unit_tile = warp / shape.splits;
    const int group = shape.first_group + block_y(), lane = lane_index();
    Role role;
    role.unit_tile = unit_tile;
    role.first_warp = warp - split;
    role.direction = group / shape.row_groups;
    role.first_row = (group - role.direction * shape.row_groups) * shape.rows;
    role.end_row = role.first_row + shape.rows < shape.batch ? role.first_row + shape.rows : shape.batch;
    role.first_unit = block_x() * shape.units();
    role.column = lane % 4 * 2;
    role.unit = unit_tile * Lanes::kUnits + lane / 4;
    role.first_value = split << owned_log2;
    role.first_tile = split * shape.split_tiles();
    role.tiles = shape.tiles_of(split);
    return role;
  }

  // Computed again wherever it is needed: the weights need the registers.
  FUSED_RNN_DEVICE int rows_of(const Role& role) const { return role.end_row - hidden_from_compiler(role.first_row); }
  FUSED_RNN_DEVICE int value_of(const Role& role, int turn) const {
    return role.first_value + (turn & ((1 << owned_log2) - 1));
  }
  FUSED_RNN_DEVICE Element element(const Role& role, int turn) const {
    const int value = value_of(role, turn), column_tile = turn >> owned_log2;
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
                                    const WalkOfPass& walk) const {
    if (!exists(role, e)) return;
    inputs = Pass::load(views, e, walk.now(), shape.hidden_size);
    // One turn of an exchange between blocks takes longer than the memory.
    const Moment<int> ahead = walk.next().now();
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
  FUSED_RNN_DEVICE void fill_bias(float* bias, const Role& role) const {
    for (int i = thread_index(); i < Pass::kResults * shape.units(); i += kThreads) {
      const int gate = i >> shape.units_log2(), unit = role.first_unit + (i & (shape.units() - 1));
      const bool inside = unit < shape.hidden_size;
      bias[i] = inside ? Pass::bias(views, role.direction, gate, unit, shape.hidden_size) : 0.0f;
    }
  }

  // Before the first turn of a tile of columns: leaves its sums for the threads that update it.
  FUSED_RNN_DEVICE void multiply(Thread& thread, const Exchange& exchange, int step, int turn) const {
    if (value_of(thread.role, turn) != thread.role.first_value) return;
    float sums[kPartialValues];
    product(sums, thread.weights, thread.slots, exchange.vector(static_cast<unsigned>(step)), map.stride,
            turn >> owned_log2, thread.role);
    thread.set ^= 1;
    float* const meeting = partials(thread, warp_index(), 0);
    for (int v = 0; v < kPartialValues; ++v) meeting[v * kWarpLanes] = sums[v];
    sync_block();
  }
  FUSED_RNN_DEVICE float* partials(const Thread& thread, int warp, int value) const {
    float* const of_set = reinterpret_cast<float*>(dynamic_shared() + map.sums) + thread.set * map.next_sums;
    return of_set + (warp * kPartialValues + value) * kWarpLanes + lane_index();
  }
  // What the warps that share a tile have summed, in their order.
  FUSED_RNN_DEVICE Results results_at(const Thread& thread, int turn, const Element& e) const {
    const int unit = e.unit - thread.role.first_unit;
    Results results;
    for (int r = 0; r < Pass::kResults; ++r) results[r] = thread.bias[(r << layout.units_log2) + unit];
    const float* from = partials(thread, thread.role.first_warp, value_of(thread.role, turn));
    constexpr int kOfWarp = kPartialValues * kWarpLanes;
#pragma unroll 1
    for (int w = 0; w < shape.splits; w += 4, from += 4 * kOfWarp) {
#pragma unroll
      for (int r = 0; r < Pass::kResults; ++r) {
        const float* of_result = from + r * Sums::kValues * kWarpLanes;
        float sum = of_result[0];
        if (shape.splits > 1) sum += of_result[kOfWarp];
        if (shape.splits > 2) sum += of_result[2 * kOfWarp] + of_result[3 * kOfWarp];
        results[r] += sum;
      }
    }
    return results;
  }

  FUSED_RNN_DEVICE void load_weights(Weights (&weights)[kRegisterTiles][kGates], Words4* slots, const Role& role,
                                     int first_unit) const {
    // By way of shared memory, in a loop: as code for each single weight it would be long and slow.
#pragma unroll
    for (int tile = 0; tile < kRegisterTiles; ++tile) {
      fill_slot(slots, role.direction, first_unit, role.first_tile + tile, tile < role.tiles);
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) weights[tile][gate] = read_slot(slots, gate);
    }
    for (int tile = kRegisterTiles; tile < role.tiles; ++tile) {
      fill_slot(slot_of(slots, tile), role.direction, first_unit, role.first_tile + tile, true);
    }
  }
  // A slot holds a lane's part of one tile for each gate; no other lane reads it.
  template <class Words>
  FUSED_RNN_DEVICE static Words* slot_of(Words* slots, int tile) {
    return slots + (tile - kRegisterTiles) * kGates * Weights::kChunks * kWarpLanes;
  }
  FUSED_RNN_DEVICE static Weights read_slot(const Words4* slot, int gate) {
    Weights weights;
#pragma unroll
    for (int c = 0; c < Weights::kChunks; ++c) {
      weights.chunks[c] = load_words(slot + (gate * Weights::kChunks + c) * kWarpLanes + lane_index());
    }
    return weights;
  }
  FUSED_RNN_DEVICE void fill_slot(Words4* slot, int direction, int first_unit, int tile, bool used) const {
#pragma unroll 1
    for (int row = 0; row < kGates * Lanes::kLaneUnits; ++row) {
      const int gate = row / Lanes::kLaneUnits, part = row % Lanes::kLaneUnits, unit = first_unit + Lanes::unit(part);
      Weights one{};
#pragma unroll
      for (int i = 0; i < Lanes::kHeld; ++i) {
        const int hidden = tile * kTileHidden + hidden_index<sizeof(T), Lanes::kHeld>(i);
        const bool inside = used && unit < shape.hidden_size && hidden < shape.hidden_size;
        // Always loads, so that the loads overlap; element 0 exists.
        const T loaded =
            Pass::weight(views, direction, gate, inside ? unit : 0, inside ? hidden : 0, shape.hidden_size);
        one.set(0, i, to_factor<T>(inside ? to_real(loaded) : 0.0f));
      }
      for (int c = 0; c < Weights::kPartChunks; ++c) {
        store_words(slot + (row * Weights::kPartChunks + c) * kWarpLanes + lane_index(), one.chunks[c]);
      }
    }
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

  FUSED_RNN_DEVICE void product(float (&sums)[kPartialValues], const Weights (&weights)[kRegisterTiles][kGates],
                                const Words4* slots, const T* vector, int stride, int column_tile,
                                const Role& role) const {
    Sums chains[Pass::kResults][kChains];
#pragma unroll
    for (int r = 0; r < Pass::kResults; ++r) {
#pragma unroll
      for (int c = 0; c < kChains; ++c) chains[r][c].clear();
    }
    const T* columns = vector + column_tile * kTileColumns * stride + role.first_tile * kTileHidden;
    const int rows = kExact ? rows_of(role) - column_tile * kTileColumns : kTileColumns;
    // Straight code for each number of tiles, so that the vector's loads go ahead of the products; wider types have no
    // registers for that.
    constexpr bool kStraight = sizeof(T) == 2;
    const int held = role.tiles < kRegisterTiles ? role.tiles : kRegisterTiles;
#pragma unroll
    for (int count = kRegisterTiles; count > (kStraight ? 0 : kRegisterTiles - 1); --count) {
      if (kStraight && held != count) continue;
#pragma unroll
      for (int tile = 0; tile < count; ++tile) {
        if (!kStraight && tile >= held) break;
        add_tile(
            chains, [&](int gate) { return weights[tile][gate]; }, columns + tile * kTileHidden, stride, tile, rows);
      }
    }
#pragma unroll(kStraight && !Pass::kBackward ? 2 : 1)
    for (int tile = kRegisterTiles; tile < role.tiles; ++tile) {
      const Words4* const slot = slot_of(slots, tile);
      add_tile(
          chains, [&](int gate) { return read_slot(slot, gate); }, columns + tile * kTileHidden, stride, kRegisterTiles,
          rows);
    }
#pragma unroll
    for (int r = 0; r < Pass::kResults; ++r) {
      if constexpr (kChains > 1) {
#pragma unroll
        for (int c = 1; c < kChains; ++c) chains[r][0].add(chains[r][c]);
      }
      chains[r][0].finish();
#pragma unroll
      for (int v = 0; v < Sums::kValues; ++v) sums[r * Sums::kValues + v] = chains[r][0].values[v];
    }
  }
  // Adds one tile's products, of which weights_of(gate) has the weights, for all columns; exact float32 may leave out
  // those from `rows` on.
  template <class WeightsOf>
  FUSED_RNN_DEVICE void add_tile(Sums (&chains)[Pass::kResults][kChains], const WeightsOf& weights_of, const T* columns,
                                 int stride, int tile, int rows) const {
    const int gate_stride = Pass::kVectors > 1 ? shape.padded() : 0;
    if constexpr (kExact) {
      Weights weights[kGates];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) weights[gate] = weights_of(gate);
      add_exact<Lanes>(chains, weights, columns, gate_stride, stride, rows);
    } else {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        chain_of(chains, gate, tile).add(weights_of(gate), columns + gate * gate_stride, stride);
      }
    }
  }
  FUSED_RNN_DEVICE static Sums& chain_of(Sums (&chains)[Pass::kResults][kChains], int gate, int tile) {
    if constexpr (Pass::kBackward) {
      return chains[0][(tile * kGates + gate) % kChains];
    } else {
      return chains[gate][tile % kChains];
    }
  }
};

}  // namespace fused_rnn::cuda
