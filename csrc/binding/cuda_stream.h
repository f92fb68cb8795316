// The CUDA stream that the caller's torch has made current.
//
// Only a torch built with CUDA has the C function that tells it, and one module serves those with and those without. So
// the function is declared weak: where torch lacks it, its address is null and the module loads all the same. torch's
// own header (aoti_torch/c/shim.h) declares it, not weak, only where USE_CUDA is defined, which it is not here.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

extern "C" [[gnu::weak]] int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace fused_rnn {

// The cudaStream_t that torch uses now on a device; null is CUDA's default stream.
inline void* current_stream(int device_index) {
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error("fused_rnn: a CUDA stream is needed, and this torch was built without CUDA");
  }
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(device_index, &stream) != 0) {
    throw std::runtime_error("fused_rnn: torch has no current stream on CUDA device " + std::to_string(device_index));
  }
  return stream;
}

}  // namespace fused_rnn
