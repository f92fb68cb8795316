// The persistent kernels with layer norms, of the schedules one_block and cluster: within a step the units of a row
// meet at the sums over them (norm_sums.cuh), besides the exchange of the vector.
//
//   GEMM | update in parts (norm_update.cuh), between which the units meet | exchange
#pragma once

#include <type_traits>

#include "cuda/norm_update.cuh"

namespace fused_rnn::cuda {

template <class Pass, template <class T, int kVectors> class ExchangeOf>
using NormUpdate = std::conditional_t<Pass::kBackward, NormBackward<Pass, ExchangeOf>, NormForward<Pass, ExchangeOf>>;

template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct NormKernel : NormUpdate<Pass, ExchangeOf> {
  using Base = NormUpdate<Pass, ExchangeOf>;
  using Base::kPartialValues, Base::kRegisterTiles, Base::layout, Base::map, Base::shape, Base::turns;
  using typename Base::Exchange, typename Base::Inputs, typename Base::Results, typename Base::Role, typename Base::T,
      typename Base::Thread, typename Base::Turn, typename Base::Weights;

  // The GEMM and the exchange are PersistentKernel's.
  FUSED_RNN_DEVICE void operator()() const {
    const int warp = warp_index();
    const int split = warp % shape.splits, unit_tile = warp / shape.splits;
    unsigned char* const shared = dynamic_shared();
    const Role role = Base::role_of(split, unit_tile);
    const Thread thread = Base::thread_of(role);

    Weights weights[kRegisterTiles][Base::kGates];
    Words4* const slots = reinterpret_cast<Words4*>(shared + map.weights) + static_cast<size_t>(warp) *
                                                                                shape.weight_slots() * Base::kGates *
                                                                                Weights::kChunks * kWarpLanes;
    Base::load_weights(weights, slots, role, role.first_unit + unit_tile * Base::Lanes::kUnits);
    float* const bias = reinterpret_cast<float*>(shared + map.bias);
    Base::fill_bias(bias, role);
    Base::fill_parameters(thread);
    Base::fill_states(thread);
    Base::fill_first_vector(reinterpret_cast<T*>(shared + map.vectors), role);
    Exchange exchange(shared + map.vectors, shared + map.stage, shared + map.barriers, Base::global, layout,
                      role.first_unit, block_y());
    thread.sums.begin();
    exchange.begin(Base::rows_of(role));
    Base::begin(thread);

    int set = 0;
    // Calls visit(turn, results of the GEMM) for what the thread owns.
    const auto for_each_product = [&](int step, const auto& visit) {
#pragma unroll 1
      for (int number = 0; number < turns; ++number) {
        if (Base::value_of(role, number) == role.first_value) {
          float sums[kPartialValues];
          const T* const vector = exchange.vector(static_cast<unsigned>(step));
          Base::product(sums, weights, slots, vector, map.stride, number >> Base::owned_log2, role);
          set ^= 1;
          for (int v = 0; v < kPartialValues; ++v)
            partials(set)[(warp * kPartialValues + v) * kWarpLanes + lane_index()] = sums[v];
          sync_block();
        }
        if (!thread.owns) continue;
        const Turn turn = Base::turn_of(thread, step, number);
        Results results;
        for (int r = 0; r < Pass::kResults; ++r) {
          results[r] = bias[(r << layout.units_log2) + turn.e.unit - role.first_unit];
        }
        Base::add_partials(results, partials(set), warp - split, Base::value_of(role, number));
        visit(turn, results);
      }
    };
    const int steps = shape.time_steps;
    // Backward has one more GEMM.
#pragma unroll 1
    for (int step = 0; step < (Pass::kBackward ? steps + 1 : steps); ++step) {
      Inputs inputs{};
      if (thread.owns && step < steps) Base::load_ahead(thread, step, 0, inputs);
      for_each_product(step, [&](const Turn& turn, const Results& results) {
        if (!Pass::kBackward || step < steps) {
          Base::take_product(thread, turn, results);
        } else if (turn.place.exists) {
          Base::end(thread, turn, results);
        }
      });
      if (step == steps) break;
      Base::update(thread, step, inputs, exchange);
      if (!Pass::kBackward && step + 1 == steps) break;
      exchange.send(static_cast<unsigned>(step), Base::rows_of(role));
      exchange.receive(static_cast<unsigned>(step), Base::rows_of(role));
    }
    if constexpr (!Pass::kBackward) {
      Base::for_each_turn(thread, 0, [&](const Turn& turn) {
        if (turn.place.exists) Base::end(thread, turn, {});
      });
    }
  }

 private:
  FUSED_RNN_DEVICE float* partials(int set) const {
    return reinterpret_cast<float*>(dynamic_shared() + map.sums) + set * map.next_sums;
  }
};

}  // namespace fused_rnn::cuda
