// What a persistent launch with layer norms needs besides its shape: where the sums over the units of a row meet.
//
// A thread has one unit of one row, so that what it knows of them stays in registers while units meet: shapes with more
// turns are refused. Units meet in two stages: those of a block by way of its shared memory, then the blocks of a
// cluster, each of which gets a pair of sums of every other one.
#pragma once

#include "core/problem.h"
#include "cuda/persistent_shape.h"

namespace fused_rnn::cuda {

constexpr bool has_norm_of_c(const CellSpec& cell) { return cell.norm_groups > 0 && cell.states == 2; }
// Norms are counted: those of the gates, then that of c.
constexpr int norms(const CellSpec& cell) { return cell.norm_groups + (has_norm_of_c(cell) ? 1 : 0); }
// Times that the blocks of a group meet in a step besides the exchange of the vector: at the gates, and at c.
constexpr int norm_meetings(const CellSpec& cell) { return has_norm_of_c(cell) ? 2 : 1; }

// What the blocks of a group meet by in a grid: its counts, and pairs of floats in a workspace.
FUSED_RNN_HD constexpr size_t norm_pairs_bytes(const PersistentShape& shape, int norms) {
  return static_cast<size_t>(norms) * shape.ranks * shape.columns() * 2 * sizeof(float);
}
constexpr int kNormMeetings = 2;  // that have a count, whether there are two or one

// What forward's norms took of a row at a step, which a kernel before backward's makes of what forward saved.
constexpr size_t norm_moments_bytes(const Problem& p) {
  return static_cast<size_t>(p.batch * p.directions * norms(p.cell)) * 2 * sizeof(float);
}

// Behind what shared_map has, in bytes. All but the barriers are pairs of floats.
struct NormMap {
  size_t own;         // [norms][2][units][4], rows in two sets of four: what each unit adds
  size_t met;         // [norms][2][ranks][4]: what each block adds
  size_t parameters;  // [gates, then c][units]: gain and bias
  size_t gradients;   // [gates, then c][threads], in backward: their gradients, summed over time
  size_t barriers, total;
};

FUSED_RNN_HD constexpr NormMap norm_map(const PersistentShape& shape, size_t begin, int norms, int parameters,
                                        bool backward) {
  constexpr size_t kPair = 2 * sizeof(float);
  const size_t rows = static_cast<size_t>(shape.columns()) * kPair;
  NormMap map{};
  map.own = (begin + 15) / 16 * 16;
  map.met = map.own + norms * shape.units() * rows;
  map.parameters = map.met + norms * shape.ranks * rows;
  map.gradients = map.parameters + parameters * shape.units() * kPair;
  map.barriers = map.gradients + (backward ? parameters * 32 * kPersistentWarps * kPair : 0);
  map.total = map.barriers + 2 * sizeof(uint64_t);
  return map;
}

}  // namespace fused_rnn::cuda
