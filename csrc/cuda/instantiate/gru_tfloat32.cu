// The persistent kernels of the GRU in TF32.
#include "cells/gru.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<GruCell, TFloat32>;

}  // namespace fused_rnn::cuda
