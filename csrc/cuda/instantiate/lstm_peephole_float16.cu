// The persistent kernels of the LSTM with peepholes in float16.
#include "cells/peephole_lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<PeepholeLstmCell, Float16>;

}  // namespace fused_rnn::cuda
