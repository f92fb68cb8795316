// The per-step kernels of the GRU in every type.
#include "cells/gru.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PerStepKernels<GruCell, float>;
template struct PerStepKernels<GruCell, double>;
template struct PerStepKernels<GruCell, BFloat16>;
template struct PerStepKernels<GruCell, Float16>;

}  // namespace fused_rnn::cuda
