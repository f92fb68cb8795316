// How the ops reach the CUDA kernels, in a build with them and in one without.
#pragma once

#include "binding/allocator.h"
#include "core/views.h"

namespace fused_rnn {

#if defined(FUSED_RNN_CUDA)

// On the device and the current stream of the allocator's model tensor.
template <class Views>
void run_on_cuda(const Problem& problem, const Views& views, const Allocator& allocate, const RecurrenceTensors& given);

#else

template <class Views>
void run_on_cuda(const Problem&, const Views&, const Allocator&, const RecurrenceTensors&) {
  fail("CUDA kernels are " FUSED_RNN_CUDA_BUILD "; build again with FUSED_RNN_CUDA=1, or move the layer to the CPU");
}

#endif

}  // namespace fused_rnn
