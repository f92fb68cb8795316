// The numbers that the choice of a CUDA schedule rests on, each row with its source.
//
// A row without a measurement of its own says so, and so does fused_rnn.explain. Those of the H200 were fitted to the
// 4941 lines of tools/native/shape_times.cu (11 % off in the mean square); what is chosen is 2 % slower than the best
// shape in the geometric mean over 360 problems.
#pragma once

#include "core/problem.h"

namespace fused_rnn::cuda {

// Costs of one step, in microseconds, on GPUs from `capability` on.
struct StepCosts {
  int capability;
  double clock_ghz;                 // of what tile_cycles counts
  double one_block, cluster, grid;  // of the schedule, whatever the shape; the exchange is in it
  double tile;                      // a tile of columns besides its multiplications: first loads, sums out, a barrier
  double turn;                      // an update of each thread: sums in, the cell, loads and stores
  double cluster_kb, grid_kb;       // for each KiB that a block receives
  double library_call;              // per_step: starting a library's GEMM and a kernel, for each direction
  const char* source;
  double small_cycles;  // small_block: latencies that nothing hides, of shared memory, shuffles, the cell, a barrier
  const char* small_source;
};

constexpr StepCosts kStepCosts[] = {
    {80, 1.4, 0.25, 0, 1.4, 0.44, 0.84, 0, 0.022, 12.5, "scaled from H200 by the clock, not measured", 350,
     "instructions counted, not measured"},
    {90, 1.8, 0.2, 0.25, 1.05, 0.34, 0.65, 0.0275, 0.017, 12.5, "measured on H200", 350,
     "instructions counted, not measured"},
};

constexpr const StepCosts& step_costs(int capability) {
  const StepCosts* found = &kStepCosts[0];
  for (const StepCosts& row : kStepCosts) {
    if (row.capability <= capability) found = &row;
  }
  return *found;
}

// Cycles in which one of a multiprocessor's four schedulers multiplies a tile of 16 units by 32 hidden indices with
// 8 columns: two mma.sync m16n8k16, four m16n8k8 in TF32 (half the rate of the datasheet on sm_90, where only wgmma
// reaches it). Exact float32 has 8 units: 2048 / 32 FMA and a third more for loads.
constexpr double tile_cycles(bool exact_float32, bool tfloat32) {
  return exact_float32 ? 85.0 : (tfloat32 ? 32.0 : 16.0);
}

// Instructions of a lane in a step of small_block, counted in the disassembly for sm_90a (LSTM, plain rows) besides
// loads and multiplications: those for an update, and in exact float32 those that each row adds. added_instructions
// come on top.
struct SmallInstructions {
  double forward, backward, row_forward, row_backward;
};
constexpr SmallInstructions kSmallInstructions[] = {{222, 190, 6, 13}, {151, 206, 0, 0}};  // exact float32, the others
// With layer norms. Where units meet, cycles pass that nothing hides: four shuffles, shared memory, a barrier, a root.
constexpr SmallInstructions kSmallNormInstructions[] = {{453, 482, 0, 25}, {357, 528, 0, 0}};
constexpr double kSmallMeetingCycles = 250;

// In which a scheduler's matrix unit takes an mma of small_block, as tile_cycles has them.
constexpr double kSmallMmaCycles = 8;

// Instructions of an update that the kernels of the fit did not have, counted in the disassembly for sm_90a
// (tools/loop_report.py). With all features a loop has 150 more of an LSTM and 125 of a GRU, in every pass and
// schedule. bfloat16's tanh took 22 from the forward pass of an LSTM, which has five activations, 10 from that of a GRU
// with three, and 10 from the backward pass where there is a tanh(c).
inline double added_instructions(const Problem& problem) {
  const int other_states = problem.cell.cell_states();
  const bool has_features = problem.zoneout || problem.recurrent_mask || problem.cell.unit_weights > 0;
  const double features = has_features ? 125.0 + 25.0 * other_states : 0.0;
  const double activations = problem.backward ? 10.0 * other_states : 4.0 * (problem.cell.gates + other_states);
  return problem.type == DataType::kBFloat16 ? features - activations : features;
}

// Cycles of each of them: an update is a chain that few warps hide. Lengths and resets, 79 instructions, made a step
// 8 % to 15 % longer (docs/gpu.md).
constexpr double kInstructionCycles = 4.5;

// Instructions that an update does without where sums are scattered (scatter.cuh), most of them those of the meeting of
// partial sums. Counted for an LSTM in bfloat16 (docs/gpu.md); what sending takes is in the cost of a KiB.
constexpr double kScatteredInstructions = 30;
constexpr const char* kScatterSource = "instructions counted, not measured";

// Instructions that layer norms add to an update besides those of meetings between blocks, counted likewise: without a
// norm of c (GRU) and with one (LSTM, bfloat16, one_block).
struct NormInstructions {
  double forward, backward;
};
constexpr NormInstructions kNormInstructions[] = {{170, 125}, {200, 300}};
constexpr const char* kNormSource = "instructions counted, not measured";

// What a library's GEMM adds: the weights come from L2, and the rates are those of a few rows (float32: of an H200).
struct LibraryRates {
  double gb_per_us, exact_tflops, tf32_tflops, half_tflops;
};
constexpr LibraryRates kLibraryRates{0.0055, 18, 200, 400};

// What the memory of an H200 gives, by its datasheet.
constexpr double kMemoryGbPerUs = 0.0048;

// Where the estimates of exact float32 are from: its tiles had twice the units when an H200 timed them.
constexpr const char* kExactSource = "scaled from other tiles, not measured";

// Clusters that run at once: the blocks of one share a group of multiprocessors, which has 18 at most (on an H200: 66
// of two blocks, 30 of four, 15 of eight, 7 of sixteen; this gives 66, 29, 14, 7).
constexpr int clusters_at_once(int multiprocessors, int blocks) {
  constexpr int kInGroup = 18;
  return multiprocessors / kInGroup * (kInGroup / blocks) + multiprocessors % kInGroup / blocks;
}

// The registers of a thread in the largest kernel of each unit of instantiate/, as ptxas of CUDA 13.0 gave them; with
// 256 threads a block, 255 leave room for one block on a multiprocessor. Static shared memory is 0 everywhere; what a
// launch takes besides is shared_map's total (persistent_shape.h). tests/test_cuda_build.py holds the build to these
// rows.
struct UnitRegisters {
  const char* unit;
  int sm_80, sm_90a;
};

// clang-format off
constexpr UnitRegisters kUnitRegisters[] = {
    {"gru_bfloat16", 230, 235},
    {"gru_float16", 230, 235},
    {"gru_float32", 240, 246},
    {"gru_per_step", 100, 90},
    {"gru_tfloat32", 212, 222},
    {"lstm_bfloat16", 249, 255},
    {"lstm_float16", 249, 255},
    {"lstm_float32", 254, 255},
    {"lstm_peephole_bfloat16", 248, 251},
    {"lstm_peephole_float16", 247, 251},
    {"lstm_peephole_float32", 254, 254},
    {"lstm_peephole_per_step", 67, 70},
    {"lstm_peephole_tfloat32", 248, 255},
    {"lstm_per_step", 142, 139},
    {"lstm_tfloat32", 248, 255},
    {"rnn_relu_bfloat16", 231, 235},
    {"rnn_relu_float16", 231, 235},
    {"rnn_relu_float32", 212, 220},
    {"rnn_relu_per_step", 64, 56},
    {"rnn_relu_tfloat32", 216, 222},
    {"rnn_tanh_bfloat16", 231, 235},
    {"rnn_tanh_float16", 231, 235},
    {"rnn_tanh_float32", 212, 220},
    {"rnn_tanh_per_step", 66, 64},
    {"rnn_tanh_tfloat32", 216, 222},
};
// clang-format on

}  // namespace fused_rnn::cuda
