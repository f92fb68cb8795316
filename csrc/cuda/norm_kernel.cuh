// The persistent kernels with layer norms, of every schedule but small_block: within a step the units of a row meet at
// the sums over them (norm_sums.cuh), besides the exchange of the vector.
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
  using Base::shape, Base::views;
  using typename Base::Exchange, typename Base::Inputs, typename Base::Results, typename Base::T, typename Base::Thread;

  FUSED_RNN_DEVICE void operator()() const {
    Thread thread(*this);
    Base::fill_states(thread);
    thread.sums.begin();
    Exchange exchange = Base::begin(thread);

    const int steps = shape.time_steps;
    const auto is_there = [&](const Element& e) {
      if constexpr (Base::kExact) {  // the end of the rows in the shape's numbers: no register for it
        return thread.owns && e.row - thread.role.first_row < shape.rows && e.row < shape.batch &&
               e.unit < shape.hidden_size;
      } else {
        return thread.owns && Base::exists(thread.role, e);
      }
    };
    const Element own = Base::element(thread.role, 0);
    Inputs inputs{};
    if (is_there(own) && steps > 0) inputs = Base::load(own, Base::moment(own, 0));
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      Base::multiply(thread, exchange, hidden_from_compiler(step), 0);
      const Element e = Base::hidden(own);
      Results results{};
      if (thread.owns) results = Base::results_at(thread, 0, e);
      typename Base::Made made;
      made.vector = {};
      Base::update(thread, e, is_there(e), step, inputs, results, made);
      for (int v = 0; thread.owns && v < Pass::kVectors; ++v) {
        exchange.put(static_cast<unsigned>(step), e.row - thread.role.first_row, v, e.unit - thread.role.first_unit,
                     to_factor<T>(made.vector[v]));
      }
      if (Exchange::kStoresFirst && is_there(e)) Base::store(e, Base::moment(e, step), made);
      const bool goes_on = Pass::kBackward || step + 1 < steps;  // backward has one more GEMM
      if (goes_on) exchange.send(static_cast<unsigned>(step), Base::rows_of(thread.role));
      const Element stored = Base::hidden(e);
      if (is_there(stored)) {
        if (step + 1 < steps) inputs = Base::load(stored, Base::moment(stored, step + 1));
        if (!Exchange::kStoresFirst) Base::store(stored, Base::moment(stored, step), made);
      }
      if (goes_on) exchange.receive(static_cast<unsigned>(step), Base::rows_of(thread.role));
    }
    if (Pass::kBackward) Base::multiply(thread, exchange, steps, 0);
    const Element e = Base::hidden(own);
    if (!is_there(e)) return;
    const Results results = Pass::kBackward ? Base::results_at(thread, 0, e) : Results{};
    Pass::end(views, e, shape.hidden_size, Base::state_before(thread, 0), results);
    Base::end_norms(e);
  }
};

}  // namespace fused_rnn::cuda
