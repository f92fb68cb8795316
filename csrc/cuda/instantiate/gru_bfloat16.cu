// The persistent kernels of the GRU in bfloat16.
#include "cells/gru.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<GruCell, BFloat16>;

}  // namespace fused_rnn::cuda
