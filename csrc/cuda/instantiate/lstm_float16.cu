// The persistent kernels of the LSTM in float16.
#include "cells/lstm.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<LstmCell, Float16>;

}  // namespace fused_rnn::cuda
