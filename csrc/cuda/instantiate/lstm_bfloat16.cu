// The persistent kernels of the LSTM in bfloat16.
#include "cells/lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<LstmCell, BFloat16>;

}  // namespace fused_rnn::cuda
