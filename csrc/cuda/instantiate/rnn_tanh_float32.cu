// The persistent kernels of the Elman cell with tanh in exact float32.
#include "cells/elman.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<ElmanCell<Tanh>, float>;

}  // namespace fused_rnn::cuda
