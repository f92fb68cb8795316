// The persistent kernels of the LSTM with peepholes in TF32.
#include "cells/peephole_lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<PeepholeLstmCell, TFloat32>;

}  // namespace fused_rnn::cuda
