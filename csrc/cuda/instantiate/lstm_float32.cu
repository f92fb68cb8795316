// The persistent kernels of the LSTM in exact float32.
#include "cells/lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<LstmCell, float>;

}  // namespace fused_rnn::cuda
