// The per-step kernels of the Elman cell with relu in every type.
#include "cells/elman.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PerStepKernels<ElmanCell<Relu>, float>;
template struct PerStepKernels<ElmanCell<Relu>, double>;
template struct PerStepKernels<ElmanCell<Relu>, BFloat16>;
template struct PerStepKernels<ElmanCell<Relu>, Float16>;

}  // namespace fused_rnn::cuda
