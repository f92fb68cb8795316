// Training with a small layer as two functions of the native module.
#pragma once

#include <pybind11/pybind11.h>

namespace fused_rnn {

void define_short_calls(pybind11::module_& m);

}  // namespace fused_rnn
