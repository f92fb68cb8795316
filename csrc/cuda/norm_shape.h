// What a persistent launch with layer norms needs besides its shape: where the sums over the units of a row meet.
//
// Units meet in two stages. Eight units, an octet, are the lanes of a warp with the same row, which sum by shuffles.
// What the octets of all blocks have lies in the shared memory of each block as pairs, [slot][octet][row].
//
// A slot is one pair of sums of a norm. Norms are counted, those of the gates first and then that of c. Forward has a
// slot for each, sums and squares. Backward has first those of the gradients, then two sets of sums and squares: those
// of the next step arrive while the step's own are read.
#pragma once

#include "core/problem.h"
#include "cuda/persistent_shape.h"

namespace fused_rnn::cuda {

constexpr int kOctet = 8, kNormBarriers = 4;

constexpr bool has_norm_of_c(const CellSpec& cell) { return cell.norm_groups > 0 && cell.states == 2; }
constexpr int norms(const CellSpec& cell) { return cell.norm_groups + (has_norm_of_c(cell) ? 1 : 0); }
constexpr int norm_slots(const CellSpec& cell, bool backward) { return norms(cell) * (backward ? 3 : 1); }
// Times that the blocks of a group meet in a step besides the exchange of the vector.
constexpr int norm_meetings(const CellSpec& cell) { return has_norm_of_c(cell) ? 2 : 1; }

// What a thread keeps of a unit and row besides its state. Forward: the gates from h, then what the cell saves of them,
// and c'. Backward: the sums over time of the norms' gradients, the gradients of the gates, and the moments.
constexpr int norm_values(const CellSpec& cell, bool backward) {
  if (backward) return norm_rows(cell) + cell.gates + 2 * norms(cell);
  return (cell.gates > cell.saved ? cell.gates : cell.saved) + (has_norm_of_c(cell) ? 1 : 0);
}

// Behind what shared_map has, in bytes.
struct NormMap {
  int octets;  // of a group; those beyond the hidden units are never read
  size_t sums, parameters, barriers, total;
};

FUSED_RNN_HD constexpr NormMap norm_map(const PersistentShape& shape, size_t begin, int slots, int rows_of_parameters) {
  NormMap map{};
  map.octets = shape.ranks * shape.units() / kOctet;
  map.sums = (begin + 15) / 16 * 16;
  map.parameters = map.sums + static_cast<size_t>(slots) * map.octets * shape.columns() * 2 * sizeof(float);
  map.barriers = map.parameters + static_cast<size_t>(rows_of_parameters) * shape.units() * sizeof(float);
  map.total = map.barriers + kNormBarriers * sizeof(uint64_t);
  return map;
}

}  // namespace fused_rnn::cuda
