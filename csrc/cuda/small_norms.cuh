// Layer norms in small_block, whose lanes own one unit of one row: what the parts of an update hand on stays in
// registers (norm.cuh has the formulas).
//
//   forward    sums of the gates from h | cell, sums of c' | h'
//   backward   sums of the gradient of c's norm | cell, sums of those of the gates' norms | d_from_h
//
// At each | the units of a row meet: those of a warp sum by shuffles, then every lane adds up what all warps left in
// shared memory. Backward takes the moments from what forward saved; those of the next step meet with the step's own
// sums of gradients.
#pragma once

#include "cuda/norm.cuh"
#include "cuda/small_shape.h"

namespace fused_rnn::cuda {

// A unit of a row at a step, and whether the lane has one there.
struct SmallTurn {
  Element e;
  Moment<int> now;
  bool exists;
};

// The sums over the units of a row, where the block meets. A part is what the units of one warp have of it.
//
// A warp sums the deviations from the value of its first unit, a pivot; deviations of the parts' means are added where
// parts meet:
//   sum of (v - mean)^2 = sum over parts of (squares + n (mean_of_part - mean)^2)
template <class Pass, class Gemm>
class SmallNormSums {
 public:
  using Moments = NormMoments<float>;
  using Means = NormMeans<float>;
  static constexpr int kGroups = Pass::Cell::kNormGroups, kOfC = kGroups,
                       kNorms = norms(spec_of<typename Pass::Cell>(0));

  FUSED_RNN_DEVICE SmallNormSums(unsigned char* shared, int size)
      : parts_(reinterpret_cast<Words4*>(shared)),
        totals_(reinterpret_cast<Means*>(shared + SmallNormMap::of(kNorms, Gemm::kMostUnits, Pass::kBackward).totals)) {
    const int units = size - warp_index() * kWarpUnits;
    units_ = static_cast<float>(units < kWarpUnits ? units : kWarpUnits);
    each_ = 1.0f / units_;
    each_of_all_ = 1.0f / static_cast<float>(size);
  }
  // Parts of warps that the block has not count as none.
  FUSED_RNN_DEVICE void clear() const {
    const auto bytes = static_cast<int>(SmallNormMap::of(kNorms, Gemm::kMostUnits, Pass::kBackward).total);
    for (int i = thread_index(); i < bytes / 16; i += thread_count()) store_words(parts_ + i, {});
  }

  // By whole warps: `each(add)` adds what the lane's unit has, `gates` values; `one` is any of them.
  template <class Each>
  FUSED_RNN_DEVICE void put_moments(int norm, bool exists, int gates, float one, const Each& each) const {
    const float pivot = bits_to_float(shuffle(float_to_bits(one), lane_index() % kUnitLanes));
    float sum = 0.0f, squares = 0.0f;
    const auto add = [&](float value) {
      const float off = value - pivot;
      sum += off;
      squares += off * off;
    };
    if (exists) each(add);
    sum = over_units(sum);
    squares = over_units(squares);
    if (!puts()) return;
    const float off = sum * (each_ * (1.0f / static_cast<float>(gates)));
    const float count = units_ * static_cast<float>(gates);
    store_words(parts_ + (norm * kParts + warp_index()) * kColumns + Gemm::row(),
                {{float_to_bits(pivot + off), float_to_bits(squares - sum * off), float_to_bits(count), 0}});
  }
  FUSED_RNN_DEVICE void put_totals(int norm, const Means& totals) const {
    const float of_g = over_units(totals.of_g), of_product = over_units(totals.of_product);
    if (puts()) *total(norm, warp_index()) = {of_g, of_product};
  }

  FUSED_RNN_DEVICE Moments moments(int norm, int gates) const {
    const Words4* const first = parts_ + (norm * kParts + share()) * kColumns + Gemm::row();
    Words4 parts[kAtOnce];
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      parts[i] = load_words(first + i * kShares * kColumns);
      sum += bits_to_float(parts[i].words[2]) * bits_to_float(parts[i].words[0]);
    }
    const float each = each_of_all_ * (1.0f / static_cast<float>(gates));
    const float mean = over_shares(sum) * each;
#pragma unroll
    for (const Words4& part : parts) {
      const float off = bits_to_float(part.words[0]) - mean;
      squares += bits_to_float(part.words[1]) + bits_to_float(part.words[2]) * off * off;
    }
    return Moments::of(mean, over_shares(squares) * each);
  }
  FUSED_RNN_DEVICE Means means(int norm, int gates) const {
    Means sums{};
#pragma unroll
    for (int i = 0; i < kAtOnce; i += 2) {  // two parts lie together
      const Words4 two = load_words(total(norm, i * kShares + 2 * share()));
      sums.of_g += bits_to_float(two.words[0]) + bits_to_float(two.words[2]);
      sums.of_product += bits_to_float(two.words[1]) + bits_to_float(two.words[3]);
    }
    const float each = each_of_all_ * (1.0f / static_cast<float>(gates));
    return {over_shares(sums.of_g) * each, over_shares(sums.of_product) * each};
  }

 private:
  static constexpr int kColumns = kTileRows, kWarpUnits = kWarpLanes / kUnitLanes;
  static constexpr int kParts = Gemm::kMostUnits / kWarpUnits;
  // Lanes of neighbouring units share the parts where these are many.
  static constexpr int kAtOnce = 8, kShares = kParts / kAtOnce;
  static_assert(kShares == 1 || kShares == 2);

  Words4* parts_;                     // [norm][part][row]: mean, squares, count
  Means* totals_;                     // [norm][part / 2][row][part % 2]
  float units_, each_, each_of_all_;  // units of the warp; one over them, and over all

  FUSED_RNN_DEVICE static bool puts() { return lane_index() < kUnitLanes && Gemm::stores(); }
  FUSED_RNN_DEVICE static int share() { return lane_index() / kUnitLanes % kShares; }
  FUSED_RNN_DEVICE Means* total(int norm, int part) const {
    return totals_ + ((norm * (kParts / 2) + part / 2) * kColumns + Gemm::row()) * 2 + part % 2;
  }
  template <int kEnd = kWarpLanes>
  FUSED_RNN_DEVICE static float over_units(float value) {
#pragma unroll
    for (int mask = kUnitLanes; mask < kEnd; mask *= 2) {
      value += bits_to_float(shuffle_xor(float_to_bits(value), mask));
    }
    return value;
  }
  FUSED_RNN_DEVICE static float over_shares(float value) { return over_units<kUnitLanes * kShares>(value); }
};

// What both passes have: the lane's unit and row, its norms' parameters.
template <class Pass, class Gemm>
struct SmallNormUpdate {
  using Cell = typename Pass::Cell;
  using T = typename Pass::T;
  using Value = typename Pass::Value;
  using State = Pack<float, Pass::kStates>;
  using Results = Pack<float, Pass::kResults>;
  using Sums = SmallNormSums<Pass, Gemm>;
  using Moments = typename Sums::Moments;
  using Means = typename Sums::Means;
  using OfGates = Pack<Moments, Cell::kNormGroups>;
  static constexpr int kGates = Cell::kGates, kRows = kNormRows<Cell>;
  static constexpr bool kHasC = kHasNormalizedC<Cell>, kBias = false;  // the norms have it

  const typename Pass::Views& views;
  int size;
  Sums sums;
  Pack<float, kRows> parameters;

  FUSED_RNN_DEVICE SmallNormUpdate(const typename Pass::Views& v, unsigned char* shared, int direction, int hidden_size)
      : views(v), size(hidden_size), sums(shared, hidden_size), parameters{} {
    sums.clear();
    for (int k = 0; k < kRows && Gemm::unit() < size; ++k) {
      parameters[k] = to_real(*element_at<T, int64_t>(views.variant.norm, Element{k, direction, Gemm::unit()}));
    }
  }

 protected:
  FUSED_RNN_DEVICE auto parameter() const {
    return [this](int k) { return parameters[k]; };
  }
  // visit(group, gates) for each norm of gates.
  template <class Visitor>
  FUSED_RNN_DEVICE static void for_each_group(const Visitor& visit) {
#pragma unroll
    for (int group = 0; group < Cell::kNormGroups; ++group) visit(group, gates_of_group<Cell>(group));
  }
  template <class Gates>
  FUSED_RNN_DEVICE void put_moments_of_gates(bool exists, const Gates& gate) const {
    for_each_group([&](int group, int gates) {
      float one = 0.0f;
      const auto each = [&](const auto& visit) {
#pragma unroll
        for (int g = 0; g < kGates; ++g) {
          if (norm_group_of<Cell>(g) == group) visit(gate(g));
        }
      };
      each([&](float value) { one = value; });
      sums.put_moments(group, exists, gates, one, each);
    });
  }
  FUSED_RNN_DEVICE void put_moments_of_c(bool exists, float c) const {
    sums.put_moments(Sums::kOfC, exists, 1, c, [&](const auto& add) { add(c); });
  }
  FUSED_RNN_DEVICE OfGates moments_of_gates() const {
    OfGates moments;
    for_each_group([&](int group, int gates) { moments[group] = sums.moments(group, gates); });
    return moments;
  }
};

template <class Pass, class Gemm>
struct SmallNormForward : SmallNormUpdate<Pass, Gemm> {
  using Base = SmallNormUpdate<Pass, Gemm>;
  using typename Base::Cell, typename Base::Moments, typename Base::OfGates, typename Base::Results,
      typename Base::State, typename Base::Sums, typename Base::T, typename Base::Value;
  using Inputs = typename Pass::Inputs;
  using Base::Base, Base::kGates, Base::kHasC, Base::size, Base::sums, Base::views;

  FUSED_RNN_DEVICE Inputs load(const SmallTurn& turn) const { return Pass::load(views, turn.e, turn.now, size); }
  FUSED_RNN_DEVICE void prepare(bool /*exists*/, const Inputs& /*first*/) const {}
  FUSED_RNN_DEVICE void begin() const {}

  FUSED_RNN_DEVICE void operator()(const SmallTurn& turn, const Inputs& in, const Inputs& /*next*/,
                                   const Results& from_h, State& state, typename Pass::Made& made) const {
    Base::put_moments_of_gates(turn.exists, [&](int g) { return from_h[g]; });
    if (turn.exists && Gemm::stores() && has(views.saved)) {
      T* const to = element_at<T, int>(views.saved, turn.now.time, turn.e) + first_saved_sum<Cell>(views) * size;
      for (int g = 0; g < kGates; ++g) to[g * size] = from_real<T>(in.kind != RowStep::kInactive ? from_h[g] : 0.0f);
    }
    sync_block();
    const OfGates of_gates = Base::moments_of_gates();
    CellForward<Value, Cell> result{};
    if (turn.exists) {
      const auto hat = [&](int g) { return of_gates[norm_group_of<Cell>(g)].hat(from_h[g]); };
      result = call_with_norms<Pass>(views, turn.e, in, hat, state, Base::parameter());
    }
    if constexpr (kHasC) {
      const float c = raw(result.state[1]);
      Base::put_moments_of_c(turn.exists, c);
      sync_block();
      const Moments of_c = sums.moments(Sums::kOfC, 1);
      result.state[0] = Cell::output(result.saved, tanh_of_norm<Cell, Value>(Base::parameter(), of_c.hat(c)));
    }
    if (turn.exists) state = Pass::update_by([&] { return result; }, views, in, state, made);
  }

  FUSED_RNN_DEVICE void store(const SmallTurn& turn, const typename Pass::Made& made) const {
    Pass::store(views, turn.e, turn.now, size, made);
  }
  FUSED_RNN_DEVICE void end(const Element& e, const State& state, const Results& results) const {
    Pass::end(views, e, size, state, results);
  }
};

template <class Pass, class Gemm>
struct SmallNormBackward : SmallNormUpdate<Pass, Gemm> {
  using Base = SmallNormUpdate<Pass, Gemm>;
  using Base::Base, Base::kGates, Base::kHasC, Base::kRows, Base::parameters, Base::size, Base::sums, Base::views;
  using typename Base::Cell, typename Base::Means, typename Base::Moments, typename Base::OfGates,
      typename Base::Results, typename Base::State, typename Base::Sums, typename Base::T, typename Base::Value;

  struct Inputs {
    typename Pass::Inputs of_pass;
    Pack<T, kGates> from_h;  // as forward saved them
  };

  FUSED_RNN_DEVICE Inputs load(const SmallTurn& turn) const {
    Inputs in;
    in.of_pass = Pass::load(views, turn.e, turn.now, size);
    const T* const from = element_at<T, int>(views.saved, turn.now.time, turn.e) + first_saved_sum<Cell>(views) * size;
    for (int g = 0; g < kGates; ++g) in.from_h[g] = from[g * size];
    return in;
  }
  FUSED_RNN_DEVICE void prepare(bool exists, const Inputs& first) const { put_saved(exists, first); }
  FUSED_RNN_DEVICE void begin() {
    take_moments();
    if constexpr (!kHasC) sync_block();  // else the meeting at c comes before the next moments
  }

  FUSED_RNN_DEVICE void operator()(const SmallTurn& turn, const Inputs& in, const Inputs& next, const Results& results,
                                   State& state, typename Pass::Made& made) {
    const auto update_by = [&](const auto& call) {
      const auto arriving = [&] { return Pass::arriving(views, turn.e, turn.now, size, in.of_pass, state); };
      return Pass::update_by(call, arriving, in.of_pass, state, made);
    };
    if (turn.exists) state = Pass::with_product(views, in.of_pass, results, state);
    [[maybe_unused]] NormOfC<Cell, Value, float> of_norm{};
    Means means_of_c{};
    if constexpr (kHasC) {
      const auto to_norm = [&](const auto& saved, const auto&, const auto& after, const auto& d_after) {
        of_norm = of_norm.of(saved, after, d_after, of_c, Base::parameter());
        return CellBackward<Value, Cell>{};  // the next part goes on
      };
      if (turn.exists) update_by(to_norm);
      Means totals{};
      totals.add(of_norm.g, of_norm.hat);
      sums.put_totals(Sums::kOfC, totals);
      sync_block();
      means_of_c = sums.means(Sums::kOfC, 1);
      add_to_norm(kNormOfC<Cell>, of_norm.d, of_norm.hat);
    }
    Pack<float, kGates> d_gates{}, hats{};
    if (turn.exists) {
      state = update_by([&](const auto& saved, const auto& before, const auto& after, const auto& d_after) {
        CellBackward<Value, Cell> gradient;
        if constexpr (kHasC) {
          gradient = of_norm.call(saved, before, d_after, of_c, means_of_c);
        } else {
          gradient = cell_backward<Cell, Value>(saved, before, after, d_after, {});
        }
        for (int g = 0; g < kGates; ++g) d_gates[g] = raw(gradient.d_from_h[g]);
        return gradient;
      });
      for (int g = 0; g < kGates; ++g) hats[g] = of_gates[norm_group_of<Cell>(g)].hat(to_real(in.from_h[g]));
    }
    Base::for_each_group([&](int group, int) {
      Means totals{};
      for (int g = 0; g < kGates; ++g) {
        if (norm_group_of<Cell>(g) == group) totals.add(d_gates[g] * parameters[2 * g], hats[g]);
      }
      sums.put_totals(group, totals);
    });
    put_saved(turn.exists, next);
    sync_block();
    Base::for_each_group([&](int group, int gates) {
      const Means means = sums.means(group, gates);
      for (int g = 0; g < kGates; ++g) {
        if (norm_group_of<Cell>(g) != group) continue;
        add_to_norm(g, d_gates[g], hats[g]);
        const float d_sum = means.through(of_gates[group], d_gates[g] * parameters[2 * g], hats[g]);
        made.d_from_h[g] = from_real<T>(d_sum);
        made.vector[g] = in.of_pass.kind != RowStep::kReset ? d_sum : 0.0f;  // else no step before made it
      }
    });
    take_moments();
  }

  FUSED_RNN_DEVICE void store(const SmallTurn& turn, const typename Pass::Made& made) const {
    Pass::store(views, turn.e, turn.now, size, made);
    if constexpr (!Cell::kSplit) {
      T* const to = element_at<T, int>(views.d_gates_h, turn.now.time, turn.e);
      for (int g = 0; g < kGates; ++g) to[g * size] = made.d_from_h[g];
    }
  }
  FUSED_RNN_DEVICE void end(const Element& e, const State& state, const Results& results) const {
    Pass::end(views, e, size, state, results);
    if (!has(views.d_norm)) return;
    T* const to = element_at<T, int64_t>(views.d_norm, 0, e);
    for (int k = 0; k < kRows; ++k) to[static_cast<int64_t>(k) * size] = from_real<T>(d_parameters[k]);
  }

 private:
  OfGates of_gates;
  Moments of_c{};
  Pack<float, kRows> d_parameters{};  // summed over time

  FUSED_RNN_DEVICE void put_saved(bool exists, const Inputs& in) const {
    Base::put_moments_of_gates(exists, [&](int g) { return to_real(in.from_h[g]); });
    if constexpr (kHasC) Base::put_moments_of_c(exists, to_real(in.of_pass.after[1]));
  }
  FUSED_RNN_DEVICE void take_moments() {
    of_gates = Base::moments_of_gates();
    if constexpr (kHasC) of_c = sums.moments(Sums::kOfC, 1);
  }
  FUSED_RNN_DEVICE void add_to_norm(int norm, float d, float hat) {
    d_parameters[2 * norm] += d * hat;
    d_parameters[2 * norm + 1] += d;
  }
};

}  // namespace fused_rnn::cuda
