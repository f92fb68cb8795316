// A step of a persistent kernel with layer norms, in both passes: parts, between which the units of a row meet.
//
// A thread has one unit of one row or none. What a later part needs of them stays in registers.
#pragma once

#include "cuda/norm_moments.cuh"
#include "cuda/norm_sums.cuh"
#include "cuda/persistent.cuh"

namespace fused_rnn::cuda {

// Backward's inputs are also what forward's norms took and found.
template <class Pass>
struct NormInputs : Pass::Inputs {
  using Cell = typename Pass::Cell;
  static constexpr int kOfGates = Pass::kBackward ? Cell::kNormGroups : 0;
  static constexpr int kOfC = Pass::kBackward && kHasNormalizedC<Cell> ? 1 : 0;
  Pack<NormMoments<float>, kOfC> of_c;
  Pack<NormMoments<float>, kOfGates> of_gates;
  Pack<typename Pass::T, Pass::kBackward ? Cell::kGates : 0> from_h;
};

template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct NormThreads : PersistentKernel<Pass, ExchangeOf> {
  using Base = PersistentKernel<Pass, ExchangeOf>;
  using typename Base::Exchange, typename Base::T;
  using Cell = typename Pass::Cell;
  using Sums = NormSums<Pass, Exchange>;
  using Place = typename Sums::Place;
  using Base::shape, Base::map, Base::views;
  static constexpr int kGates = Cell::kGates, kGroups = Cell::kNormGroups, kNormed = kNormRows<Cell> / 2;

  NormMap norm;
  typename Sums::Numbers numbers;
  typename Sums::Global met_in;
  const NormMoments<float>* moments;  // of backward: [T, D, B, norms]
  int directions;                     // D, which counts heads

  void set_shape(const PersistentShape& s) {
    Base::set_shape(s);
    norm = norm_map(s, map.total, Sums::kNorms, kNormed, Pass::kBackward);
    numbers = Sums::Numbers::of(s);
  }

 protected:
  struct Thread : Base::Thread {
    Sums sums;

    FUSED_RNN_DEVICE explicit Thread(const NormThreads& kernel)
        : Base::Thread(kernel), sums(kernel.norm, kernel.numbers, kernel.met_in) {
      kernel.fill_parameters(this->role.direction, this->role.first_unit);
      for (int k = 0; Pass::kBackward && k < kNormed; ++k) kernel.gradient_of(k) = {};
    }
  };
  // Of the thread's unit, computed again where they are needed.
  FUSED_RNN_DEVICE Place place_of(const Thread& thread, const Element& e) const {
    return {e.unit - thread.role.first_unit, (e.row - thread.role.first_row) & 1};
  }
  FUSED_RNN_DEVICE NormPair* parameters() const {
    return reinterpret_cast<NormPair*>(dynamic_shared() + norm.parameters);
  }
  FUSED_RNN_DEVICE NormPair& gradient_of(int norm_row) const {
    return reinterpret_cast<NormPair*>(dynamic_shared() + norm.gradients)[norm_row * Base::kThreads + thread_index()];
  }

  FUSED_RNN_DEVICE void fill_parameters(int direction, int first_unit) const {
    for (int i = thread_index(); i < kNormed * shape.units(); i += Base::kThreads) {
      const int norm = i >> shape.units_log2(), unit = first_unit + (i & (shape.units() - 1));
      const auto at = [&](int row) {
        if (unit >= shape.hidden_size) return 0.0f;
        return to_real(*element_at<T, int64_t>(views.variant.norm, Element{row, direction, unit}));
      };
      parameters()[i] = {at(2 * norm), at(2 * norm + 1)};
    }
  }
  // The norms' parameters of the unit, as norm.cuh counts them.
  FUSED_RNN_DEVICE auto parameters_of(const Place& place) const {
    return [of_unit = parameters() + place.unit, log2 = Base::layout.units_log2](int row) {
      const NormPair& pair = of_unit[row / 2 << log2];
      return row % 2 == 0 ? pair.first : pair.second;
    };
  }
  // visit(group, gates) for each norm of gates.
  template <class Visitor>
  FUSED_RNN_DEVICE static void for_each_group(const Visitor& visit) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) visit(group, gates_of_group<Cell>(group));
  }
};

// Sums of the gates from h | cell, sums of c' | h'; without a norm of c the last two parts are one.
template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct NormForward : NormThreads<Pass, ExchangeOf> {
  using Base = NormThreads<Pass, ExchangeOf>;
  using typename Base::Cell, typename Base::Results, typename Base::State, typename Base::Place, typename Base::Sums,
      typename Base::T, typename Base::Thread;
  using Inputs = NormInputs<Pass>;
  using Made = typename Pass::Made;
  using Value = typename Pass::Value;
  using Base::kGates, Base::kGroups, Base::shape, Base::views;

 protected:
  // By all threads; `exists` where the thread has a unit of a row.
  FUSED_RNN_DEVICE void update(const Thread& thread, const Element& e, bool exists, int step, const Inputs& in,
                               const Results& from_h, Made& made) const {
    const Place place = Base::place_of(thread, e);
    if (thread.owns)
      Base::for_each_group([&](int group, int gates) { put_gates(thread, place, group, gates, from_h); });
    thread.sums.send_gates();
    if (exists && has(views.saved)) save(e, step, in, from_h);
    thread.sums.receive_gates(static_cast<unsigned>(step));
    Pack<NormMoments<float>, kGroups> of_gates{};
    if (thread.owns) {
      Base::for_each_group([&](int group, int gates) { of_gates[group] = thread.sums.total(group, place.set, gates); });
    }
    State state = Base::state_before(thread, 0);
    CellForward<Value, Cell> result{};
    if (exists) {
      const auto hat = [&](int g) { return of_gates[norm_group_of<Cell>(g)].hat(from_h[g]); };
      result = call_with_norms<Pass>(views, e, in, hat, state, Base::parameters_of(place));
    }
    if constexpr (kHasNormalizedC<Cell>) {
      if (thread.owns) thread.sums.put(Sums::kOfC, place, {raw(result.state[1]), 0.0f});
      thread.sums.send_c();
      thread.sums.receive_c(static_cast<unsigned>(step));
      if (!thread.owns) return;
      const float hat = thread.sums.total(Sums::kOfC, place.set, 1).hat(raw(result.state[1]));
      result.state[0] = Cell::output(result.saved, tanh_of_norm<Cell, Value>(Base::parameters_of(place), hat));
    }
    if (!exists) return;
    state = Pass::update_by([&] { return result; }, views, in, state, made);
    Base::store_state(thread, 0, state);
  }
  FUSED_RNN_DEVICE void store(const Element& e, const Moment<int>& now, const Made& made) const {
    Pass::store(views, e, now, shape.hidden_size, made);
  }
  FUSED_RNN_DEVICE Inputs load(const Element& e, const Moment<int>& now) const {
    return {Pass::load(views, e, now, shape.hidden_size), {}, {}, {}};
  }
  FUSED_RNN_DEVICE void end_norms(const Element& /*e*/) const {}

 private:
  FUSED_RNN_DEVICE static void put_gates(const Thread& thread, const Place& place, int group, int gates,
                                         const Results& from_h) {
    float sum = 0.0f, squares = 0.0f;
    const auto each = [&](const auto& visit) {
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        if (norm_group_of<Cell>(g) == group) visit(from_h[g]);
      }
    };
    each([&](float value) { sum += value; });
    const float mean = sum * (1.0f / static_cast<float>(gates));
    if (gates > 1) each([&](float value) { squares += (value - mean) * (value - mean); });
    thread.sums.put(group, place, {mean, squares});
  }
  FUSED_RNN_DEVICE void save(const Element& e, int step, const Inputs& in, const Results& from_h) const {
    const int time = Base::moment(e, step).time;
    T* const to = element_at<T, int>(views.saved, time, e) + first_saved_sum<Cell>(views) * shape.hidden_size;
    const bool active = in.kind != RowStep::kInactive;
    for (int g = 0; g < kGates; ++g) to[g * shape.hidden_size] = from_real<T>(active ? from_h[g] : 0.0f);
  }
};

// Sums of the gradient of c's norm | cell, sums of those of the gates' norms | d_from_h; without a norm of c the first
// part is left out. Hats come from what forward saved and from the moments that are made of it before.
template <class Pass, template <class T, int kVectors> class ExchangeOf>
struct NormBackward : NormThreads<Pass, ExchangeOf> {
  using Base = NormThreads<Pass, ExchangeOf>;
  using typename Base::Cell, typename Base::Results, typename Base::State, typename Base::Place, typename Base::Sums,
      typename Base::T, typename Base::Thread;
  using Inputs = NormInputs<Pass>;
  using Made = typename Pass::Made;
  using Value = typename Pass::Value;
  using OfC = NormOfC<Cell, Value, float>;
  using Base::kGates, Base::kGroups, Base::kNormed, Base::shape, Base::views;

 protected:
  FUSED_RNN_DEVICE void update(const Thread& thread, const Element& e, bool exists, int step, Inputs& in,
                               const Results& product, Made& made) const {
    const Place place = Base::place_of(thread, e);
    const bool active = exists && in.kind != RowStep::kInactive;
    State state{};
    if (exists) state = Pass::with_product(views, in, product, Base::state_before(thread, 0));
    typename Pass::Arriving arriving{};
    if (active) arriving = Pass::arriving(views, e, Base::moment(e, step), shape.hidden_size, in, state);
    if (kHasNormalizedC<Cell> && exists) load_of_gates(in, e, Base::moment(e, step));
    OfC of_c{};
    NormMeans<float> means_of_c{};
    if constexpr (kHasNormalizedC<Cell>) {
      if (active) of_c = norm_of_c(place, in, arriving);
      if (thread.owns) thread.sums.put(Sums::kOfC, place, {of_c.g, of_c.g * of_c.hat});
      thread.sums.send_c();
      if (active) add_to(kNormOfC<Cell>, of_c.d, of_c.hat);
      thread.sums.receive_c(static_cast<unsigned>(step));
      if (thread.owns) means_of_c = thread.sums.total(Sums::kOfC, place.set, 1);
    }
    Pack<float, kGates> d_gates{}, hats{};
    if (exists) {
      const auto call = [&](const auto& saved, const auto& before, const auto& after, const auto& d_after) {
        const CellBackward<Value, Cell> gradient = [&] {
          if constexpr (kHasNormalizedC<Cell>) {
            return of_c.call(saved, before, d_after, in.of_c[0], means_of_c);
          } else {
            return cell_backward<Cell, Value>(saved, before, after, d_after, {});
          }
        }();
        for (int g = 0; g < kGates; ++g) d_gates[g] = raw(gradient.d_from_h[g]);
        return gradient;
      };
      Base::store_state(thread, 0, Pass::update_by(call, [&] { return arriving; }, in, state, made));
      for (int g = 0; g < kGates; ++g) hats[g] = in.of_gates[norm_group_of<Cell>(g)].hat(to_real(in.from_h[g]));
    }
    // Its place is found again: no register is left for it.
    go_through_norms(thread, Base::place_of(thread, Base::hidden(e)), step, in, d_gates, hats, made);
  }
  FUSED_RNN_DEVICE void store(const Element& e, const Moment<int>& now, const Made& made) const {
    Pass::store(views, e, now, shape.hidden_size, made);
    if constexpr (!Cell::kSplit) {
      T* const to = element_at<T, int>(views.d_gates_h, now.time, e);
      for (int g = 0; g < kGates; ++g) to[g * shape.hidden_size] = made.d_from_h[g];
    }
  }
  FUSED_RNN_DEVICE Inputs load(const Element& e, const Moment<int>& now) const {
    Inputs in{Pass::load(views, e, now, shape.hidden_size), {}, {}, {}};
    if constexpr (kHasNormalizedC<Cell>) {
      in.of_c[0] = moments_at(e, now)[Sums::kOfC];
    } else {
      load_of_gates(in, e, now);
    }
    return in;
  }
  FUSED_RNN_DEVICE void end_norms(const Element& e) const {
    if (!has(views.d_norm)) return;
    T* const to = element_at<T, int64_t>(views.d_norm, 0, e);
    for (int k = 0; k < kNormed; ++k) {
      const NormPair sum = Base::gradient_of(k);
      to[static_cast<int64_t>(2 * k) * shape.hidden_size] = from_real<T>(sum.first);
      to[static_cast<int64_t>(2 * k + 1) * shape.hidden_size] = from_real<T>(sum.second);
    }
  }

 private:
  FUSED_RNN_DEVICE const NormMoments<float>* moments_at(const Element& e, const Moment<int>& now) const {
    return Base::moments + norm_moments_at(now.time, shape.batch, Base::directions, e) * Sums::kNorms;
  }
  // With a norm of c there is time for it within the step, and no register waits for it while the GEMM runs.
  FUSED_RNN_DEVICE void load_of_gates(Inputs& in, const Element& e, const Moment<int>& now) const {
    const T* const from =
        element_at<T, int>(views.saved, now.time, e) + first_saved_sum<Cell>(views) * shape.hidden_size;
    for (int g = 0; g < kGates; ++g) in.from_h[g] = from[g * shape.hidden_size];
    const NormMoments<float>* const found = moments_at(e, now);
    for (int k = 0; k < kGroups; ++k) in.of_gates[k] = found[k];
  }
  FUSED_RNN_DEVICE OfC norm_of_c(const Place& place, const Inputs& in, const typename Pass::Arriving& arriving) const {
    return OfC::of(Pass::values_of(in.saved), Pass::values_of(in.after), to_values<T>(arriving.d_after), in.of_c[0],
                   Base::parameters_of(place));
  }
  FUSED_RNN_DEVICE void add_to(int norm, float d, float hat) const {
    NormPair& sum = Base::gradient_of(norm);
    sum = {sum.first + d * hat, sum.second + d};
  }
  // From the gates to the vector, by all threads.
  FUSED_RNN_DEVICE void go_through_norms(const Thread& thread, const Place& place, int step, const Inputs& in,
                                         const Pack<float, kGates>& d_gates, const Pack<float, kGates>& hats,
                                         Made& made) const {
    Pack<float, kGates> g_of{};
    Pack<NormMeans<float>, kGroups> means{};
    for (int g = 0; g < kGates; ++g) {
      g_of[g] = d_gates[g] * Base::parameters_of(place)(2 * g);
      means[norm_group_of<Cell>(g)].add(g_of[g], hats[g]);
    }
    if (thread.owns) {
      Base::for_each_group(
          [&](int group, int) { thread.sums.put(group, place, {means[group].of_g, means[group].of_product}); });
    }
    thread.sums.send_gates();
    if (thread.owns) {
      for (int g = 0; g < kGates; ++g) add_to(g, d_gates[g], hats[g]);
    }
    thread.sums.receive_gates(static_cast<unsigned>(step));
    if (!thread.owns) return;
    Base::for_each_group([&](int group, int gates) { means[group] = thread.sums.total(group, place.set, gates); });
    const bool handed_on = in.kind != RowStep::kReset;  // else no step before made it
    for (int g = 0; g < kGates; ++g) {
      const int group = norm_group_of<Cell>(g);
      const float d = means[group].through(in.of_gates[group], g_of[g], hats[g]);
      made.d_from_h[g] = from_real<T>(d);
      made.vector[g] = handed_on ? d : 0.0f;
    }
  }
};

}  // namespace fused_rnn::cuda
