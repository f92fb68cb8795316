// The per-step kernels of the LSTM in every type.
#include "cells/lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PerStepKernels<LstmCell, float>;
template struct PerStepKernels<LstmCell, double>;
template struct PerStepKernels<LstmCell, BFloat16>;
template struct PerStepKernels<LstmCell, Float16>;

}  // namespace fused_rnn::cuda
