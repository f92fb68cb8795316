// The persistent schedules: one launch for the whole sequence, in which the weights never leave the chip.
//
// A group of blocks owns some rows of the batch in one direction. Each block owns some hidden units, and keeps their
// weights in registers and shared memory. A step is
//
//   product    W times the vector that the step before made, from shared memory; warps that share the units of a tile
//              each multiply a part of the hidden indices, and their sums meet in shared memory
//   update     each unit of each row by one thread, which keeps its state (pass.cuh)
//   exchange   every block needs the units of all: what differs between the schedules (one_block.cuh, cluster.cuh,
//              grid.cuh)
//
// While the exchange is under way the next step's inputs are loaded and what the update made is stored. Forward and
// backward differ in what is exchanged, h or the gate gradients, and in how many sums a unit has: the same tiles of
// weights serve both.
//
// Every sum is made in one order, which depends on the shape alone: results are bitwise repeatable.
#pragma once

#include "cuda/launch.h"
#include "cuda/pass.cuh"
#include "cuda/persistent_shape.h"
#include "cuda/tile.cuh"

namespace fused_rnn::cuda {

// What an exchange knows of the vector: `columns` rows of the batch, each with `vectors` x `padded` elements. It sends
// and receives `rows` of them: the rest is beyond the batch, and zero.
struct VectorLayout {
  int stride, columns, padded, covered, units, units_log2, first_unit, ranks;
};

template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct PersistentKernel {
  using T = typename Pass::T;
  using Exchange = ExchangeOf<T, Pass::kVectors>;
  using Sums = TileSums<T>;
  using Weights = TileWeights<T>;
  using State = Pack<float, Pass::kStates>;
  using Results = Pack<float, Pass::kResults>;
  static constexpr int kThreads = kPersistentWarps * kWarpLanes;
  static constexpr bool kNeedsClusters = Exchange::kNeedsClusters;
  static constexpr int kGates = Pass::Cell::kGates;
  static constexpr int kRegisterTiles = register_tiles(kGates, sizeof(T), std::is_same_v<T, float>);
  // Sums that go on independently, so that one product does not wait for the one before.
  static constexpr int kChains = std::is_same_v<T, float> ? 1 : (Pass::kResults >= 3 ? 1 : (sizeof(T) == 2 ? 3 : 2));
  static constexpr int kPartialValues = Pass::kResults * kTileValues;
  // Elements that a thread updates side by side; one that owns four takes two turns.
  static constexpr int kAtOnce = 2;

  PersistentShape shape;
  typename Pass::Views views;
  typename Exchange::Global global;

  FUSED_RNN_DEVICE void operator()() const {
    const int group = shape.first_group + block_x() / shape.ranks;
    const SharedMap map = shared_map(shape, sizeof(T), Pass::kVectors, Pass::kResults, Pass::kStates,
                                     Exchange::kBuffers, Exchange::kStages);
    const int warp = warp_index(), lane = lane_index(), rank = block_x() % shape.ranks;
    const int split = warp % shape.splits, unit_tile = warp / shape.splits, first_value = split * shape.owned();
    Role role;
    role.direction = group / shape.row_groups;
    role.first_row = group % shape.row_groups * shape.columns();
    role.first_unit = rank * shape.units();
    role.own_column = lane % 4 * 2 + first_value % 2;
    role.own_unit = unit_tile * kTileUnits + lane / 4 + first_value / 2 * 8;
    role.first_tile = split * shape.split_tiles();
    role.tiles = shape.tiles_of(split);
    const int owned = shape.owned_of(split), at_once = owned < kAtOnce ? owned : kAtOnce;
    // A tile of columns takes one turn, or two where a thread owns four elements.
    const int halves_log2 = shape.owned() > kAtOnce ? 1 : 0, turns = shape.column_tiles << halves_log2;

    unsigned char* shared = dynamic_shared();
    const VectorLayout layout{map.stride,    shape.columns(),    shape.padded(),  shape.covered(),
                              shape.units(), shape.units_log2(), role.first_unit, shape.ranks};
    float* const states = reinterpret_cast<float*>(shared + map.state) + thread_index();
    const auto state_at = [&](int turn, int i, int s) -> float& {
      return states[((s * turns + turn) * kAtOnce + i) * kThreads];
    };
    float* const bias = reinterpret_cast<float*>(shared + map.bias);
    float* meeting = reinterpret_cast<float*>(shared + map.partials);
    int set_apart = map.partial_set;

    Weights weights[kRegisterTiles][kGates];
    Words4* const slots = reinterpret_cast<Words4*>(shared + map.weights) +
                          static_cast<size_t>(warp) * shape.weight_slots() * kGates * Weights::kChunks * kWarpLanes;
    load_weights(weights, slots, role, role.first_unit + unit_tile * kTileUnits);
    fill_bias(bias, role);
    for (int turn = 0; turn < turns; ++turn) {
      const Element first = first_element(role, turn, halves_log2);
      for (int i = 0; i < at_once; ++i) {
        State state{};
        if (exists(next_to(first, i))) state = Pass::first_state(views, next_to(first, i), shape.time_steps);
        for (int s = 0; s < Pass::kStates; ++s) state_at(turn, i, s) = state[s];
      }
    }
    fill_first_vector(reinterpret_cast<T*>(shared + map.vectors), map, layout, role);
    Exchange exchange(shared + map.vectors, shared + map.stage, shared + map.barriers, global, layout,
                      block_x() / shape.ranks);
    exchange.begin(rows_of(role));

    const int steps = shape.time_steps, products = Pass::kBackward ? steps + 1 : steps;
    typename Pass::Inputs inputs[kAtOnce];
    const auto load_inputs = [&](int step, int turn) {
      const Element first = first_element(role, turn, halves_log2);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (i < at_once && exists(next_to(first, i))) load_element(inputs[i], next_to(first, i), step);
      }
    };
    if (steps > 0) load_inputs(0, 0);
    for (int step = 0; step < products; ++step) {
      float sums[kPartialValues];
#pragma unroll 1
      for (int turn = 0; turn < turns; ++turn) {
        const int column_tile = turn >> halves_log2, half = turn & ((1 << halves_log2) - 1);
        if (half == 0) {
          product(sums, weights, slots, exchange.vector(), map.stride, column_tile, role);
          if (shape.splits > 1) {
            // Two sets of partial sums in turn: those of the tile before may still be read.
            meeting += set_apart;
            set_apart = -set_apart;
            for (int v = 0; v < kPartialValues; ++v) meeting[(warp * kPartialValues + v) * kWarpLanes + lane] = sums[v];
            sync_block();
          }
        }
        const Element first = first_element(role, turn, halves_log2);
        typename Pass::Made made[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (i >= at_once) continue;
          const Element e = next_to(first, i);
          Results results;
#pragma unroll
          for (int r = 0; r < Pass::kResults; ++r) {
            results[r] = bias[(r << layout.units_log2) + e.unit - role.first_unit];
            const float own = half == 0 ? sums[r * kTileValues + i] : sums[r * kTileValues + kAtOnce + i];
            if (shape.splits == 1) results[r] += own;
          }
          if (shape.splits > 1) add_partials(results, meeting, warp - split, first_value + i);
          State state;
          for (int s = 0; s < Pass::kStates; ++s) state[s] = state_at(turn, i, s);
          if (step == steps) {
            if (exists(e)) Pass::end(views, e, shape.hidden_size, state, results);
            continue;
          }
          Pack<float, Pass::kVectors> vector{};
          if (exists(e)) {
            const Moment now = moment_at(Pass::position(step, steps), role.direction, steps);
            state = Pass::update(views, e, now, shape.hidden_size, inputs[i], results, state, vector, made[i]);
            for (int s = 0; s < Pass::kStates; ++s) state_at(turn, i, s) = state[s];
          }
          for (int v = 0; v < Pass::kVectors; ++v) {
            exchange.put(column_tile * kTileColumns + role.own_column + i, v, role.own_unit + 8 * half,
                         to_factor<T>(vector[v]));
          }
        }
        const bool is_last_turn = turn + 1 == turns;
        if (is_last_turn && step + 1 < products) exchange.send(static_cast<unsigned>(step), rows_of(role));
        if (is_last_turn ? step + 1 < steps : step < steps) {
          load_inputs(is_last_turn ? step + 1 : step, is_last_turn ? 0 : turn + 1);
        }
        if (step < steps) store_made(made, first_element(role, turn, halves_log2), step, at_once);
      }
      if (step + 1 < products) exchange.receive(static_cast<unsigned>(step), rows_of(role));
    }
    if constexpr (!Pass::kBackward) {  // backward has ended with its last product
      for (int turn = 0; turn < turns; ++turn) {
        const Element first = first_element(role, turn, halves_log2);
        for (int i = 0; i < at_once; ++i) {
          State state;
          for (int s = 0; s < Pass::kStates; ++s) state[s] = state_at(turn, i, s);
          if (exists(next_to(first, i))) Pass::end(views, next_to(first, i), shape.hidden_size, state, {});
        }
      }
    }
  }

 private:
  // What a thread is for.
  struct Role {
    int direction, first_row, first_unit;  // of the block
    int own_column, own_unit;              // of the first element that the thread updates, within the block
    int first_tile, tiles;                 // of hidden indices that the warp multiplies
  };

  // Computed again wherever it is needed: the weights need the registers.
  FUSED_RNN_DEVICE int rows_of(const Role& role) const {
    const int left = shape.batch - hidden_from_compiler(role.first_row);
    return left < shape.columns() ? left : shape.columns();
  }
  FUSED_RNN_DEVICE static Element first_element(const Role& role, int turn, int halves_log2) {
    // Addresses in all buffers would otherwise wait in registers.
    const int column = hidden_from_compiler(role.own_column), unit = hidden_from_compiler(role.own_unit);
    return {role.first_row + (turn >> halves_log2) * kTileColumns + column, role.direction,
            role.first_unit + unit + (turn & ((1 << halves_log2) - 1)) * 8};
  }
  FUSED_RNN_DEVICE static Element next_to(const Element& first, int i) {
    return {first.row + i, first.direction, first.unit};
  }
  FUSED_RNN_DEVICE bool exists(const Element& e) const { return e.row < shape.batch && e.unit < shape.hidden_size; }

  FUSED_RNN_DEVICE void load_element(typename Pass::Inputs& inputs, const Element& e, int step) const {
    const int steps = shape.time_steps, ahead = Pass::position(step + 1, steps);
    inputs = Pass::load(views, e, moment_at(Pass::position(step, steps), e.direction, steps), shape.hidden_size);
    // A step of an exchange between blocks takes longer than the memory.
    if (Exchange::kShortSteps && ahead > 0 && ahead < steps) {
      Pass::prefetch_inputs(views, e, moment_at(ahead, e.direction, steps), shape.hidden_size);
    }
  }

  FUSED_RNN_DEVICE void store_made(const typename Pass::Made (&made)[kAtOnce], const Element& first, int step,
                                   int count) const {
    const int steps = shape.time_steps;
    const Moment now = moment_at(Pass::position(step, steps), first.direction, steps);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Element e = next_to(first, i);
      if (i < count && exists(e)) Pass::store(views, e, now, shape.hidden_size, made[i]);
    }
  }

  FUSED_RNN_DEVICE void fill_bias(float* bias, const Role& role) const {
    for (int i = thread_index(); i < Pass::kResults * shape.units(); i += kThreads) {
      const int gate = i >> shape.units_log2(), unit = role.first_unit + (i & (shape.units() - 1));
      const bool inside = unit < shape.hidden_size;
      bias[i] = inside ? Pass::bias(views, role.direction, gate, unit, shape.hidden_size) : 0.0f;
    }
  }

  // What the warps that share a tile have summed, in their order.
  FUSED_RNN_DEVICE void add_partials(Results& results, const float* meeting, int first_warp, int value) const {
    const float* from = meeting + (first_warp * kPartialValues + value) * kWarpLanes + lane_index();
#pragma unroll 1
    for (int w = 0; w < shape.splits; w += 2, from += 2 * kPartialValues * kWarpLanes) {
#pragma unroll
      for (int r = 0; r < Pass::kResults; ++r) {
        const float* of_result = from + r * kTileValues * kWarpLanes;
        results[r] += of_result[0] + of_result[kPartialValues * kWarpLanes];
      }
    }
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
  FUSED_RNN_DEVICE static const Words4* slot_of(const Words4* slots, int tile) {
    return slots + (tile - kRegisterTiles) * kGates * Weights::kChunks * kWarpLanes;
  }
  FUSED_RNN_DEVICE static Words4* slot_of(Words4* slots, int tile) {
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
    const int pair = lane_index() % 4;
#pragma unroll 1
    for (int row = 0; row < 2 * kGates; ++row) {
      const int gate = row / 2, half = row % 2, unit = first_unit + lane_index() / 4 + 8 * half;
      Weights one{};
#pragma unroll
      for (int i = 0; i < kTileHeld; ++i) {
        const int hidden = tile * kTileHidden + hidden_index<sizeof(T)>(pair, i);
        const bool inside = used && unit < shape.hidden_size && hidden < shape.hidden_size;
        // Always loads, so that the loads overlap; element 0 exists.
        const T loaded =
            Pass::weight(views, direction, gate, inside ? unit : 0, inside ? hidden : 0, shape.hidden_size);
        one.set(0, i, to_factor<T>(inside ? to_real(loaded) : 0.0f));
      }
      constexpr int kHalfChunks = Weights::kChunks / 2;
      for (int c = 0; c < kHalfChunks; ++c) {
        store_words(slot + (gate * Weights::kChunks + half * kHalfChunks + c) * kWarpLanes + lane_index(),
                    one.chunks[c]);
      }
    }
  }

  // Every block makes the whole vector of the first step, in all of its buffers: what no block owns stays zero.
  FUSED_RNN_DEVICE void fill_first_vector(T* vectors, const SharedMap& map, const VectorLayout& layout,
                                          const Role& role) const {
    const int width = Pass::kVectors * layout.padded;
    for (int i = thread_index(); i < layout.columns * width; i += kThreads) {
      const int column = i / width, index = i % width;
      const Element e{role.first_row + column, role.direction, index % layout.padded};
      float value = 0.0f;
      if (e.row < shape.batch && e.unit < shape.hidden_size) value = Pass::first_vector(views, e, shape.time_steps);
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
    const auto columns_of = [&](int gate, int tile) {
      return columns + (Pass::kVectors > 1 ? gate * shape.padded() : 0) + tile * kTileHidden;
    };
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
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          chain_of(chains, gate, tile).add(weights[tile][gate], columns_of(gate, tile), stride);
        }
      }
    }
    for (int tile = kRegisterTiles; tile < role.tiles; ++tile) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        chain_of(chains, gate, kRegisterTiles)
            .add(read_slot(slot_of(slots, tile), gate), columns_of(gate, tile), stride);
      }
    }
#pragma unroll
    for (int r = 0; r < Pass::kResults; ++r) {
#pragma unroll
      for (int c = 1; c < kChains; ++c) chains[r][0].add(chains[r][c]);
      chains[r][0].finish();
#pragma unroll
      for (int v = 0; v < kTileValues; ++v) sums[r * kTileValues + v] = chains[r][0].values[v];
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
