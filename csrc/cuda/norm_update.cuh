// The parts of a step of the persistent kernels with layer norms.
#pragma once

#include "cuda/norm_units.cuh"

namespace fused_rnn::cuda {

// Sums of the gates from h | cell, sums of c' | h'; without a norm of c the last two parts are one.
template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct NormForward : NormUnits<Pass, ExchangeOf> {
  using Base = NormUnits<Pass, ExchangeOf>;
  using typename Base::Cell, typename Base::Exchange, typename Base::Inputs, typename Base::Moments,
      typename Base::Results, typename Base::Sums, typename Base::T, typename Base::Thread, typename Base::Turn;
  using Value = typename Pass::Value;
  using OfGates = Pack<Moments, Cell::kNormGroups>;
  using Base::kGates, Base::kHasC, Base::shape, Base::views;

 protected:
  FUSED_RNN_DEVICE void begin_norms(const Thread& /*thread*/) const {}

  // What follows the GEMM.
  FUSED_RNN_DEVICE void take_product(const Thread& thread, const Turn& turn, const Results& results) const {
    for (int g = 0; g < kGates; ++g) Base::value_at(thread, turn, g) = results[g];
    Base::put_moments_of_gates(thread, 0, turn.place, results);
    if (!turn.place.exists || !has(views.saved)) return;
    const int time = Base::moment(turn).time;
    const bool active = row_step(views, time, turn.e.row) != RowStep::kInactive;
    T* const to = element_at<T, int>(views.saved, time, turn.e) + first_saved_sum<Cell>(views) * shape.hidden_size;
    for (int g = 0; g < kGates; ++g) to[g * shape.hidden_size] = from_real<T>(active ? results[g] : 0.0f);
  }

  FUSED_RNN_DEVICE void update(const Thread& thread, int step, Inputs& inputs, Exchange& exchange) const {
    thread.sums.meet_at_gates(static_cast<unsigned>(step), 0);
    if constexpr (kHasC) {
      Base::for_each_turn(thread, step, inputs, [&](const Turn& turn, const Inputs& in) { make_c(thread, turn, in); });
      thread.sums.meet_at_c(static_cast<unsigned>(step));
      Base::for_each_turn(thread, step, [&](const Turn& turn) {
        const Moments of_c = thread.sums.moments(Sums::kOfC, turn.place.column, 1);
        const Inputs in = turn.place.exists ? Base::load(turn) : Inputs{};
        finish(thread, turn, in, exchange, [&] { return made_of_c(thread, turn, of_c); });
      });
    } else {
      Base::for_each_turn(thread, step, inputs, [&](const Turn& turn, const Inputs& in) {
        const OfGates of_gates = Base::moments_of_gates(thread, 0, turn.place);
        finish(thread, turn, in, exchange, [&] { return call_of_gates(thread, turn, in, of_gates); });
      });
    }
  }

  FUSED_RNN_DEVICE void end(const Thread& thread, const Turn& turn, const Results& results) const {
    Pass::end(views, turn.e, shape.hidden_size, Base::state_before(thread, turn.number), results);
  }

 private:
  FUSED_RNN_DEVICE CellForward<Value, Cell> call_of_gates(const Thread& thread, const Turn& turn, const Inputs& in,
                                                          const OfGates& of_gates) const {
    const auto hat = [&](int g) { return of_gates[norm_group_of<Cell>(g)].hat(Base::value_at(thread, turn, g)); };
    return call_with_norms<Pass>(views, turn.e, in, hat, Base::state_before(thread, turn.number),
                                 Base::parameters(thread, turn));
  }
  // What the cell saves, and c' as the last value, take the place of the gates from h.
  FUSED_RNN_DEVICE void make_c(const Thread& thread, const Turn& turn, const Inputs& in) const {
    const OfGates of_gates = Base::moments_of_gates(thread, 0, turn.place);
    float c = 0.0f;
    if (turn.place.exists) {
      const CellForward<Value, Cell> made = call_of_gates(thread, turn, in, of_gates);
      for (int k = 0; k < Cell::kSaved; ++k) Base::value_at(thread, turn, k) = raw(made.saved[k]);
      c = raw(made.state[1]);
      Base::value_at(thread, turn, Base::kValues - 1) = c;
    }
    thread.sums.put_moments(Sums::kOfC, turn.place, 1, [&](const auto& add) { add(c); });
  }
  FUSED_RNN_DEVICE CellForward<Value, Cell> made_of_c(const Thread& thread, const Turn& turn,
                                                      const Moments& of_c) const {
    CellForward<Value, Cell> made;
    for (int k = 0; k < Cell::kSaved; ++k) made.saved[k] = Value(Base::value_at(thread, turn, k));
    const float c = Base::value_at(thread, turn, Base::kValues - 1);
    made.state[0] = Cell::output(made.saved, tanh_of_norm<Cell, Value>(Base::parameters(thread, turn), of_c.hat(c)));
    made.state[1] = Value(c);
    return made;
  }
  template <class Call>
  FUSED_RNN_DEVICE void finish(const Thread& thread, const Turn& turn, const Inputs& in, Exchange& exchange,
                               const Call& call) const {
    typename Pass::Made made;
    made.vector = {};
    if (turn.place.exists) {
      Base::store_state(thread, turn.number,
                        Pass::update_by(call, views, in, Base::state_before(thread, turn.number), made));
      Pass::store(views, turn.e, Base::moment(turn), shape.hidden_size, made);
      Base::prefetch_next(turn);
    }
    exchange.put(static_cast<unsigned>(turn.step), turn.place.column, 0, turn.e.unit - thread.role.first_unit,
                 to_factor<T>(made.vector[0]));
  }
};

// Sums of the gradient of c's norm | cell, sums of those of the gates' norms | d_from_h; without a norm of c the first
// part is left out. Hats come from what forward saved: the moments of the next step need no state, and meet together
// with the step's own sums.
template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct NormBackward : NormUnits<Pass, ExchangeOf> {
  using Base = NormUnits<Pass, ExchangeOf>;
  using typename Base::Cell, typename Base::Exchange, typename Base::Inputs, typename Base::Means,
      typename Base::Moments, typename Base::Real, typename Base::Results, typename Base::State, typename Base::Sums,
      typename Base::T, typename Base::Thread, typename Base::Turn;
  using Value = typename Pass::Value;
  using OfGates = Pack<Moments, Cell::kNormGroups>;
  using Base::kGates, Base::kGroups, Base::kHasC, Base::kRows, Base::shape, Base::views;

 protected:
  FUSED_RNN_DEVICE void begin_norms(const Thread& thread) const {
    if (shape.time_steps == 0) return;
    Base::for_each_turn(thread, 0, [&](const Turn& turn) { put_saved(thread, turn, load_saved(turn)); });
    thread.sums.meet_at_gates(0, 0);
  }

  FUSED_RNN_DEVICE void take_product(const Thread& thread, const Turn& turn, const Results& results) const {
    if (!turn.place.exists) return;
    const State state = Base::state_before(thread, turn.number);
    Base::store_state(thread, turn.number, Pass::with_product(views, Base::load(turn), results, state));
  }

  FUSED_RNN_DEVICE void update(const Thread& thread, int step, Inputs& inputs, Exchange& exchange) const {
    if constexpr (kHasC) {
      Base::for_each_turn(thread, step, inputs, [&](const Turn& turn, const Inputs& in) {
        const Moments of_c = thread.sums.moments(Sums::moments_slot(step % 2, Sums::kOfC), turn.place.column, 1);
        keep(thread, turn, kGroups, of_c);
        put_totals_of_c(thread, turn, in, of_c);
      });
      thread.sums.meet_at_c(static_cast<unsigned>(step));
      Base::for_each_turn(thread, step, [&](const Turn& turn) {
        if (Base::turns > 1) Base::load_ahead(thread, step, turn.number, inputs);  // once more; else it has them
        through_cell_to_sums(thread, turn, inputs);
      });
    } else {
      Base::for_each_turn(thread, step, inputs,
                          [&](const Turn& turn, const Inputs& in) { through_cell_to_sums(thread, turn, in); });
    }
    thread.sums.meet_at_gates(static_cast<unsigned>(step) + 1, (step + 1) % 2);
    Base::for_each_turn(thread, step, [&](const Turn& turn) {
      const Pack<Real, Pass::kVectors> vector = go_through_norms(thread, turn);
      for (int v = 0; v < Pass::kVectors; ++v) {
        exchange.put(static_cast<unsigned>(step), turn.place.column, v, turn.e.unit - thread.role.first_unit,
                     to_factor<T>(vector[v]));
      }
      Base::prefetch_next(turn);
    });
  }

  FUSED_RNN_DEVICE void end(const Thread& thread, const Turn& turn, const Results& results) const {
    Pass::end(views, turn.e, shape.hidden_size, Base::state_before(thread, turn.number), results);
    if (!has(views.d_norm)) return;
    T* const to = element_at<T, int64_t>(views.d_norm, 0, turn.e);
    for (int k = 0; k < kRows; ++k) {
      to[static_cast<int64_t>(k) * shape.hidden_size] = from_real<T>(Base::value_at(thread, turn, k));
    }
  }

 private:
  // Values: the sums over time of the norms' gradients; those of the gates after their norms; mean and scale of each
  // norm.
  static constexpr int kOfGates = kRows, kMoments = kRows + kGates;
  // What forward saved and a norm takes.
  struct Saved {
    Pack<Real, kGates> from_h;
    Real c;
  };

  FUSED_RNN_DEVICE void keep(const Thread& thread, const Turn& turn, int norm, const Moments& moments) const {
    Base::value_at(thread, turn, kMoments + 2 * norm) = moments.mean;
    Base::value_at(thread, turn, kMoments + 2 * norm + 1) = moments.scale;
  }
  FUSED_RNN_DEVICE Moments kept(const Thread& thread, const Turn& turn, int norm) const {
    return {Base::value_at(thread, turn, kMoments + 2 * norm), Base::value_at(thread, turn, kMoments + 2 * norm + 1)};
  }
  FUSED_RNN_DEVICE Pack<Real, kGates> saved_sums(const Turn& turn) const {
    const T* const from = element_at<T, int>(views.saved, Base::moment(turn).time, turn.e) +
                          first_saved_sum<Cell>(views) * shape.hidden_size;
    Pack<Real, kGates> sums;
    for (int g = 0; g < kGates; ++g) sums[g] = to_real(from[g * shape.hidden_size]);
    return sums;
  }
  FUSED_RNN_DEVICE Saved load_saved(const Turn& turn) const {
    Saved saved{};
    if (!turn.place.exists) return saved;
    saved.from_h = saved_sums(turn);
    if constexpr (kHasC) saved.c = to_real(Base::load(turn).after[1]);
    return saved;
  }
  FUSED_RNN_DEVICE void put_saved(const Thread& thread, const Turn& turn, const Saved& saved) const {
    const int set = turn.step % 2;
    Base::put_moments_of_gates(thread, set, turn.place, saved.from_h);
    if constexpr (kHasC) {
      const auto of_c = [&](const auto& add) { add(saved.c); };
      thread.sums.put_moments(Sums::moments_slot(set, Sums::kOfC), turn.place, 1, of_c);
    }
  }
  FUSED_RNN_DEVICE void add_to_norm(const Thread& thread, const Turn& turn, int norm, Real d, Real hat) const {
    Base::value_at(thread, turn, 2 * norm) += d * hat;
    Base::value_at(thread, turn, 2 * norm + 1) += d;
  }

  // What backward makes of a unit, and the gradients of its gates after their norms.
  struct ThroughCell {
    State before;
    typename Pass::Made made;
    Pack<Real, kGates> d_gates;
  };
  // The cell's part, with the moments of the next step.
  FUSED_RNN_DEVICE void through_cell_to_sums(const Thread& thread, const Turn& turn, const Inputs& in) const {
    const Turn next{turn.step + 1, turn.number, turn.e, turn.place};
    const bool has_next = next.step < shape.time_steps;
    Saved of_next{};
    if (has_next) of_next = load_saved(next);
    go_through_cell(thread, turn, in);
    if (has_next) put_saved(thread, next, of_next);
  }
  // call(norm of c, saved, before, d_after) is the backward of a cell with a norm of c.
  template <class Call>
  FUSED_RNN_DEVICE ThroughCell through_cell(const Call& call, const Thread& thread, const Turn& turn, const Inputs& in,
                                            const Moments& of_c) const {
    ThroughCell result;
    result.d_gates = {};
    const auto of_cell = [&](const auto& saved, const auto& before, const auto& after, const auto& d_after) {
      CellBackward<Value, Cell> gradient;
      if constexpr (kHasC) {
        using Norm = NormOfC<Cell, Value, Real>;
        gradient = call(Norm::of(saved, after, d_after, of_c, Base::parameters(thread, turn)), saved, before, d_after);
      } else {
        gradient = cell_backward<Cell, Value>(saved, before, after, d_after, {});
      }
      for (int g = 0; g < kGates; ++g) result.d_gates[g] = raw(gradient.d_from_h[g]);
      return gradient;
    };
    result.before = Pass::update_by(of_cell, views, turn.e, Base::moment(turn), shape.hidden_size, in,
                                    Base::state_before(thread, turn.number), result.made);
    return result;
  }
  FUSED_RNN_DEVICE void put_totals_of_c(const Thread& thread, const Turn& turn, const Inputs& in,
                                        const Moments& of_c) const {
    Means totals{};
    if (turn.place.exists) {
      const auto call = [&](const auto& norm_of_c, const auto&, const auto&, const auto&) {
        totals.add(norm_of_c.g, norm_of_c.hat);
        return CellBackward<Value, Cell>{};  // the next part goes on
      };
      through_cell(call, thread, turn, in, of_c);
    }
    thread.sums.put_totals(Sums::kOfC, turn.place, totals);
  }
  FUSED_RNN_DEVICE void go_through_cell(const Thread& thread, const Turn& turn, const Inputs& in) const {
    Moments of_c{};
    Means means_of_c{};
    if constexpr (kHasC) {
      of_c = kept(thread, turn, kGroups);
      means_of_c = thread.sums.means(Sums::kOfC, turn.place.column, 1);
    }
    const OfGates of_gates = Base::moments_of_gates(thread, turn.step % 2, turn.place);
    Pack<Means, kGroups> totals{};
    if (turn.place.exists) {
      Real d_of_c(0), hat_of_c(0);
      const auto call = [&](const auto& norm_of_c, const auto& saved, const auto& before, const auto& d_after) {
        d_of_c = norm_of_c.d;
        hat_of_c = norm_of_c.hat;
        return norm_of_c.call(saved, before, d_after, of_c, means_of_c);
      };
      const ThroughCell result = through_cell(call, thread, turn, in, of_c);
      Base::store_state(thread, turn.number, result.before);
      Pass::store(views, turn.e, Base::moment(turn), shape.hidden_size, result.made);
      if constexpr (kHasC) add_to_norm(thread, turn, kNormOfC<Cell>, d_of_c, hat_of_c);
      const Pack<Real, kGates> sums = saved_sums(turn);
      const auto parameter = Base::parameters(thread, turn);
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        const int group = norm_group_of<Cell>(g);
        Base::value_at(thread, turn, kOfGates + g) = result.d_gates[g];
        totals[group].add(result.d_gates[g] * parameter(2 * g), of_gates[group].hat(sums[g]));
      }
    }
    Base::for_each_group([&](int group, int) {
      thread.sums.put_totals(group, turn.place, totals[group]);
      keep(thread, turn, group, of_gates[group]);
    });
  }
  // From the gates to the vector.
  FUSED_RNN_DEVICE Pack<Real, Pass::kVectors> go_through_norms(const Thread& thread, const Turn& turn) const {
    Pack<Means, kGroups> means;
    OfGates of_gates;
    Base::for_each_group([&](int group, int gates) {
      means[group] = thread.sums.means(group, turn.place.column, gates);
      of_gates[group] = kept(thread, turn, group);
    });
    Pack<Real, Pass::kVectors> vector{};
    if (!turn.place.exists) return vector;
    const int time = Base::moment(turn).time;
    const Pack<Real, kGates> sums = saved_sums(turn);
    const auto parameter = Base::parameters(thread, turn);
    const bool handed_on = row_step(views, time, turn.e.row) != RowStep::kReset;  // else no step before made it
    T* const d_gates_h = element_at<T, int>(views.d_gates_h, time, turn.e);
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      const int group = norm_group_of<Cell>(g);
      const Real d = Base::value_at(thread, turn, kOfGates + g), hat = of_gates[group].hat(sums[g]);
      add_to_norm(thread, turn, g, d, hat);
      const Real d_sum = means[group].through(of_gates[group], d * parameter(2 * g), hat);
      d_gates_h[g * shape.hidden_size] = from_real<T>(d_sum);
      if (handed_on) vector[g] = d_sum;
    }
    return vector;
  }
};

}  // namespace fused_rnn::cuda
