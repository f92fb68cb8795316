// The persistent kernels of the LSTM in TF32.
#include "cells/lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<LstmCell, TFloat32>;

}  // namespace fused_rnn::cuda
