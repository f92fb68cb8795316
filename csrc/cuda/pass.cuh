// What the two passes do with one unit of one row at one step, whatever the schedule: load, update, store.
//
// From one step to the next leads the update alone: what it reads besides the GEMM can be loaded long before, and
// what it made be stored after the next GEMM has what it needs.
//
// Both passes walk the sequence by steps in their own order. A step first multiplies the weights with a vector that
// the step before made, then updates every unit:
//
//             vector                   GEMM                 update
//   forward   h (1 value a unit)       W_hh h: R results    cell.forward, stores the states, what is saved
//   backward  d_from_h (R a unit)      W_hh^T d: 1 result   cell.backward, stores d_gates
//
// R are the gates that read h, all or the first of them; with none there is no GEMM, and a step needs its unit
// alone. State is what a unit keeps for itself between steps, in the compute type: h and the others, or their
// gradients. Backward's has also sums over time: the gradients of the unit's weights.
//
// Rows end and are reset by predicates (row_step of core/views.h). What a step gives to the next one, state and vector,
// is zero where forward's next step of the row is a reset. Forward clears after the step before, backward after it.
#pragma once

#include "cells/cell.h"
#include "cuda/features.cuh"
#include "cuda/moment.h"

namespace fused_rnn::cuda {

template <class T, int N>
FUSED_RNN_DEVICE auto to_values(const Pack<RealOf<T>, N>& reals) {
  Pack<ValueOf<T>, N> values;
  for (int i = 0; i < N; ++i) values[i] = ValueOf<T>(reals[i]);
  return values;
}

// States as a cell makes them that a pass with zoneout saves.
template <class Cell>
inline constexpr int kMadeStates = Cell::kStates - kFirstMade<Cell>;

// The pre-activations from h of all gates: zero of those that do not read it.
template <class Cell, class T, int kRecurrent>
FUSED_RNN_DEVICE auto to_gates(const Pack<RealOf<T>, kRecurrent>& from_h) {
  Pack<ValueOf<T>, Cell::kGates> gates{};
  for (int g = 0; g < kRecurrent; ++g) gates[g] = ValueOf<T>(from_h[g]);
  return gates;
}

// The numbers of a unit that enter its update.
template <class Cell, class T, class Index, class Views>
FUSED_RNN_DEVICE Pack<ValueOf<T>, Cell::kUnitWeights> unit_weights_of(const Views& views, const Element& e) {
  Pack<ValueOf<T>, Cell::kUnitWeights> weights{};
  for (int k = 0; k < Cell::kUnitWeights; ++k) {
    const Element kth{k, e.direction, e.unit};
    weights[k] = ValueOf<T>(to_real(*element_at<T, Index>(views.variant.unit_weights, kth)));
  }
  return weights;
}

template <class CellType, class ElementType, class Index, Features kFeatures>
struct ForwardPass {
  using Cell = CellType;
  using T = ElementType;
  using Real = RealOf<T>;
  using Value = ValueOf<T>;
  using Views = ForwardViews;
  static constexpr bool kBackward = false;
  static constexpr int kResults = recurrent_gates<Cell>(), kVectors = 1, kStates = Cell::kStates;

  struct Inputs {
    T gates[Cell::kGates];
    RowStep kind : 8;
    bool reset_after : 8;  // the step after is a reset
    VariantInputs<T, kStates, kFeatures> variant;
  };
  struct Made {
    Pack<T, kStates> states;
    Pack<T, Cell::kSaved> saved;
    Pack<T, kMadeStates<Cell>> unmixed;  // before zoneout
    Pack<Real, kVectors> vector;         // what the next GEMM takes of the unit
  };

  // The weight between a unit and an index of the vector.
  FUSED_RNN_DEVICE static T weight(const Views& views, int direction, int gate, int unit, int hidden, int size) {
    return weight_at<T>(views.w_hh, direction, static_cast<int64_t>(gate) * size + unit, hidden);
  }
  FUSED_RNN_DEVICE static Real bias(const Views& views, int direction, int gate, int unit, int size) {
    if (!has(views.b_hh)) return Real(0);
    return to_real(weight_at<T>(views.b_hh, direction, static_cast<int64_t>(gate) * size + unit, 0));
  }
  FUSED_RNN_DEVICE static Real first_hidden(const Views& views, const Element& e, int64_t first_time) {
    if (!has(views.h_0) || is_reset_first(views, e, first_time)) return Real(0);
    return to_real(*element_at<T, Index>(views.h_0, e));
  }
  FUSED_RNN_DEVICE static Real first_vector(const Views& views, const Element& e, int64_t first_time) {
    return masked<T, Index>(views, e, first_hidden(views, e, first_time));
  }
  FUSED_RNN_DEVICE static Pack<Real, kStates> first_state(const Views& views, const Element& e, int64_t first_time,
                                                          int size) {
    Pack<Real, kStates> state{};
    if (is_reset_first(views, e, first_time)) return state;
    state[0] = first_hidden(views, e, first_time);
    for (int s = 1; s < kStates; ++s) {
      state[s] = has(views.c_0) ? to_real(element_at<T, Index>(views.c_0, e)[static_cast<Index>(s - 1) * size]) : 0;
    }
    return state;
  }
  FUSED_RNN_HD static Index position(Index step, Index /*time_steps*/) { return step; }

  FUSED_RNN_DEVICE static Inputs load(const Views& views, const Element& e, const Moment<Index>& now, int size) {
    Inputs in;
    const T* gates = element_at<T, Index>(views.gates, now.time, e);
    for (int g = 0; g < Cell::kGates; ++g) in.gates[g] = gates[static_cast<Index>(g) * size];
    in.kind = step_of<kFeatures>(views, now.time, e.row);
    in.reset_after = !now.is_last && is_reset<kFeatures>(views, now.time_after, e.row);
    in.variant.load(views, e, now.time, size);
    return in;
  }
  FUSED_RNN_DEVICE static void prefetch_inputs(const Views& views, const Element& e, const Moment<Index>& now,
                                               int size) {
    const T* gates = element_at<T, Index>(views.gates, now.time, e);
    for (int g = 0; g < Cell::kGates; ++g) prefetch(gates + static_cast<Index>(g) * size);
  }

  // What the cell makes of a unit.
  FUSED_RNN_DEVICE static CellForward<Value, Cell> call_cell(const Views& views, const Element& e, const Inputs& in,
                                                             const Pack<Real, kResults>& from_h,
                                                             const Pack<Real, kStates>& state) {
    Pack<Value, Cell::kGates> from_x;
    for (int g = 0; g < Cell::kGates; ++g) from_x[g] = Value(to_real(in.gates[g]));
    return cell_forward<Cell, Value>(from_x, to_gates<Cell, T>(from_h), to_values<T>(state),
                                     unit_weights_of<Cell, T, Index>(views, e));
  }
  // The state after the step, and what else it makes of the unit; call() is what the cell makes.
  template <class Call>
  FUSED_RNN_DEVICE static Pack<Real, kStates> update_by(const Call& call, const Views& views, const Inputs& in,
                                                        const Pack<Real, kStates>& state, Made& made) {
    Pack<Real, kStates> after = state;
    made = {};
    if (kind_of<kFeatures>(in) != RowStep::kInactive) {
      const CellForward<Value, Cell> result = call();
      Pack<Real, kStates> next;
      for (int s = 0; s < kStates; ++s) next[s] = raw(result.state[s]);
      if constexpr (kFeatures == Features::kAll) {
        if (has(views.variant.zoneout)) {
          for (int k = 0; k < kMadeStates<Cell>; ++k) made.unmixed[k] = from_real<T>(next[kFirstMade<Cell> + k]);
          for (int s = 0; s < kStates; ++s) {
            const Real stays = to_real(in.variant.stays[s]);
            next[s] = next[s] * (Real(1) - stays) + state[s] * stays;
          }
        }
      }
      // h goes on as it is stored.
      for (int s = 0; s < kStates; ++s) made.states[s] = from_real<T>(next[s]);
      after = next;
      after[0] = to_real(made.states[0]);
      for (int k = 0; k < Cell::kSaved; ++k) made.saved[k] = from_real<T>(raw(result.saved[k]));
    }
    if (kFeatures == Features::kAll && in.reset_after) after = {};
    made.vector[0] = in.variant.masked(views, after[0]);
    return after;
  }
  FUSED_RNN_DEVICE static Pack<Real, kStates> update(const Views& views, const Element& e, const Moment<Index>& /*now*/,
                                                     int /*size*/, const Inputs& in, const Pack<Real, kResults>& from_h,
                                                     const Pack<Real, kStates>& state, Made& made) {
    return update_by([&] { return call_cell(views, e, in, from_h, state); }, views, in, state, made);
  }
  FUSED_RNN_DEVICE static void store(const Views& views, const Element& e, const Moment<Index>& now, int size,
                                     const Made& made) {
    *element_at<T, Index>(views.output, now.time, e) = made.states[0];
    if (kStates > 1 && has(views.cells)) {
      T* to = element_at<T, Index>(views.cells, now.time, e);
      for (int s = 1; s < kStates; ++s) to[static_cast<Index>(s - 1) * size] = made.states[s];
    }
    if (has(views.saved)) {
      T* to = element_at<T, Index>(views.saved, now.time, e);
      for (int k = 0; k < Cell::kSaved; ++k) to[static_cast<Index>(k) * size] = made.saved[k];
      if (kFeatures == Features::kAll && has(views.variant.zoneout)) {
        for (int k = 0; k < kMadeStates<Cell>; ++k) to[static_cast<Index>(Cell::kSaved + k) * size] = made.unmixed[k];
      }
    }
  }

  FUSED_RNN_DEVICE static void end(const Views& views, const Element& e, int size, const Pack<Real, kStates>& state,
                                   const Pack<Real, kResults>& /*from_h*/) {
    if (has(views.h_n)) *element_at<T, Index>(views.h_n, e) = from_real<T>(state[0]);
    if constexpr (kStates > 1) {
      T* to = element_at<T, Index>(views.c_n, e);
      for (int s = 1; s < kStates; ++s) to[static_cast<Index>(s - 1) * size] = from_real<T>(state[s]);
    }
  }

 private:
  FUSED_RNN_DEVICE static bool is_reset_first(const Views& views, const Element& e, int64_t first_time) {
    return first_time >= 0 && is_reset<kFeatures>(views, first_time, e.row);
  }
};

template <class CellType, class ElementType, class Index, Features kFeatures>
struct BackwardPass {
  using Cell = CellType;
  using T = ElementType;
  using Real = RealOf<T>;
  using Value = ValueOf<T>;
  using Views = BackwardViews;
  static constexpr bool kBackward = true;
  static constexpr int kVectors = recurrent_gates<Cell>(), kResults = kVectors > 0 ? 1 : 0;
  static constexpr int kStates = Cell::kStates + Cell::kUnitWeights;

  struct Inputs {
    T d_output;
    Pack<T, Cell::kSaved> saved;
    Pack<T, Cell::kStates> before, after;  // after: as the cell made it
    RowStep kind;
    VariantInputs<T, Cell::kStates, kFeatures> variant;
  };
  struct Made {
    T d_from_x[Cell::kGates], d_from_h[Cell::kGates];
    Pack<Real, kVectors> vector;
  };

  FUSED_RNN_DEVICE static T weight(const Views& views, int direction, int gate, int unit, int hidden, int size) {
    return weight_at<T>(views.w_hh, direction, static_cast<int64_t>(gate) * size + hidden, unit);
  }
  FUSED_RNN_DEVICE static Real bias(const Views&, int, int, int, int) { return Real(0); }
  FUSED_RNN_DEVICE static Real first_vector(const Views&, const Element&, int64_t) { return Real(0); }
  FUSED_RNN_DEVICE static Pack<Real, kStates> first_state(const Views& views, const Element& e, int64_t, int size) {
    Pack<Real, kStates> state{};
    state[0] = given(views.d_h_n, e, 0);
    for (int s = 1; s < Cell::kStates; ++s) state[s] = given(views.d_c_n, e, static_cast<Index>(s - 1) * size);
    return state;
  }
  FUSED_RNN_HD static Index position(Index step, Index time_steps) { return time_steps - 1 - step; }

  FUSED_RNN_DEVICE static Inputs load(const Views& views, const Element& e, const Moment<Index>& now, int size) {
    Inputs in{};
    in.kind = step_of<kFeatures>(views, now.time, e.row);
    const bool reset = in.kind == RowStep::kReset;
    const bool first =
        kFeatures == Features::kNone ? now.position == 0 : begins(views, now.position, now.time_before, e.row);
    if (has(views.d_output)) in.d_output = *element_at<T, Index>(views.d_output, now.time, e);
    if constexpr (Cell::kReadsHidden) {
      in.after[0] = *element_at<T, Index>(views.output, now.time, e);
      if (!reset) in.before[0] = stored(first, views.output, views.h_0, e, now, 0);
    }
    for (int s = 1; s < Cell::kStates; ++s) {
      const Index offset = static_cast<Index>(s - 1) * size;
      in.after[s] = element_at<T, Index>(views.cells, now.time, e)[offset];
      if (!reset) in.before[s] = stored(first, views.cells, views.c_0, e, now, offset);
    }
    if constexpr (Cell::kSaved > 0) {
      const T* saved = element_at<T, Index>(views.saved, now.time, e);
      for (int k = 0; k < Cell::kSaved; ++k) in.saved[k] = saved[static_cast<Index>(k) * size];
    }
    in.variant.load(views, e, now.time, size);
    if constexpr (kFeatures == Features::kAll) {
      if (has(views.variant.zoneout)) {
        const T* unmixed = element_at<T, Index>(views.saved, now.time, e) + static_cast<Index>(Cell::kSaved) * size;
        for (int k = 0; k < kMadeStates<Cell>; ++k)
          in.after[kFirstMade<Cell> + k] = unmixed[static_cast<Index>(k) * size];
      }
    }
    return in;
  }
  FUSED_RNN_DEVICE static void prefetch_inputs(const Views& views, const Element& e, const Moment<Index>& now,
                                               int size) {
    if (has(views.d_output)) prefetch(element_at<T, Index>(views.d_output, now.time, e));
    if constexpr (Cell::kReadsHidden) {
      prefetch(element_at<T, Index>(views.output, now.time_before, e));
    }
    for (int s = 1; s < Cell::kStates; ++s) {
      prefetch(element_at<T, Index>(views.cells, now.time_before, e) + static_cast<Index>(s - 1) * size);
    }
    const T* saved = element_at<T, Index>(views.saved, now.time, e);
    for (int k = 0; k < Cell::kSaved; ++k) prefetch(saved + static_cast<Index>(k) * size);
  }

  // The gradient of the state after a step with that of h through the GEMM.
  FUSED_RNN_DEVICE static Pack<Real, kStates> with_product(const Views& views, const Inputs& in,
                                                           const Pack<Real, kResults>& from_h,
                                                           Pack<Real, kStates> state) {
    if constexpr (kResults > 0) state[0] += in.variant.masked(views, from_h[0]);
    return state;
  }
  template <int N>
  FUSED_RNN_DEVICE static Pack<Value, N> values_of(const Pack<T, N>& stored) {
    Pack<Value, N> values{};
    for (int i = 0; i < N; ++i) values[i] = Value(to_real(stored[i]));
    return values;
  }
  // The gradients of the states after the step, and what of them goes past the cell.
  struct Arriving {
    Pack<Real, Cell::kStates> d_after, d_past;
  };
  // Of a row that is active; `state` has the result of the GEMM.
  FUSED_RNN_DEVICE static Arriving arriving(const Views& views, const Element& e, const Moment<Index>& now, int size,
                                            const Inputs& in, const Pack<Real, kStates>& state) {
    Pack<Real, Cell::kStates> d_after, d_past{};
    d_after[0] = to_real(in.d_output) + state[0];
    for (int s = 1; s < Cell::kStates; ++s) d_after[s] = state[s];
    // Seldom given, so no register waits for them.
    if (Cell::kStates > 1 && has(views.d_cells)) {
      const T* from = element_at<T, Index>(views.d_cells, now.time, e);
      for (int s = 1; s < Cell::kStates; ++s) d_after[s] += to_real(from[static_cast<Index>(s - 1) * size]);
    }
    if constexpr (kFeatures == Features::kAll) {
      if (has(views.variant.zoneout)) {
        for (int s = 0; s < Cell::kStates; ++s) {
          const Real stays = to_real(in.variant.stays[s]);
          d_past[s] = d_after[s] * stays;
          d_after[s] *= Real(1) - stays;
        }
      }
    }
    return {d_after, d_past};
  }
  // The gradient of the state before the step, and what else it makes; call(saved, before, after, d_after) is the
  // cell's backward, and arrive() what arrives at it.
  template <class Call, class Arrive>
  FUSED_RNN_DEVICE static Pack<Real, kStates> update_by(const Call& call, const Arrive& arrive, const Inputs& in,
                                                        const Pack<Real, kStates>& state, Made& made) {
    Pack<Real, kStates> d_before = state;
    Pack<Real, Cell::kGates> d_from_x{}, d_from_h{};
    if (kind_of<kFeatures>(in) != RowStep::kInactive) {
      const Arriving arrived = arrive();
      const CellBackward<Value, Cell> gradient =
          call(values_of(in.saved), values_of(in.before), values_of(in.after), to_values<T>(arrived.d_after));
      for (int g = 0; g < Cell::kGates; ++g) {
        d_from_x[g] = raw(gradient.d_from_x[g]);
        d_from_h[g] = raw(gradient.d_from_h[g]);
      }
      for (int s = 0; s < Cell::kStates; ++s) {
        d_before[s] = raw(gradient.d_state[s]);
        if constexpr (kFeatures == Features::kAll) d_before[s] += arrived.d_past[s];
      }
      for (int k = 0; k < Cell::kUnitWeights; ++k) d_before[Cell::kStates + k] += raw(gradient.d_unit_weights[k]);
    }
    for (int g = 0; g < Cell::kGates; ++g) {
      made.d_from_x[g] = from_real<T>(d_from_x[g]);
      made.d_from_h[g] = from_real<T>(d_from_h[g]);
    }
    if (kind_of<kFeatures>(in) == RowStep::kReset) {
      made.vector = {};
      Pack<Real, kStates> sums{};
      for (int k = Cell::kStates; k < kStates; ++k) sums[k] = d_before[k];
      return sums;
    }
    for (int v = 0; v < kVectors; ++v) made.vector[v] = d_from_h[v];
    return d_before;
  }
  FUSED_RNN_DEVICE static Pack<Real, kStates> update(const Views& views, const Element& e, const Moment<Index>& now,
                                                     int size, const Inputs& in, const Pack<Real, kResults>& from_h,
                                                     const Pack<Real, kStates>& state, Made& made) {
    const auto call = [&](const auto& saved, const auto& before, const auto& after, const auto& d_after) {
      return cell_backward<Cell, Value>(saved, before, after, d_after, unit_weights_of<Cell, T, Index>(views, e));
    };
    const Pack<Real, kStates> with = with_product(views, in, from_h, state);
    return update_by(call, [&] { return arriving(views, e, now, size, in, with); }, in, with, made);
  }
  FUSED_RNN_DEVICE static void store(const Views& views, const Element& e, const Moment<Index>& now, int size,
                                     const Made& made) {
    T* d_gates = element_at<T, Index>(views.d_gates, now.time, e);
    for (int g = 0; g < Cell::kGates; ++g) d_gates[static_cast<Index>(g) * size] = made.d_from_x[g];
    if constexpr (Cell::kSplit) {
      T* d_gates_h = element_at<T, Index>(views.d_gates_h, now.time, e);
      for (int g = 0; g < kVectors; ++g) d_gates_h[static_cast<Index>(g) * size] = made.d_from_h[g];
    }
  }

  FUSED_RNN_DEVICE static void end(const Views& views, const Element& e, int size, const Pack<Real, kStates>& state,
                                   const Pack<Real, kResults>& from_h) {
    Real d_h_0 = state[0];
    if constexpr (kResults > 0) d_h_0 += masked<T, Index>(views, e, from_h[0]);
    if (has(views.d_h_0)) *element_at<T, Index>(views.d_h_0, e) = from_real<T>(d_h_0);
    if constexpr (Cell::kStates > 1) {
      T* to = element_at<T, Index>(views.d_c_0, e);
      for (int s = 1; s < Cell::kStates; ++s) to[static_cast<Index>(s - 1) * size] = from_real<T>(state[s]);
    }
    if constexpr (Cell::kUnitWeights > 0) {
      T* to = element_at<T, Index>(views.d_unit_weights, Index(0), e);
      for (int k = 0; k < Cell::kUnitWeights; ++k) {
        to[static_cast<Index>(k) * size] = from_real<T>(state[Cell::kStates + k]);
      }
    }
  }

 private:
  // `offset`: of the state that is looked for.
  FUSED_RNN_DEVICE static Real given(const StateView<const void>& view, const Element& e, Index offset) {
    return has(view) ? to_real(element_at<T, Index>(view, e)[offset]) : Real(0);
  }
  // A state before the step; first: the row begins there.
  FUSED_RNN_DEVICE static T stored(bool first, const SequenceView<const void>& states,
                                   const StateView<const void>& initial, const Element& e, const Moment<Index>& now,
                                   Index offset) {
    if (!first) return element_at<T, Index>(states, now.time_before, e)[offset];
    return has(initial) ? element_at<T, Index>(initial, e)[offset] : T{};
  }
};

}  // namespace fused_rnn::cuda
