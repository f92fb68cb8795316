// The name of a cell as an op is given it.
#pragma once

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <string>

namespace fused_rnn {

// A string that torch has made for the call, which is the op's to delete. torch's own conversion to std::string (up to
// 2.13, at least) leaves one copy behind at each call, 48 bytes; a parameter of this type is passed as it is.
struct CellName {
  StringHandle handle;

  // Once.
  std::string take() const {
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    std::string name(data, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return name;
  }
};

}  // namespace fused_rnn
