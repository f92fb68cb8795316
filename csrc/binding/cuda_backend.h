// How the ops reach the CUDA kernels, in a build with them and in one without.
#pragma once

#include "binding/allocator.h"
#include "core/views.h"

namespace fused_rnn {

#if defined(FUSED_RNN_CUDA)

// On the device and the current stream of the allocator's model tensor. allow_tf32: float32 products may be rounded.
void run_on_cuda(const Problem& problem, const ForwardViews& views, const Allocator& allocate, const Tensor& w_hh,
                 const OptionalTensor& w_hr, bool allow_tf32);
void run_on_cuda(const Problem& problem, const BackwardViews& views, const Allocator& allocate, const Tensor& w_hh,
                 const OptionalTensor& w_hr, bool allow_tf32);

#else

template <class Views>
void run_on_cuda(const Problem&, const Views&, const Allocator&, const Tensor&, const OptionalTensor&, bool) {
  fail("CUDA kernels are " FUSED_RNN_CUDA_BUILD "; build again with FUSED_RNN_CUDA=1, or move the layer to the CPU");
}

#endif

}  // namespace fused_rnn
