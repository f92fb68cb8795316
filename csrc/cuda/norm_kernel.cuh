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
  using Base::shape, Base::turns;
  using typename Base::Exchange, typename Base::Inputs, typename Base::Results, typename Base::Thread,
      typename Base::Turn;

  FUSED_RNN_DEVICE void operator()() const {
    Thread thread(*this);
    Base::fill_states(thread);
    Base::fill_values(thread);
    thread.sums.begin();
    Exchange exchange = Base::begin(thread);
    Base::begin_norms(thread);

    // Calls visit(turn, results of the GEMM) for what the thread owns.
    const auto for_each_product = [&](int step, const auto& visit) {
#pragma unroll 1
      for (int number = 0; number < turns; ++number) {
        Base::multiply(thread, exchange, step, number);
        if (!thread.owns) continue;
        const Turn turn = Base::turn_of(thread, step, number);
        visit(turn, Base::results_at(thread, number, turn.e));
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
      exchange.send(static_cast<unsigned>(step), Base::rows_of(thread.role));
      exchange.receive(static_cast<unsigned>(step), Base::rows_of(thread.role));
    }
    if constexpr (!Pass::kBackward) {
      Base::for_each_turn(thread, 0, [&](const Turn& turn) {
        if (turn.place.exists) Base::end(thread, turn, {});
      });
    }
  }
};

}  // namespace fused_rnn::cuda
