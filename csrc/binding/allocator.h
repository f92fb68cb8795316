// Makes tensors in the type and on the device of a model tensor.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include "binding/checks.h"

namespace fused_rnn {

class Allocator {
 public:
  explicit Allocator(const Tensor& model) : model_(model) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(model.get(), &type_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(model.get(), &device_type_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(model.get(), &device_index_));
  }

  const Tensor& model() const { return model_; }
  Tensor operator()(bool wanted, const Shape& shape) const { return make(wanted ? shape : Shape{0}, type_); }
  // float32 where the model has a half type.
  Tensor computed(const Shape& shape) const {
    return make(shape, type_ == aoti_torch_dtype_float64() ? type_ : aoti_torch_dtype_float32());
  }
  Tensor bytes(size_t count) const { return make({static_cast<int64_t>(count)}, aoti_torch_dtype_uint8()); }

 private:
  // torch::stable::new_empty goes through torch's dispatcher and takes four times as long.
  Tensor make(const Shape& shape, int32_t type) const {
    Shape strides(shape.size());
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= shape[i] > 1 ? shape[i] : 1;
    }
    AtenTensorHandle made = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                                                    type, device_type_, device_index_, &made));
    return Tensor(made);
  }

  const Tensor& model_;
  int32_t type_ = 0, device_type_ = 0, device_index_ = 0;
};

}  // namespace fused_rnn
