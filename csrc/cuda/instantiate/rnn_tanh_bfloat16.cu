// The persistent kernels of the Elman cell with tanh in bfloat16.
#include "cells/elman.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<ElmanCell<Tanh>, BFloat16>;

}  // namespace fused_rnn::cuda
