// The numbers that the choice of a CUDA schedule rests on, each row with its source.
//
// A row without a measurement says so, and so does fused_rnn.explain: no GPU has confirmed it.
#pragma once

namespace fused_rnn::cuda {

// Costs of one step, in microseconds, on GPUs from `capability` on.
struct StepCosts {
  int capability;
  double clock_ghz;
  double update;         // loads that were not hidden, activations, stores
  double block_barrier;  // __syncthreads of eight warps
  double cluster_push;   // st.async to all blocks of a cluster until their arrival is seen
  double cluster_kb;     // for each KiB that a block receives
  double grid_barrier;   // flag through L2 among the blocks of a group, and the first load behind it
  double grid_kb;        // for each KiB that a block copies from L2
  double library_step;   // per_step: a library product and one kernel
  const char* source;
};

constexpr StepCosts kStepCosts[] = {
    {80, 1.4, 0.15, 0.03, 0, 0, 1.5, 0.012, 8.0, "modelled from published latencies of A100, not measured"},
    {90, 1.7, 0.12, 0.025, 0.35, 0.008, 1.2, 0.010, 7.0, "modelled from published latencies of H100, not measured"},
};

constexpr const StepCosts& step_costs(int capability) {
  const StepCosts* found = &kStepCosts[0];
  for (const StepCosts& row : kStepCosts) {
    if (row.capability <= capability) found = &row;
  }
  return *found;
}

// Cycles in which one of a multiprocessor's four schedulers multiplies a tile of 16 units by 32 hidden indices with
// 8 columns: two mma.sync m16n8k16, four m16n8k8 in TF32, 4096 / 32 FMA. Rates of the mma pipes as NVIDIA gives them
// for dense products, halved on sm_90, where only wgmma reaches them.
constexpr double tile_cycles(bool exact_float32, bool tfloat32) {
  return exact_float32 ? 128.0 : (tfloat32 ? 32.0 : 16.0);
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
    {"gru_bfloat16", 248, 249},
    {"gru_float16", 248, 249},
    {"gru_float32", 254, 254},
    {"gru_per_step", 42, 40},
    {"gru_tfloat32", 200, 219},
    {"lstm_bfloat16", 244, 255},
    {"lstm_float16", 244, 255},
    {"lstm_float32", 254, 254},
    {"lstm_peephole_per_step", 64, 62},
    {"lstm_per_step", 54, 56},
    {"lstm_tfloat32", 238, 248},
    {"rnn_relu_bfloat16", 221, 231},
    {"rnn_relu_float16", 222, 232},
    {"rnn_relu_float32", 216, 234},
    {"rnn_relu_per_step", 32, 32},
    {"rnn_relu_tfloat32", 208, 213},
    {"rnn_tanh_bfloat16", 221, 231},
    {"rnn_tanh_float16", 222, 232},
    {"rnn_tanh_float32", 214, 232},
    {"rnn_tanh_per_step", 32, 32},
    {"rnn_tanh_tfloat32", 208, 213},
};
// clang-format on

}  // namespace fused_rnn::cuda
