// From the tiles of a product to the vectors that an update works on: a few rows at a time, whole or partial.
#pragma once

#include "cpu/product.h"
#include "cpu/storage.h"

namespace fused_rnn {
inline namespace FUSED_RNN_ISA {

// Rows that an update takes at once: a second row hides latency of the activations. LSTM, B = 16, H = 64, float32,
// AVX-512, one core of a 2.5 GHz Cascade Lake, 2026-11-21: forward 8.6 us a step instead of 9.2, backward 8.2 instead
// of 9.4.
inline constexpr int kUpdateRows = 2;

// For for_each_vector: no row is special.
inline constexpr auto kNoRow = [](int64_t /*row*/) { return false; };

// A vector of units of `Rows` rows of a tile.
template <int Rows, class Count>
struct TileVector {
  static constexpr int kRows = Rows;
  int r, b, vector;  // the first row, the block and the vector within the tile
  int64_t row;       // the first row of the batch
  int64_t unit;      // the first unit
  Count count;       // units: WholeVector or an int
};

// Calls visit(TileVector) for everything a tile holds of `units` units. Rows of the batch for which `alone(row)` holds
// are visited one by one, so that the updates of two rows need not know of what is special about them.
template <int Vectors, class TileOf, class Alone, class Visit>
FUSED_RNN_INLINE void for_each_vector(const TileOf& tile, int64_t units, const Alone& alone, const Visit& visit) {
  using Real = typename TileOf::Scalar;
  for (int b = 0; b < tile.blocks; ++b) {
    for (int vector = 0; vector < Vectors; ++vector) {
      const int64_t unit = ((tile.block + b) * Vectors + vector) * Vec<Real>::kLanes;
      visit_lanes<Real>(units - unit, [&](auto count) FUSED_RNN_INLINE_LAMBDA {
        for (int r = 0; r < tile.rows;) {
          if constexpr (!std::is_same_v<decltype(count), int>) {  // partial vectors are too rare to have two forms
            if (r + kUpdateRows <= tile.rows && !alone(tile.row + r) && !alone(tile.row + r + 1)) {
              visit(TileVector<kUpdateRows, decltype(count)>{r, b, vector, tile.row + r, unit, count});
              r += kUpdateRows;
              continue;
            }
          }
          visit(TileVector<1, decltype(count)>{r, b, vector, tile.row + r, unit, count});
          ++r;
        }
      });
    }
  }
}

// Whether `holds(row)` for some row of the batch that is in a tile.
template <class TileOf, class Holds>
FUSED_RNN_INLINE bool any_row(const TileOf& tile, const Holds& holds) {
  for (int r = 0; r < tile.rows; ++r) {
    if (holds(tile.row + r)) return true;
  }
  return false;
}

// One column of a tile.
template <class TileOf, int Rows, class Count>
FUSED_RNN_INLINE auto column_of(const TileOf& tile, const TileVector<Rows, Count>& at, int column) {
  Vec<typename TileOf::Scalar, Rows> result;
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) result.parts[i] = tile.at(at.r + i, at.b, column).parts[0];
  return result;
}

// One vector from each row, at pointer_of(row of the batch) + the vector's unit.
template <class T, int Rows, class Count, class PointerOf>
FUSED_RNN_INLINE Vec<RealOf<T>, Rows> load_rows(const TileVector<Rows, Count>& at, const PointerOf& pointer_of) {
  Vec<RealOf<T>, Rows> result;
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) result.parts[i] = load<T>(pointer_of(at.row + i) + at.unit, at.count).parts[0];
  return result;
}

template <class T, int Rows, class Count, class PointerOf>
FUSED_RNN_INLINE void store_rows(const TileVector<Rows, Count>& at, const Vec<RealOf<T>, Rows>& values,
                                 const PointerOf& pointer_of) {
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) store<T>(pointer_of(at.row + i) + at.unit, Vec<RealOf<T>>(values.parts[i]), at.count);
}

// The same for a sweep's own buffers, whose rows are padded to whole vectors.
template <int Rows, class Count, class Real>
FUSED_RNN_INLINE Vec<Real, Rows> load_padded(const TileVector<Rows, Count>& at, const Real* rows, int64_t stride) {
  Vec<Real, Rows> result;
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) result.parts[i] = Vec<Real>::load(rows + (at.row + i) * stride + at.unit).parts[0];
  return result;
}

template <int Rows, class Count, class Real>
FUSED_RNN_INLINE void store_padded(const TileVector<Rows, Count>& at, const Vec<Real, Rows>& values, Real* rows,
                                   int64_t stride) {
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) Vec<Real>(values.parts[i]).store(rows + (at.row + i) * stride + at.unit);
}

// Asks the memory for what an update of the tile will load, or will store (Write): for each row the vectors of the
// tile's units in `count` consecutive runs of `stride` elements. A vector here and a vector there is too scattered for
// the hardware to foresee.
template <int Vectors, bool Write = false, class TileOf, class PointerOf>
FUSED_RNN_INLINE void prefetch_tile(const TileOf& tile, int count, int64_t stride, const PointerOf& pointer_of) {
  const int64_t unit = tile.block * Vectors * Vec<typename TileOf::Scalar>::kLanes;
  const int vectors = tile.blocks * Vectors;
  for (int r = 0; r < tile.rows; ++r) {
    const auto* row = pointer_of(tile.row + r) + unit;
    for (int i = 0; i < count; ++i) {
      for (int v = 0; v < vectors; ++v) {
        __builtin_prefetch(row + i * stride + v * Vec<typename TileOf::Scalar>::kLanes, Write ? 1 : 0);
      }
    }
  }
}

}  // namespace FUSED_RNN_ISA
}  // namespace fused_rnn
