// Runs work on the instruction set in use, in memory that calls share: what a caller of the CPU backend needs.
#pragma once

#include <cstddef>

#include "core/views.h"
#include "cpu/gemm/matrices.h"

namespace fused_rnn {

// `threads` is the most that a call takes; beside other work it may take fewer. With Problem::keeps_weights a later
// call finds the weights packed.
void run_forward(const Problem& problem, const ForwardViews& views, int threads);
void run_backward(const Problem& problem, const BackwardViews& views, int threads);

// A backward pass with the gradients of the layer's input and weights, which its threads make between their steps.
void run_backward(const Problem& problem, const BackwardViews& views, const LayerGradientViews& layer, int most);

void multiply(const MatrixWork& work, int threads);

// Copies bytes that do not overlap. (Torch's own copy takes all of its threads from 32768 elements on, also where one
// of them waits for its processor.)
void copy(void* to, const void* from, size_t bytes, int threads);

}  // namespace fused_rnn
