// The persistent kernels of the LSTM with peepholes in exact float32.
#include "cells/peephole_lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<PeepholeLstmCell, float>;

}  // namespace fused_rnn::cuda
