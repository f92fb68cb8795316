// The per-step kernels of the LSTM with peepholes in every type.
#include "cells/peephole_lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PerStepKernels<PeepholeLstmCell, float>;
template struct PerStepKernels<PeepholeLstmCell, double>;
template struct PerStepKernels<PeepholeLstmCell, BFloat16>;
template struct PerStepKernels<PeepholeLstmCell, Float16>;

}  // namespace fused_rnn::cuda
