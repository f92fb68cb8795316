// The persistent kernels of the Elman cell with relu in TF32.
#include "cells/elman.h"
#include "cuda/instantiate.cuh"

namespace fused_rnn::cuda {

template struct PersistentKernels<ElmanCell<Relu>, TFloat32>;

}  // namespace fused_rnn::cuda
