// What the choice of a plan knows of a processor: a table of measured numbers, and which of its rows is this machine's.
#pragma once

namespace fused_rnn {

// Cycles of one core, float32 in AVX-512. "Vector" is one of 16 lanes.
struct Machine {
  const char* name;
  double fmas_per_cycle;  // of vectors, in a register tile
  double l2_load;         // a vector of weights from L2
  double l3_load;         // from L3
  double l2_bytes;        // of weights that stay in L2, beside everything else
  double tile;            // entering a tile
  double update;          // the cell's arithmetic and memory traffic, per gate, vector of units and row
  double region;          // starting one more thread, once per call
  double barrier;         // meeting at a barrier, with a premium (see the table)
  double exchanged_line;  // 64 bytes that another thread made since the last barrier
};

const Machine& this_machine();

// MKL, which torch's GEMMs use on x86, keeps to slower code there.
bool is_amd_processor();

}  // namespace fused_rnn
