// What the threads of a persistent kernel with layer norms have, in both passes (norm_update.cuh, norm_kernel.cuh).
//
// A step has parts, between which the units of a row meet. In a part a thread goes through its units and rows, a turn
// for each; what a later part needs of a turn is a value in shared memory.
#pragma once

#include "cuda/norm_sums.cuh"
#include "cuda/persistent.cuh"

namespace fused_rnn::cuda {

template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct NormUnits : PersistentKernel<Pass, ExchangeOf> {
  using Base = PersistentKernel<Pass, ExchangeOf>;
  using typename Base::Exchange, typename Base::Results, typename Base::State, typename Base::T;
  using Cell = typename Pass::Cell;
  using Real = typename Pass::Real;
  using Inputs = typename Pass::Inputs;
  using Moments = NormMoments<Real>;
  using Means = NormMeans<Real>;
  using Sums = NormSums<Pass, Exchange::kNeedsClusters>;
  using Place = typename Sums::Place;
  using Base::shape, Base::map, Base::turns, Base::views;
  static constexpr CellSpec kSpec = spec_of<Cell>(0);
  static constexpr int kGates = Cell::kGates, kGroups = Cell::kNormGroups, kRows = kNormRows<Cell>;
  static constexpr int kValues = norm_values(kSpec, Pass::kBackward);
  static constexpr bool kHasC = kHasNormalizedC<Cell>;

  NormMap norm;
  typename Sums::Numbers numbers;

  void set_shape(const PersistentShape& s) {
    Base::set_shape(s);
    map = shared_map(s, sizeof(T), Pass::kVectors, Pass::kResults, Pass::kStates + kValues, Exchange::kBuffers,
                     Exchange::kStages);
    norm = norm_map(s, map.total, norm_slots(kSpec, Pass::kBackward), kRows);
    numbers = Sums::Numbers::of(s, norm);
  }

 protected:
  // Its states are [states, then values][turn][thread].
  struct Thread : Base::Thread {
    float* parameters;  // [rows][units of the block]
    Sums sums;

    FUSED_RNN_DEVICE explicit Thread(const NormUnits& kernel)
        : Base::Thread(kernel),
          parameters(reinterpret_cast<float*>(dynamic_shared() + kernel.norm.parameters)),
          sums(dynamic_shared(), kernel.norm, kernel.numbers) {
      kernel.fill_parameters(*this);
    }
  };
  // One unit of one row at a step.
  struct Turn {
    int step, number;
    Element e;
    Place place;
  };

  FUSED_RNN_DEVICE Turn turn_of(const Thread& thread, int step, int number) const {
    const Element e = Base::element(thread.role, number);
    return {step, number, e, {e.unit / kOctet, e.row - thread.role.first_row, Base::exists(thread.role, e)}};
  }
  template <class Visitor>
  FUSED_RNN_DEVICE void for_each_turn(const Thread& thread, int step, const Visitor& visit) const {
    if (!thread.owns) return;
#pragma unroll 1
    for (int number = 0; number < turns; ++number) visit(turn_of(thread, step, number));
  }
  // Likewise, where `inputs` are those of the first turn, loaded long before; in a turn those of the next are loaded.
  template <class Visitor>
  FUSED_RNN_DEVICE void for_each_turn(const Thread& thread, int step, Inputs& inputs, const Visitor& visit) const {
    for_each_turn(thread, step, [&](const Turn& turn) {
      visit(turn, inputs);
      if (turn.number + 1 < turns) load_ahead(thread, step, turn.number + 1, inputs);
    });
  }
  FUSED_RNN_DEVICE void load_ahead(const Thread& thread, int step, int number, Inputs& inputs) const {
    const Turn turn = turn_of(thread, step, number);
    if (turn.place.exists) inputs = load(turn);
  }
  FUSED_RNN_DEVICE Moment<int> moment(const Turn& turn) const {
    const int steps = shape.time_steps;
    return moment_at(Pass::position(turn.step, steps), Base::direction_of(turn.e), steps);
  }
  FUSED_RNN_DEVICE Inputs load(const Turn& turn) const {
    return Pass::load(views, turn.e, moment(turn), shape.hidden_size);
  }
  // What the turn reads in the step after.
  FUSED_RNN_DEVICE void prefetch_next(const Turn& turn) const {
    if (!turn.place.exists || turn.step + 1 >= shape.time_steps) return;
    Pass::prefetch_inputs(views, turn.e, moment({turn.step + 1, turn.number, turn.e, turn.place}), shape.hidden_size);
  }

  FUSED_RNN_DEVICE float& value_at(const Thread& thread, const Turn& turn, int k) const {
    return Base::state_at(thread, turn.number, Pass::kStates + k);
  }
  FUSED_RNN_DEVICE void fill_values(const Thread& thread) const {
    for_each_turn(thread, 0, [&](const Turn& turn) {
      for (int k = 0; k < kValues; ++k) value_at(thread, turn, k) = 0.0f;
    });
  }
  FUSED_RNN_DEVICE void fill_parameters(const Thread& thread) const {
    for (int i = thread_index(); i < kRows * shape.units(); i += Base::kThreads) {
      const int row = i >> shape.units_log2(), unit = thread.role.first_unit + (i & (shape.units() - 1));
      const bool inside = unit < shape.hidden_size;
      const Element e{row, thread.role.direction, inside ? unit : 0};
      thread.parameters[i] = inside ? to_real(*element_at<T, int64_t>(views.variant.norm, e)) : 0.0f;
    }
  }
  // The norms' parameters of a unit.
  FUSED_RNN_DEVICE auto parameters(const Thread& thread, const Turn& turn) const {
    const float* const of_unit = thread.parameters + turn.e.unit - thread.role.first_unit;
    return [of_unit, log2 = Base::layout.units_log2](int row) { return of_unit[row << log2]; };
  }

  // visit(group, gates) for each norm of gates.
  template <class Visitor>
  FUSED_RNN_DEVICE static void for_each_group(const Visitor& visit) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) visit(group, gates_of_group<Cell>(group));
  }
  // The moments of each norm of gates, of which there are these values.
  FUSED_RNN_DEVICE static void put_moments_of_gates(const Thread& thread, int set, const Place& place,
                                                    const Pack<Real, kGates>& values) {
    for_each_group([&](int group, int gates) {
      thread.sums.put_moments(Sums::moments_slot(set, group), place, gates, [&](const auto& add) {
#pragma unroll
        for (int g = 0; g < kGates; ++g) {
          if (norm_group_of<Cell>(g) == group) add(values[g]);
        }
      });
    });
  }
  FUSED_RNN_DEVICE static Pack<Moments, kGroups> moments_of_gates(const Thread& thread, int set, const Place& place) {
    Pack<Moments, kGroups> moments;
    for_each_group([&](int group, int gates) {
      moments[group] = thread.sums.moments(Sums::moments_slot(set, group), place.column, gates);
    });
    return moments;
  }
};

}  // namespace fused_rnn::cuda
