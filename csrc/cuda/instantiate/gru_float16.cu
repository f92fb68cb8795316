// The persistent kernels of the GRU in float16.
#include "cells/gru.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<GruCell, Float16>;

}  // namespace fused_rnn::cuda
