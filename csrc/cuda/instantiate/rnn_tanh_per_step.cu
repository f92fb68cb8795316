// The per-step kernels of the Elman cell with tanh in every type.
#include "cells/elman.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PerStepKernels<ElmanCell<Tanh>, float>;
template struct PerStepKernels<ElmanCell<Tanh>, double>;
template struct PerStepKernels<ElmanCell<Tanh>, BFloat16>;
template struct PerStepKernels<ElmanCell<Tanh>, Float16>;

}  // namespace fused_rnn::cuda
