// The CPU schedule of the backward pass: the forward sweep mirrored, from the last step to the first.
//
// One step of a thread, for its rows and blocks of units:
//   product   d_h = W_hh^T d_from_h of the step after, tile by tile (nothing after the last step)
//   update    adds d_output and the direct part the step after left in `carry_h`, then the cell's backward; writes the
//             gate gradients, for the caller's weight GEMMs and, in the compute type, for the next product
//   barrier   only where threads share units
// One product more gives d_h_0. With a projection the first product makes the gradient of the projected h, and a second
// one, with W_hr^T, what the cell's backward needs.
#pragma once

#include "cells/cell.h"
#include "core/views.h"
#include "cpu/pack_weights.h"
#include "cpu/share.h"
#include "cpu/state_buffer.h"
#include "cpu/vec_math.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

template <class Cell, class T>
class BackwardSweep {
  using Real = RealOf<T>;
  using V = Vec<Real>;
  using Units = Block<1, Real>;  // blocks of outputs of the transposed products: one column per vector of units
  static constexpr int kLanes = V::kLanes;

 public:
  using Views = BackwardViews;

  static Tiling tiling(const Problem& problem) {
    return {kLanes,          Units::kUnits,
            Units::kColumns, max_tile_rows(Units::kColumns),
            Cell::kGates,    Units::count(problem.hidden_size)};
  }

  BackwardSweep(const Problem& problem, const Views& views, const Plan& plan, Arena& arena)
      : p_(problem), v_(views), barriers_(plan, arena), threads_(plan.threads()) {
    hidden_stride_ = Units::padded(p_.hidden_size);
    output_stride_ = Units::padded(p_.output_size);
    output_blocks_ = Units::count(p_.output_size);
    gates_stride_ = Cell::kGates * hidden_stride_;
    block_stride_ = gates_stride_ * Units::kUnits;
    const int64_t rows = p_.directions * p_.batch;
    packed_ = arena.take<Real>(p_.directions * output_blocks_ * block_stride_);
    for (Real*& d_gates : d_gates_) d_gates = arena.take<Real>(rows * gates_stride_);
    carry_h_ = {arena.take<Real>(rows * output_stride_), p_.batch, output_stride_};
    if (Cell::kStates == 2) carry_c_ = {arena.take<Real>(rows * hidden_stride_), p_.batch, hidden_stride_};
    if (p_.projected) {
      hidden_blocks_ = Units::count(p_.hidden_size);
      projection_stride_ = output_stride_ * Units::kUnits;
      projection_ = arena.take<Real>(p_.directions * hidden_blocks_ * projection_stride_);
      d_projected_ = arena.take<Real>(rows * output_stride_);
    }
  }

  void before_team() const { barriers_.reset(); }

  void run(int thread) const {
    const Share share = barriers_.share_of(thread, p_.directions, p_.batch);
    pack(thread);
    for (int64_t d = share.directions.begin; d < share.directions.end; ++d) initialize(share, d);
    barriers_.wait_for_team();  // packed weights, zeroed padding and initial carries are complete
    for (int64_t d = share.directions.begin; d < share.directions.end; ++d) {
      for (int64_t s = p_.time_steps - 1; s >= 0; --s) step(share, d, s);
      finish(share, d);
    }
  }

 private:
  void pack(int thread) const {
    const Range own = part_of({0, p_.directions * output_blocks_}, threads_, thread);
    for (int64_t i = own.begin; i < own.end; ++i) {
      const WeightView& w = v_.w_hh;
      const PackSource<T> source{static_cast<const T*>(w.data) + i / output_blocks_ * w.direction_stride,
                                 p_.output_size,
                                 0,
                                 w.column_stride,
                                 Cell::kGates,
                                 p_.hidden_size * w.row_stride,
                                 w.row_stride,
                                 p_.hidden_size,
                                 hidden_stride_};
      pack_block<1, Units::kVectors>(source, i % output_blocks_, packed_ + i * block_stride_);
    }
    if (!p_.projected) return;
    const Range own_hidden = part_of({0, p_.directions * hidden_blocks_}, threads_, thread);
    for (int64_t i = own_hidden.begin; i < own_hidden.end; ++i) {
      const WeightView& w = v_.w_hr;
      const PackSource<T> source{static_cast<const T*>(w.data) + i / hidden_blocks_ * w.direction_stride,
                                 p_.hidden_size,
                                 0,
                                 w.column_stride,
                                 1,
                                 0,
                                 w.row_stride,
                                 p_.output_size,
                                 output_stride_};
      pack_block<1, Units::kVectors>(source, i % hidden_blocks_, projection_ + i * projection_stride_);
    }
  }

  // The carries start as the gradients of the final states. Both gate buffers and d_projected are zeroed, since the
  // products read their padding, which no step writes.
  void initialize(const Share& share, int64_t d) const {
    const Range rows = share.own_rows();
    load_state<T>(v_.d_h_n, p_.output_size, carry_h_, d, rows);
    if (Cell::kStates == 2) load_state<T>(v_.d_c_n, p_.hidden_size, carry_c_, d, rows);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for (Real* d_gates : d_gates_) clear(d_gates + (d * p_.batch + row) * gates_stride_, gates_stride_);
      if (p_.projected) clear(d_projected_ + (d * p_.batch + row) * output_stride_, output_stride_);
    }
  }

  static void clear(Real* row, int64_t size) {
    for (int64_t i = 0; i < size; i += kLanes) V(0).store(row + i);
  }

  // W_hh^T times the gate gradients of the step after position s.
  Product<Real> recurrent(int64_t d, int64_t s) const {
    const bool last = s == p_.time_steps - 1;
    return {packed_ + d * output_blocks_ * block_stride_,         nullptr,       block_stride_,
            d_gates_[(s + 1) & 1] + d * p_.batch * gates_stride_, gates_stride_, last ? 0 : gates_stride_};
  }

  // Calls visit(row, unit, count, product value) for every vector of units of a tile.
  template <class TileOf, class Visit>
  FUSED_RNN_INLINE static void for_each_vector(const TileOf& tile, int64_t units, const Visit& visit) {
    for (int b = 0; b < tile.blocks; ++b) {
      for (int vector = 0; vector < Units::kVectors; ++vector) {
        const int64_t unit = ((tile.block + b) * Units::kVectors + vector) * kLanes;
        const int count = lanes_left<Real>(units, unit);
        if (count <= 0) break;
        for (int r = 0; r < tile.rows; ++r) visit(tile.row + r, unit, count, tile.at(r, b, vector));
      }
    }
  }

  void step(const Share& share, int64_t d, int64_t s) const {
    const int64_t t = d == 0 ? s : p_.time_steps - 1 - s;
    const Range output_blocks = share.blocks_of(output_blocks_);
    if (!p_.projected) {
      for_each_tile<Units::kColumns>(recurrent(d, s), share.rows, output_blocks, [&](const auto& tile) {
        for_each_vector(tile, p_.hidden_size, [&](int64_t row, int64_t unit, int count, V from_later) {
          const V d_h = output_gradient(d, t, row, unit, count, from_later);
          update(d, s, t, row, unit, count, d_h);
        });
      });
      share.wait();
      return;
    }
    for_each_tile<Units::kColumns>(recurrent(d, s), share.rows, output_blocks, [&](const auto& tile) {
      for_each_vector(tile, p_.output_size, [&](int64_t row, int64_t unit, int count, V from_later) {
        const V d_h = output_gradient(d, t, row, unit, count, from_later);
        V(0).store(carry_h_.row(d, row) + unit);
        d_h.store(d_projected_ + (d * p_.batch + row) * output_stride_ + unit);
        store<T>(at<T>(v_.d_projected, t, row, d) + unit, d_h, count);
      });
    });
    share.wait();
    const Product<Real> projection{
        projection_ + d * hidden_blocks_ * projection_stride_, nullptr,        projection_stride_,
        d_projected_ + d * p_.batch * output_stride_,          output_stride_, output_stride_};
    for_each_tile<Units::kColumns>(projection, share.rows, share.blocks_of(hidden_blocks_), [&](const auto& tile) {
      for_each_vector(tile, p_.hidden_size,
                      [&](int64_t row, int64_t unit, int count, V d_h) { update(d, s, t, row, unit, count, d_h); });
    });
    share.wait();
  }

  // The whole gradient of h_t: through the next step's gates, directly through its update, and from outside.
  FUSED_RNN_INLINE V output_gradient(int64_t d, int64_t t, int64_t row, int64_t unit, int count, V from_later) const {
    const V d_h = from_later + V::load(carry_h_.row(d, row) + unit);
    return v_.d_output ? d_h + load<T>(at<T>(v_.d_output, t, row, d) + unit, count) : d_h;
  }

  // h or c before position s: what the step before left, or the initial state.
  FUSED_RNN_INLINE V previous_state(const SequenceView<const void>& sequence, const StateView<const void>& initial,
                                    int64_t d, int64_t s, int64_t t, int64_t row, int64_t unit, int count) const {
    if (s > 0) return load<T>(at<T>(sequence, d == 0 ? t - 1 : t + 1, row, d) + unit, count);
    return initial ? load<T>(at<T>(initial, d, row) + unit, count) : V(0);
  }

  FUSED_RNN_INLINE void update(int64_t d, int64_t s, int64_t t, int64_t row, int64_t unit, int count, V d_h) const {
    const int64_t hidden_size = p_.hidden_size;
    Pack<V, Cell::kSaved> saved;
    for (int k = 0; k < Cell::kSaved; ++k) {
      saved[k] = load<T>(at<T>(v_.saved, t, row, d) + k * hidden_size + unit, count);
    }
    Pack<V, Cell::kStates> previous, current, d_current;
    d_current[0] = d_h;
    if constexpr (Cell::kReadsHidden) {
      previous[0] = previous_state(v_.output, v_.h_0, d, s, t, row, unit, count);
      current[0] = load<T>(at<T>(v_.output, t, row, d) + unit, count);
    } else {
      previous[0] = current[0] = V(0);
    }
    if constexpr (Cell::kStates == 2) {
      previous[1] = previous_state(v_.cells, v_.c_0, d, s, t, row, unit, count);
      current[1] = load<T>(at<T>(v_.cells, t, row, d) + unit, count);
      d_current[1] = V::load(carry_c_.row(d, row) + unit);
      if (v_.d_cells) d_current[1] = d_current[1] + load<T>(at<T>(v_.d_cells, t, row, d) + unit, count);
    }
    const CellBackward<V, Cell> result = Cell::backward(saved, previous, current, d_current);

    T* d_gates = at<T>(v_.d_gates, t, row, d);
    Real* for_product = d_gates_[s & 1] + (d * p_.batch + row) * gates_stride_;
    for (int g = 0; g < Cell::kGates; ++g) {
      store<T>(d_gates + g * hidden_size + unit, result.d_from_x[g], count);
      result.d_from_h[g].store(for_product + g * hidden_stride_ + unit);
      if constexpr (Cell::kSplit) {
        store<T>(at<T>(v_.d_gates_h, t, row, d) + g * hidden_size + unit, result.d_from_h[g], count);
      }
    }
    // With a projection carry_h belongs to the projected h, which has no direct part.
    if (!p_.projected) result.d_state[0].store(carry_h_.row(d, row) + unit);
    if constexpr (Cell::kStates == 2) result.d_state[1].store(carry_c_.row(d, row) + unit);
  }

  void finish(const Share& share, int64_t d) const {
    for_each_tile<Units::kColumns>(
        recurrent(d, -1), share.rows, share.blocks_of(output_blocks_), [&](const auto& tile) {
          for_each_vector(tile, p_.output_size, [&](int64_t row, int64_t unit, int count, V from_later) {
            const V d_h = from_later + V::load(carry_h_.row(d, row) + unit);
            store<T>(at<T>(v_.d_h_0, d, row) + unit, d_h, count);
          });
        });
    if (Cell::kStates == 2) store_state<T>(carry_c_, v_.d_c_0, p_.hidden_size, d, share.own_rows());
  }

  const Problem& p_;
  const Views& v_;
  Barriers barriers_;
  int threads_;
  int64_t output_blocks_, hidden_blocks_ = 0;
  int64_t block_stride_, projection_stride_ = 0;          // packed elements of one block
  int64_t hidden_stride_, output_stride_, gates_stride_;  // padded sizes of one row
  Real* packed_;                                          // [D, output blocks, G * hidden_stride, columns, lanes]
  Real* projection_ = nullptr;                            // [D, hidden blocks, output_stride, columns, lanes]
  Real* d_gates_[2];                                      // [D, B, G, hidden_stride] of this step and the one after
  Real* d_projected_ = nullptr;                           // [D, B, output_stride]
  StateBuffer<Real> carry_h_{}, carry_c_{};               // gradients handed to the step before
};

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
