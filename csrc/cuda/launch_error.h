// Defines what a failed call of the CUDA runtime throws. One source of each library includes it.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/launch.h"

namespace fused_rnn::cuda {

void fail(cudaError_t error, const char* call) {
  throw std::runtime_error(std::string("fused_rnn: ") + call + ": " + cudaGetErrorString(error));
}

}  // namespace fused_rnn::cuda
