// The backward pass of cluster that scatters sums where the other one gathers gradients (persistent.cuh).
//
// A block multiplies the gate gradients of its own 32 units with their rows of W_hh, so it has a part of dh for the
// units of all blocks, and sends each part to the block that owns the unit. The owner adds the parts of all blocks, in
// their order.
//
//   parts of all blocks -> sums, update -> gate gradients in shared memory -> barrier of the block -> GEMM -> parts to
//   all blocks by st.async -> wait until all parts of one's own units are there
//
// For each row a block receives 4 bytes of each hidden unit, where it would gather as many values as gates read h. No
// sum is split over warps, whose meeting and barrier are left out.
//
// Two buffers of parts suffice: a block sends into one only after it has all parts of the step between, which every
// block sent after it had read that buffer. So do two of gate gradients: all warps have passed a barrier in between.
#pragma once

#include "cuda/launch.h"
#include "cuda/pass.cuh"
#include "cuda/persistent_shape.h"
#include "cuda/tile.cuh"

namespace fused_rnn::cuda {

// Exact float32 has sums that are spread over a warp in another way.
template <class Pass>
inline constexpr bool kScatters = Pass::kBackward && Pass::kVectors > 0 && !std::is_same_v<typename Pass::T, float>;

template <class Pass>
struct ScatterKernel {
  using T = typename Pass::T;
  using Lanes = TileLanes<T, 1>;
  using Sums = TileSums<T, Lanes>;
  using Weights = TileWeights<T, Lanes>;
  using State = Pack<float, Pass::kStates>;
  using WalkOfPass = Walk<int, true>;
  static constexpr int kThreads = kPersistentWarps * kWarpLanes;
  static constexpr int kRoomForBlocks = 1;  // else ptxas spills, to have three
  static constexpr bool kNeedsClusters = true;
  static constexpr int kUnits = kScatterUnits, kDepth = Pass::kVectors;    // of a block; its tiles of 32 gradients
  static constexpr int kTiles = scatter_tiles(Pass::kVectors, sizeof(T));  // of 16 units a warp multiplies, at most
  static constexpr int kPartValues = kUnits * kTileColumns;                // that a block gets from another, of a tile
  static constexpr int kEightUnits = 8 * kTileColumns * static_cast<int>(sizeof(float));  // bytes

  // Arguments; the map is made on the host.
  PersistentShape shape;
  ScatterMap map;
  typename Pass::Views views;

  void set_shape(const PersistentShape& s) {
    shape = s;
    map = scatter_map(s, sizeof(T), Pass::kStates);
  }

  // The loop in one place: its registers were measured like this.
  // NOLINTNEXTLINE(readability-function-size)
  FUSED_RNN_DEVICE void operator()() const {
    const Role role = role_of();
    unsigned char* const shared = dynamic_shared();
    float* const states = reinterpret_cast<float*>(shared + map.states) + thread_index();
    const auto state_at = [&](int turn, int s) -> float& { return states[(s * shape.column_tiles + turn) * kThreads]; };
    const auto state_before = [&](int turn) {
      State state;
      for (int s = 0; s < Pass::kStates; ++s) state[s] = state_at(turn, s);
      return state;
    };
    TransactionBarrier* const barriers = reinterpret_cast<TransactionBarrier*>(shared + map.barriers);
    Weights weights[kTiles][kDepth];
    load_weights(weights, reinterpret_cast<Words4*>(shared), role);
    sync_block();
    clear(shared);
    for (int turn = 0; turn < shape.column_tiles; ++turn) {
      const Element e = element(role, turn);
      State state{};
      if (exists(role, e)) state = Pass::first_state(views, e, first_time(shape.time_steps, order(role)), size());
      for (int s = 0; s < Pass::kStates; ++s) state_at(turn, s) = state[s];
    }
    if (thread_index() == 0) {
      for (int b = 0; b < 2; ++b) init_barrier(&barriers[b], 1);
      publish_barriers();
      for (int b = 0; b < 2; ++b) arrive_expecting(&barriers[b], bytes_of(role));
    }
    sync_cluster();

    const int steps = shape.time_steps;
    WalkOfPass walk(order(role), steps);
    typename Pass::Inputs inputs;
    if (steps > 0) load_inputs(inputs, role, 0, walk, 0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      T* const gradients = reinterpret_cast<T*>(shared + map.gradients) + step % 2 * map.next_gradients;
#pragma unroll 1
      for (int turn = 0; turn < shape.column_tiles; ++turn) {
        typename Pass::Made made;
        const Element e = element(role, turn);
        if (e.row < role.end_row) {
          const Pack<float, 1> from_h{{sum_of_parts(shared, step, turn)}};
          State state = state_before(turn);
          made.vector = {};
          if (e.unit < size())
            state = Pass::update(views, e, walk.at(step, steps), size(), inputs, from_h, state, made);
          for (int s = 0; s < Pass::kStates; ++s) state_at(turn, s) = state[s];
          T* const own = gradients + (e.row - role.first_row) * map.stride + lane_index();
          for (int v = 0; v < Pass::kVectors; ++v) own[v * kUnits] = to_factor<T>(made.vector[v]);
        }
        sync_block();
        multiply(weights, gradients + turn * kTileColumns * map.stride, shared, barriers, step, turn, role);
        const Moment<int> now = walk.at(step, steps);
        const bool is_last = turn + 1 == shape.column_tiles;
        if (is_last) walk = walk.next();
        if (!is_last || step + 1 < steps)
          load_inputs(inputs, role, is_last ? 0 : turn + 1, walk, is_last ? step + 1 : step);
        const Element stored = element(role, turn);
        if (exists(role, stored)) Pass::store(views, stored, now, size(), made);
      }
      wait_parity(&barriers[(step + 1) % 2], step / 2 % 2);
      if (thread_index() == 0) arrive_expecting(&barriers[(step + 1) % 2], bytes_of(role));
    }
#pragma unroll 1
    for (int turn = 0; turn < shape.column_tiles; ++turn) {
      const Element e = element(role, turn);
      if (!exists(role, e)) continue;
      const Pack<float, 1> from_h{{sum_of_parts(shared, steps, turn)}};
      Pass::end(views, e, size(), state_before(turn), from_h);
    }
  }

 private:
  struct Role {
    int direction, first_row, end_row, first_unit;  // of the block; direction: index of D, which counts heads
  };
  FUSED_RNN_DEVICE Role role_of() const {
    const int group = shape.first_group + block_y();
    Role role;
    role.direction = group / shape.row_groups;
    role.first_row = (group - role.direction * shape.row_groups) * shape.rows;
    role.end_row = role.first_row + shape.rows < shape.batch ? role.first_row + shape.rows : shape.batch;
    role.first_unit = block_x() * kUnits;
    return role;
  }
  FUSED_RNN_DEVICE int size() const { return shape.hidden_size; }
  FUSED_RNN_DEVICE Direction order(const Role& role) const { return direction_of(role.direction, shape.heads); }
  // A warp has a row, a lane a unit. Computed again wherever it is needed: the weights need the registers.
  FUSED_RNN_DEVICE static Element element(const Role& role, int turn) {
    return {hidden_from_compiler(role.first_row) + turn * kTileColumns + warp_index(), role.direction,
            hidden_from_compiler(role.first_unit) + lane_index()};
  }
  FUSED_RNN_DEVICE bool exists(const Role& role, const Element& e) const {
    return e.row < role.end_row && e.unit < size();
  }
  // Columns go in pairs.
  FUSED_RNN_DEVICE int bytes_of(const Role& role) const {
    const int rows = role.end_row - hidden_from_compiler(role.first_row);
    return (rows + 1) / 2 * 2 * shape.ranks * kUnits * static_cast<int>(sizeof(float));
  }

  FUSED_RNN_DEVICE void load_inputs(typename Pass::Inputs& inputs, const Role& role, int turn, const WalkOfPass& walk,
                                    int step) const {
    const Element e = element(role, turn);
    if (!exists(role, e)) return;
    inputs = Pass::load(views, e, walk.at(step, shape.time_steps), size());
    // One turn of an exchange between blocks takes longer than the memory.
    const Moment<int> ahead = walk.next().at(step + 1, shape.time_steps);
    if (shape.column_tiles > 1 && ahead.position > 0) Pass::prefetch_inputs(views, e, ahead, size());
  }

  // The first unit of a tile of the warp's: neighbouring warps have the two tiles of a block.
  FUSED_RNN_DEVICE static int first_of(int tile) { return (tile * kPersistentWarps + warp_index()) * Lanes::kUnits; }
  // By way of shared memory, in a loop: as code for each single weight it would be long and slow.
  FUSED_RNN_DEVICE void load_weights(Weights (&weights)[kTiles][kDepth], Words4* slots, const Role& role) const {
    Words4* const slot = slots + warp_index() * Weights::kChunks * kWarpLanes + lane_index();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int gate = 0; gate < kDepth; ++gate) {
#pragma unroll 1
        for (int part = 0; part < Lanes::kLaneUnits; ++part) {
          const int unit = first_of(tile) + Lanes::unit(part);
          Weights one{};
#pragma unroll
          for (int i = 0; i < Lanes::kHeld; ++i) {
            const int hidden = role.first_unit + hidden_index<sizeof(T), Lanes::kHeld>(i);
            const bool inside = unit < size() && hidden < size();
            // Always loads, so that the loads overlap; element 0 exists.
            const T loaded = Pass::weight(views, role.direction, gate, inside ? unit : 0, inside ? hidden : 0, size());
            one.set(0, i, to_factor<T>(inside ? to_real(loaded) : 0.0f));
          }
          for (int c = 0; c < Weights::kPartChunks; ++c) {
            store_words(slot + (part * Weights::kPartChunks + c) * kWarpLanes, one.chunks[c]);
          }
        }
        for (int c = 0; c < Weights::kChunks; ++c) weights[tile][gate].chunks[c] = load_words(slot + c * kWarpLanes);
      }
    }
  }
  // Parts of the first step, and those that no block sends; gradients of rows beyond the batch.
  FUSED_RNN_DEVICE void clear(unsigned char* shared) const {
    for (size_t i = thread_index() * sizeof(Words4); i < map.states; i += kThreads * sizeof(Words4)) {
      store_words(shared + i, Words4{});
    }
  }

  // Where the part of a unit and column lies: lanes that read one column meet no bank conflict.
  FUSED_RNN_DEVICE static int place_of(int unit, int column) {
    return unit * kTileColumns + (column ^ (unit / 8 % 2 + unit / 4 % 2 * 2 + unit / 16 * 4));
  }
  FUSED_RNN_DEVICE float* parts_of(unsigned char* shared, int step, int turn) const {
    return reinterpret_cast<float*>(shared) + step % 2 * map.next_parts + turn * map.parts_of_tile;
  }
  FUSED_RNN_DEVICE float sum_of_parts(unsigned char* shared, int step, int turn) const {
    const float* from = parts_of(shared, step, turn) + place_of(lane_index(), warp_index());
    float sum = 0.0f;
#pragma unroll 1
    for (int rank = 0; rank < shape.ranks; rank += kScatterStride, from += kScatterStride * kPartValues) {
      sum += (from[0] + from[kPartValues]) + (from[2 * kPartValues] + from[3 * kPartValues]);
    }
    return sum;
  }

  FUSED_RNN_DEVICE void multiply(const Weights (&weights)[kTiles][kDepth], const T* columns, unsigned char* shared,
                                 TransactionBarrier* barriers, int step, int turn, const Role& role) const {
    if constexpr (kTiles > 2) {
      if (shape.ranks <= 8) return multiply_tiles<2>(weights, columns, shared, barriers, step, turn, role);
    }
    multiply_tiles<kTiles>(weights, columns, shared, barriers, step, turn, role);
  }
  template <int kCount>
  FUSED_RNN_DEVICE void multiply_tiles(const Weights (&weights)[kTiles][kDepth], const T* columns,
                                       unsigned char* shared, TransactionBarrier* barriers, int step, int turn,
                                       const Role& role) const {
    Sums sums[kCount];
#pragma unroll
    for (int tile = 0; tile < kCount; ++tile) sums[tile].clear();
#pragma unroll
    for (int gate = 0; gate < kDepth; ++gate) {
#pragma unroll
      for (int tile = 0; tile < kCount; ++tile)
        sums[tile].add(weights[tile][gate], columns + gate * kUnits, map.stride);
    }
    const int column = lane_index() % 4 * 2, unit = lane_index() / 4;
    if (column >= role.end_row - hidden_from_compiler(role.first_row) - turn * kTileColumns) return;
    float* const own = parts_of(shared, step + 1, turn) + block_x() * kPartValues;
    const SharedAddress to = shared_address(own + place_of(first_of(0) % kUnits + unit, column));
    const SharedAddress barrier = shared_address(&barriers[(step + 1) % 2]);
    int rank = first_of(0) / kUnits;
#pragma unroll
    for (int tile = 0; tile < kCount; ++tile, rank += kPersistentWarps * Lanes::kUnits / kUnits) {
      if (rank >= shape.ranks) break;
      const SharedAddress there = peer_address(barrier, rank);
      const float (&values)[4] = sums[tile].values;
      store_async(peer_address(to, rank), Words2{{float_to_bits(values[0]), float_to_bits(values[1])}}, there);
      // The units eight further, whose columns place_of has in the other order.
      store_async(peer_address(to + kEightUnits, rank), Words2{{float_to_bits(values[3]), float_to_bits(values[2])}},
                  there);
    }
  }
};

}  // namespace fused_rnn::cuda
