// The GEMM of the persistent schedules in one block: which weights a warp has, what it multiplies, and how the sums
// reach the threads that update.
//
// The units of a block times the hidden indices are as many tiles for each warp, with kGates rows of 16 (8) values by
// 32 hidden indices each. There are two ways to share them:
//
//   by gates      a row of values is one gate of 16 units. Warps that share these units multiply a part of the hidden
//                 indices each, and their sums meet in shared memory behind a barrier.
//   interleaved   a row of values is the four gates of four units, so that one warp multiplies several parts of the
//                 hidden indices with fewer units. Two warps meet where a block has 16 units; else a warp has all of
//                 its sums, and shared memory only hands them from lane to lane.
//
// The second needs all four sums of a unit from one vector, as four gates have forward. Its warps read more of the
// vector: with 32 units a block each reads all of it.
#pragma once

#include "cuda/launch.h"
#include "cuda/pass.cuh"
#include "cuda/persistent_shape.h"
#include "cuda/tile.cuh"

namespace fused_rnn::cuda {

template <class Pass>
struct PersistentGemm {
  using T = typename Pass::T;
  using Lanes = TileLanes<T, Pass::kResults>;
  using TileSum = TileSums<T, Lanes>;
  using Weights = TileWeights<T, Lanes>;
  using Results = Pack<float, Pass::kResults>;
  static constexpr int kThreads = kPersistentWarps * kWarpLanes;
  static constexpr int kGates = recurrent_gates<typename Pass::Cell>();
  static constexpr bool kExact = std::is_same_v<T, float>;
  static constexpr bool kInterleaved = interleaves_gates(Pass::kResults, kExact, kWithNorms<Pass>);
  static constexpr int kRegisterTiles = register_tiles(kGates, sizeof(T), kExact);
  // Sums that go on independently, so that one product does not wait for the one before.
  static constexpr int kChains = kExact ? 1 : (Pass::kResults >= 3 ? 1 : (sizeof(T) == 2 ? 4 : 2));
  static constexpr int kValues = TileSum::kValues;

  // Arguments; those of the shape are made on the host, so that they are constants of the kernel and need no registers.
  PersistentShape shape;
  SharedMap map;
  int turns, owned_log2, units_log2, sharing, parts, warp_slots;
  int part_stride;  // elements between the parts of the vector that a warp multiplies
  typename Pass::Views views;

  void set_shape(const PersistentShape& s) {
    shape = s;
    turns = s.turns();
    owned_log2 = s.owned_log2();
    units_log2 = s.units_log2();
    sharing = s.sharing();
    warp_slots = s.weight_slots() * kGates * Weights::kChunks * kWarpLanes;
    parts = s.parts_of_warp();
    part_stride = kInterleaved ? s.split_tiles() * kTileHidden : (Pass::kVectors > 1 ? s.padded() : 0);
  }

 protected:
  // What a thread is for.
  struct Role {
    int first_warp, first_of_warp;  // warps that sum the same units, and the first of these in the block
    int direction, first_row, end_row, first_unit;  // of the block; direction: index of D, which counts heads
    int column, unit, first_value;  // of a tile's values in a lane, where they are and which the warp updates
    int first_tile, tiles;          // of hidden indices that the warp multiplies, in each of its parts
  };

  FUSED_RNN_DEVICE void load_weights(Weights (&weights)[kRegisterTiles][kGates], const Role& role,
                                     int first_unit) const {
    Words4* const slots = first_slot();
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

  FUSED_RNN_DEVICE void fill_bias(float* bias, const Role& role) const {
    for (int i = thread_index(); i < Pass::kResults * shape.units(); i += kThreads) {
      const int gate = i >> units_log2, of_block = i & ((1 << units_log2) - 1), unit = role.first_unit + of_block;
      const bool inside = unit < shape.hidden_size;
      bias[bias_index(gate, of_block)] =
          inside ? Pass::bias(views, role.direction, gate, unit, shape.hidden_size) : 0.0f;
    }
  }

  // Multiplies the vector of a tile of columns, and leaves the sums to the threads that update, in one of two sets.
  FUSED_RNN_DEVICE void multiply(int set, const Weights (&weights)[kRegisterTiles][kGates], const T* vector,
                                 int column_tile, const Role& role) const {
    if constexpr (kInterleaved) {
      if (parts == 1) multiply_parts<4>(set, weights, vector, column_tile, role);
      if (parts == 2) multiply_parts<2>(set, weights, vector, column_tile, role);
      if (parts == 4) multiply_parts<1>(set, weights, vector, column_tile, role);
      sharing > 1 ? sync_block() : sync_warp();
    } else {
      multiply_parts<Pass::kBackward ? 1 : kGates>(set, weights, vector, column_tile, role);
      sync_block();
    }
  }
  // The sums of value `value` of a tile in this lane, that of the unit `of_block` of the block.
  FUSED_RNN_DEVICE Results sums_of(int set, const float* bias, int first_warp, int value, int of_block) const {
    Results results;
    if constexpr (kInterleaved) {
      const Words4 of_unit = load_words(bias + bias_index(0, of_block));
      for (int r = 0; r < Pass::kResults; ++r) results[r] = bits_to_float(of_unit.words[r]);
      add_interleaved(results, meeting(set), first_warp, value);
    } else {
      for (int r = 0; r < Pass::kResults; ++r) results[r] = bias[bias_index(r, of_block)];
      add_partials(results, meeting(set), first_warp, value);
    }
    return results;
  }

 private:
  FUSED_RNN_DEVICE float* meeting(int set) const {
    return reinterpret_cast<float*>(dynamic_shared() + map.sums) + set * map.next_sums;
  }
  FUSED_RNN_DEVICE int bias_index(int gate, int of_block) const {
    return kInterleaved ? of_block * Pass::kResults + gate : (gate << units_log2) + of_block;
  }

  // A slot holds a lane's part of one tile for each gate; no other lane reads it.
  // Computed again wherever it is needed, but for exact float32, whose loop has no room for that.
  FUSED_RNN_DEVICE Words4* first_slot() const {
    const int warp = hidden_from_compiler(warp_index());
    return reinterpret_cast<Words4*>(dynamic_shared() + map.weights) + warp * warp_slots;
  }
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
  // The weights of a row of a lane's tiles, kLaneUnits for each gate: whose they are and where their tile begins.
  struct WeightRow {
    int gate, unit, first_hidden;
  };
  FUSED_RNN_DEVICE WeightRow weight_row(int row, int first_unit, int tile) const {
    const int i = row / Lanes::kLaneUnits, part = row % Lanes::kLaneUnits;
    if constexpr (kInterleaved) {
      const int units_of_part = i & ((1 << owned_log2) - 1),
                hidden_tile = tile + (i >> owned_log2) * shape.split_tiles();
      return {InterleavedTile::gate(part),
              first_unit + units_of_part * InterleavedTile::kUnits + InterleavedTile::unit(),
              hidden_tile * kTileHidden};
    }
    return {i, first_unit + Lanes::unit(part), tile * kTileHidden};
  }
  FUSED_RNN_DEVICE void fill_slot(Words4* slot, int direction, int first_unit, int tile, bool used) const {
#pragma unroll 1
    for (int row = 0; row < kGates * Lanes::kLaneUnits; ++row) {
      const WeightRow of = weight_row(row, first_unit, tile);
      Weights one{};
#pragma unroll
      for (int i = 0; i < Lanes::kHeld; ++i) {
        const int hidden = of.first_hidden + hidden_index<sizeof(T), Lanes::kHeld>(i);
        const bool inside = used && of.unit < shape.hidden_size && hidden < shape.hidden_size;
        // Always loads, so that the loads overlap; element 0 exists.
        const T loaded =
            Pass::weight(views, direction, of.gate, inside ? of.unit : 0, inside ? hidden : 0, shape.hidden_size);
        one.set(0, i, to_factor<T>(inside ? to_real(loaded) : 0.0f));
      }
      for (int c = 0; c < Weights::kPartChunks; ++c) {
        store_words(slot + (row * Weights::kPartChunks + c) * kWarpLanes + lane_index(), one.chunks[c]);
      }
    }
  }

  // kServed: rows of tiles that multiply the same part of the vector.
  template <int kServed>
  FUSED_RNN_DEVICE void multiply_parts(int set, const Weights (&weights)[kRegisterTiles][kGates], const T* vector,
                                       int column_tile, const Role& role) const {
    TileSum sums[Pass::kResults];
    product<kServed>(sums, weights, vector, column_tile, role);
    const int warp = warp_index(), lane = lane_index();
    float* const to = meeting(set);
    if constexpr (kInterleaved) {
#pragma unroll
      for (int r = kServed; r < Pass::kResults; ++r) sums[r % kServed].add(sums[r]);
#pragma unroll
      for (int r = 0; r < kServed; ++r) {
        store_shared(to + ((warp * kServed + r) * kWarpLanes + lane) * kValues, sums[r].words());
      }
    } else {
      for (int r = 0; r < Pass::kResults; ++r) {
        for (int v = 0; v < kValues; ++v) {
          to[((warp * Pass::kResults + r) * kValues + v) * kWarpLanes + lane] = sums[r].values[v];
        }
      }
    }
  }
  template <int kServed>
  FUSED_RNN_DEVICE void product(TileSum (&sums)[Pass::kResults], const Weights (&weights)[kRegisterTiles][kGates],
                                const T* vector, int column_tile, const Role& role) const {
    TileSum chains[Pass::kResults][kChains];
#pragma unroll
    for (int r = 0; r < Pass::kResults; ++r) {
#pragma unroll
      for (int c = 0; c < kChains; ++c) chains[r][c].clear();
    }
    const T* columns = vector + column_tile * kTileColumns * map.stride + role.first_tile * kTileHidden;
    const int rows =
        kExact ? role.end_row - hidden_from_compiler(role.first_row) - column_tile * kTileColumns : kTileColumns;
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
        add_tile<kServed>(
            chains, [&](int gate) { return weights[tile][gate]; }, columns + tile * kTileHidden, tile, rows);
      }
    }
#pragma unroll(kStraight && !Pass::kBackward ? 2 : 1)
    for (int tile = kRegisterTiles; tile < role.tiles; ++tile) {
      const Words4* const slot = slot_of(first_slot(), tile);
      add_tile<kServed>(
          chains, [&](int gate) { return read_slot(slot, gate); }, columns + tile * kTileHidden, kRegisterTiles, rows);
    }
#pragma unroll
    for (int r = 0; r < Pass::kResults; ++r) {
      if constexpr (kChains > 1) {
#pragma unroll
        for (int c = 1; c < kChains; ++c) chains[r][0].add(chains[r][c]);
      }
      chains[r][0].finish();
      sums[r] = chains[r][0];
    }
  }
  // Adds one tile's products, of which weights_of(gate) has the weights, for all columns; exact float32 may leave out
  // those from `rows` on.
  template <int kServed, class WeightsOf>
  FUSED_RNN_DEVICE void add_tile(TileSum (&chains)[Pass::kResults][kChains], const WeightsOf& weights_of,
                                 const T* columns, int tile, int rows) const {
    if constexpr (kExact) {
      Weights weights[kGates];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) weights[gate] = weights_of(gate);
      add_exact<Lanes>(chains, weights, columns, Pass::kVectors > 1 ? part_stride : 0, map.stride, rows);
    } else {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        chain_of(chains, gate, tile).add(weights_of(gate), columns + gate / kServed * part_stride, map.stride);
      }
    }
  }
  FUSED_RNN_DEVICE static TileSum& chain_of(TileSum (&chains)[Pass::kResults][kChains], int gate, int tile) {
    if constexpr (Pass::kBackward) {
      return chains[0][(tile * kGates + gate) % kChains];
    } else {
      return chains[gate][tile % kChains];
    }
  }

  // What the warps that share a tile have summed, in their order.
  FUSED_RNN_DEVICE void add_partials(Results& results, const float* meeting, int first_warp, int value) const {
    constexpr int kOfWarp = Pass::kResults * kValues * kWarpLanes;
    const float* from = meeting + first_warp * kOfWarp + value * kWarpLanes + lane_index();
#pragma unroll 1
    for (int w = 0; w < sharing; w += 4, from += 4 * kOfWarp) {
#pragma unroll
      for (int r = 0; r < Pass::kResults; ++r) {
        const float* of_result = from + r * kValues * kWarpLanes;
        float sum = of_result[0];
        if (sharing > 1) sum += of_result[kOfWarp];
        if (sharing > 2) sum += of_result[2 * kOfWarp] + of_result[3 * kOfWarp];
        results[r] += sum;
      }
    }
  }
  // Likewise of the one or two warps that have four units.
  FUSED_RNN_DEVICE void add_interleaved(Results& results, const float* meeting, int first_warp, int value) const {
    constexpr int kOfWarp = kValues * kWarpLanes;
    const float* const from = meeting + ((first_warp << owned_log2) + value) * kOfWarp;
#pragma unroll
    for (int r = 0; r < Pass::kResults; ++r) {
      const float* const of_gate = from + InterleavedTile::place(r);
      float sum = of_gate[0];
      if (sharing > 1) sum += of_gate[kOfWarp];
      results[r] += sum;
    }
  }
};

}  // namespace fused_rnn::cuda
