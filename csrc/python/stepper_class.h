// The stepper as a Python class of the native module.
#pragma once

#include <pybind11/pybind11.h>

namespace fused_rnn {

void define_stepper(pybind11::module_& m);

}  // namespace fused_rnn
