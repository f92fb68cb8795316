// The steps of per_step with layer norms: a norm joins all units of a row, so a block has one row, and its threads meet
// at sums over its units.
//
// A step is short beside its launch and the library's GEMM. So what a sum over c needs of a unit is computed twice,
// in a loop that has one copy of the code.
#pragma once

#include "cuda/norm.cuh"

namespace fused_rnn::cuda {

// What a pass with norms keeps of a unit in the compute type besides its state.
template <class Pass>
constexpr int norm_states() {
  return Pass::kBackward ? kNormRows<typename Pass::Cell> + Pass::Cell::kGates : 1;
}

// What the steps of both passes have.
template <class Pass>
struct NormStep {
  using Cell = typename Pass::Cell;
  using T = typename Pass::T;
  using Real = RealOf<T>;
  using State = Pack<Real, Pass::kStates>;
  static constexpr int kThreads = 256;
  static constexpr int kRoomForBlocks = 1;  // else ptxas spills, to have two
  using Moments = NormMoments<Real>;

  typename Pass::Views views;
  int64_t time_steps, position, batch;
  int directions, heads, hidden_size;
  const T* product;  // [D, B, results * H], or null for zero
  Real* states;      // [states, D, B, H]; then the sums of the norms' gradients (backward), and one step's scratch
  T* vectors;        // [D, B, vectors * H], or null where a projection makes them
  bool first;        // states are still the initial ones

 protected:
  struct Lanes {
    Real values[kThreads];
  };

  FUSED_RNN_DEVICE Element element(int unit) const { return {block_x(), block_y(), unit}; }
  FUSED_RNN_DEVICE Moment<int64_t> now() const {
    return moment_at(position, direction_of(block_y(), heads), time_steps);
  }
  FUSED_RNN_DEVICE int64_t row() const { return static_cast<int64_t>(block_y()) * batch + block_x(); }
  FUSED_RNN_DEVICE Real& state_at(int s, int unit) const {
    return states[(static_cast<int64_t>(s) * directions * batch + row()) * hidden_size + unit];
  }
  // What a unit leaves for a sum over all.
  FUSED_RNN_DEVICE Real& scratch_at(int k, int unit) const {
    return state_at(Pass::kStates + (Pass::kBackward ? kNormRows<Cell> : 0) + k, unit);
  }
  FUSED_RNN_DEVICE State state_before(int unit) const {
    if (first)
      return Pass::first_state(views, element(unit), first_time(time_steps, direction_of(block_y(), heads)),
                               hidden_size);
    State state;
    for (int s = 0; s < Pass::kStates; ++s) state[s] = state_at(s, unit);
    return state;
  }
  FUSED_RNN_DEVICE Real from_product(int result, int unit) const {
    if (product == nullptr) return Real(0);
    return to_real(product[(row() * Pass::kResults + result) * hidden_size + unit]);
  }
  // The parameters of the norms of a unit.
  FUSED_RNN_DEVICE auto parameters(int unit) const {
    return [this, unit](int norm_row) {
      return to_real(*element_at<T, int64_t>(views.variant.norm, Element{norm_row, block_y(), unit}));
    };
  }
  FUSED_RNN_DEVICE Real gain(int norm, int unit) const { return parameters(unit)(2 * norm); }

  template <class Visitor>
  FUSED_RNN_DEVICE void for_each_unit(const Visitor& visit) const {
#pragma unroll 1
    for (int unit = thread_index(); unit < hidden_size; unit += kThreads) visit(unit);
  }

  // In one order.
  FUSED_RNN_DEVICE static Real sum_of_block(Real value) {
    Real* const values = static_shared<Lanes>().values;
    sync_block();  // the sum before was read
    values[thread_index()] = value;
#pragma unroll 1
    for (int half = kThreads / 2; half > 0; half /= 2) {
      sync_block();
      if (thread_index() < half) values[thread_index()] += values[thread_index() + half];
    }
    sync_block();
    return values[0];
  }
  // The mean of what visit(unit, add) adds for each unit, `terms` values in all.
  template <class Visitor>
  FUSED_RNN_DEVICE Real mean_of(int64_t terms, const Visitor& visit) const {
    Real sum(0);
    for_each_unit([&](int unit) { visit(unit, [&](Real value) { sum += value; }); });
    return sum_of_block(sum) / static_cast<Real>(terms);
  }
  template <class Visitor>
  FUSED_RNN_DEVICE Moments moments_of(int64_t terms, const Visitor& visit) const {
    const Real mean = mean_of(terms, visit);
    const Real variance = mean_of(terms, [&](int unit, const auto& add) {
      visit(unit, [&](Real value) { add((value - mean) * (value - mean)); });
    });
    return Moments::of(mean, variance);
  }
  // Of each norm of the gates; value(gate, unit) is what it takes.
  template <class ValueOf>
  FUSED_RNN_DEVICE Pack<Moments, Cell::kNormGroups> moments_of_gates(const ValueOf& value) const {
    Pack<Moments, Cell::kNormGroups> moments{};
#pragma unroll 1
    for (int group = 0; group < Cell::kNormGroups; ++group) {
      const Moments found = moments_of(terms_of(group), [&](int unit, const auto& add) {
        for (int g = 0; g < Cell::kGates; ++g) {
          if (norm_group_of<Cell>(g) == group) add(value(g, unit));
        }
      });
      put(moments, group, found);
    }
    return moments;
  }
  // all[group] = one, without an address that would put them all into memory.
  template <class Value>
  FUSED_RNN_DEVICE static void put(Pack<Value, Cell::kNormGroups>& all, int group, const Value& one) {
    for (int k = 0; k < Cell::kNormGroups; ++k) all[k] = k == group ? one : all[k];
  }
  FUSED_RNN_DEVICE int64_t terms_of(int group) const {
    return static_cast<int64_t>(gates_of_group<Cell>(group)) * hidden_size;
  }
  FUSED_RNN_DEVICE void store_state(int unit, const State& state) const {
    for (int s = 0; s < Pass::kStates; ++s) state_at(s, unit) = state[s];
  }
};

template <class Pass>
struct NormForwardStep : NormStep<Pass> {
  using Base = NormStep<Pass>;
  using typename Base::Cell, typename Base::T, typename Base::Real, typename Base::Moments, typename Base::State;
  using Value = ValueOf<T>;
  using Base::views, Base::hidden_size;

  FUSED_RNN_DEVICE void operator()() const {
    const Moment<int64_t> now = Base::now();
    const bool active = row_step(views, now.time, block_x()) != RowStep::kInactive;  // the same for all threads
    const auto sum = [&](int g, int unit) { return Base::from_product(g, unit); };
    Pack<Moments, Cell::kNormGroups> of_sums{};
    if (active) of_sums = Base::moments_of_gates(sum);
    Moments of_c{};
#pragma unroll 1
    for (int phase = kHasNormalizedC<Cell> && active ? 0 : 1; phase < 2; ++phase) {
      Base::for_each_unit([&](int unit) {
        const Element e = Base::element(unit);
        const typename Pass::Inputs in = Pass::load(views, e, now, hidden_size);
        const State state = Base::state_before(unit);
        const auto call = [&] {
          const auto hat = [&](int g) { return of_sums[norm_group_of<Cell>(g)].hat(sum(g, unit)); };
          CellForward<Value, Cell> result = call_with_norms<Pass>(views, e, in, hat, state, Base::parameters(unit));
          if constexpr (kHasNormalizedC<Cell>) {
            const Real c = raw(result.state[1]);
            if (phase == 0) Base::scratch_at(0, unit) = c;
            const Value tanh_c = tanh_of_norm<Cell, Value>(Base::parameters(unit), of_c.hat(c));
            result.state[0] = Cell::output(result.saved, tanh_c);
          }
          return result;
        };
        typename Pass::Made made;
        const State after = Pass::update_by(call, views, in, state, made);
        if (phase == 0) return;
        Base::store_state(unit, after);
        Pass::store(views, e, now, hidden_size, made);
        if (has(views.saved)) {
          T* const to = element_at<T, int64_t>(views.saved, now.time, e);
          for (int g = 0; g < Cell::kGates; ++g) {
            to[static_cast<int64_t>(first_saved_sum<Cell>(views) + g) * hidden_size] =
                from_real<T>(active ? sum(g, unit) : Real(0));
          }
        }
        if (Base::vectors != nullptr) Base::vectors[Base::row() * hidden_size + unit] = from_real<T>(made.vector[0]);
      });
      if (phase == 0) {
        of_c = Base::moments_of(hidden_size, [&](int unit, const auto& add) { add(Base::scratch_at(0, unit)); });
      }
    }
  }
};

template <class Pass>
struct NormBackwardStep : NormStep<Pass> {
  using Base = NormStep<Pass>;
  using typename Base::Cell, typename Base::T, typename Base::Real, typename Base::Moments, typename Base::State;
  using Value = ValueOf<T>;
  using Gradient = CellBackward<Value, Cell>;
  using Base::views, Base::hidden_size;

  FUSED_RNN_DEVICE void operator()() const {
    const Moment<int64_t> now = Base::now();
    const RowStep kind = row_step(views, now.time, block_x());
    const bool active = kind != RowStep::kInactive;  // the same for all threads
    through_cell(now, active);
    const auto sum = [&](int g, int unit) {
      const T* const saved = element_at<T, int64_t>(views.saved, now.time, Base::element(unit));
      return to_real(saved[static_cast<int64_t>(first_saved_sum<Cell>(views) + g) * hidden_size]);
    };
    Pack<Moments, Cell::kNormGroups> of_sums{};
    Pack<Means, Cell::kNormGroups> means{};
    if (active) {
      of_sums = Base::moments_of_gates(sum);
#pragma unroll 1
      for (int group = 0; group < Cell::kNormGroups; ++group) {
        Means totals{};
        Base::for_each_unit([&](int unit) {
          for (int g = 0; g < Cell::kGates; ++g) {
            if (norm_group_of<Cell>(g) != group) continue;
            totals.add(Base::scratch_at(g, unit) * Base::gain(g, unit),
                       of_sums[norm_group_of<Cell>(g)].hat(sum(g, unit)));
          }
        });
        Base::put(means, group, of_block(totals, Base::terms_of(group)));
      }
    }
    Base::for_each_unit([&](int unit) {
      T* const d_gates_h = element_at<T, int64_t>(views.d_gates_h, now.time, Base::element(unit));
      for (int g = 0; g < Cell::kGates; ++g) {
        const int group = norm_group_of<Cell>(g);
        const Real d = Base::scratch_at(g, unit), hat = of_sums[group].hat(active ? sum(g, unit) : Real(0));
        add_to_norm(g, unit, d, hat);
        const Real d_sum = means[group].through(of_sums[group], d * Base::gain(g, unit), hat);
        d_gates_h[static_cast<int64_t>(g) * hidden_size] = from_real<T>(d_sum);
        const bool handed_on = kind != RowStep::kReset;  // else the state before was no function of anything
        Base::vectors[(Base::row() * Cell::kGates + g) * hidden_size + unit] =
            from_real<T>(handed_on ? d_sum : Real(0));
      }
    });
  }

 private:
  using Means = NormMeans<Real>;
  FUSED_RNN_DEVICE static Means of_block(const Means& totals, int64_t terms) {
    const Real of_g = Base::sum_of_block(totals.of_g), of_product = Base::sum_of_block(totals.of_product);
    return {of_g / static_cast<Real>(terms), of_product / static_cast<Real>(terms)};
  }

  // Through the norm of c and the cell: the gradients of the gates after their norms go to the scratch.
  FUSED_RNN_DEVICE void through_cell(const Moment<int64_t>& now, bool active) const {
    Moments of_c{};
    Means means{}, totals{};
    if constexpr (kHasNormalizedC<Cell>) {
      if (active) {
        of_c = Base::moments_of(hidden_size, [&](int unit, const auto& add) {
          add(to_real(Pass::load(views, Base::element(unit), now, hidden_size).after[1]));
        });
      }
    }
#pragma unroll 1
    for (int phase = kHasNormalizedC<Cell> && active ? 0 : 1; phase < 2; ++phase) {
      Base::for_each_unit([&](int unit) {
        const Element e = Base::element(unit);
        Pack<Real, Cell::kGates> d_gates{};
        Real d_of_c(0), hat(0);
        const auto call = [&](const auto& saved, const auto& before, const auto& after, const auto& d_after) {
          Gradient gradient;
          if constexpr (kHasNormalizedC<Cell>) {
            const auto norm = NormOfC<Cell, Value, Real>::of(saved, after, d_after, of_c, Base::parameters(unit));
            if (phase == 0) totals.add(norm.g, norm.hat);
            d_of_c = norm.d;
            hat = norm.hat;
            gradient = norm.call(saved, before, d_after, of_c, means);
          } else {
            gradient = cell_backward<Cell, Value>(saved, before, after, d_after, {});
          }
          for (int g = 0; g < Cell::kGates; ++g) d_gates[g] = raw(gradient.d_from_h[g]);
          return gradient;
        };
        Pack<Real, Pass::kResults> from_h;
        from_h[0] = Base::from_product(0, unit);
        typename Pass::Made made;
        const typename Pass::Inputs in = Pass::load(views, e, now, hidden_size);
        const State after = Pass::with_product(views, in, from_h, Base::state_before(unit));
        const auto arrive = [&] { return Pass::arriving(views, e, now, hidden_size, in, after); };
        const State before = Pass::update_by(call, arrive, in, after, made);
        if (phase == 0) return;
        Base::store_state(unit, before);
        Pass::store(views, e, now, hidden_size, made);
        for (int g = 0; g < Cell::kGates; ++g) Base::scratch_at(g, unit) = d_gates[g];
        if constexpr (kHasNormalizedC<Cell>) add_to_norm(kNormOfC<Cell>, unit, d_of_c, hat);
      });
      if (phase == 0) means = of_block(totals, hidden_size);
    }
  }
  // To the gradients of a norm's gain and bias; the first step begins the sums.
  FUSED_RNN_DEVICE void add_to_norm(int norm, int unit, Real d, Real hat) const {
    Real& of_gain = Base::state_at(Pass::kStates + 2 * norm, unit);
    Real& of_bias = Base::state_at(Pass::kStates + 2 * norm + 1, unit);
    of_gain = (Base::first ? Real(0) : of_gain) + d * hat;
    of_bias = (Base::first ? Real(0) : of_bias) + d;
  }
};

}  // namespace fused_rnn::cuda
