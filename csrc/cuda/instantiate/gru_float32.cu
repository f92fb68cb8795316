// The persistent kernels of the GRU in exact float32.
#include "cells/gru.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<GruCell, float>;

}  // namespace fused_rnn::cuda
