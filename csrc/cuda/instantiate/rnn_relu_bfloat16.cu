// The persistent kernels of the Elman cell with relu in bfloat16.
#include "cells/elman.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<ElmanCell<Relu>, BFloat16>;

}  // namespace fused_rnn::cuda
