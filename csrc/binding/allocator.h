// Makes tensors in the type and on the device of a model tensor.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "binding/checks.h"

namespace fused_rnn {

inline Shape dense_strides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i] > 1 ? shape[i] : 1;
  }
  return strides;
}

class Allocator {
 public:
  explicit Allocator(const Tensor& model) : model_(model) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(model.get(), &type_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(model.get(), &device_type_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(model.get(), &device_index_));
  }

  const Tensor& model() const { return model_; }
  Tensor operator()(bool wanted, const Shape& shape) const { return wanted ? make(shape, type_) : absent(); }
  Tensor empty() const { return make({0}, type_); }
  static Tensor absent() { return Tensor(AtenTensorHandle{nullptr}); }
  // float32 where the model has a half type.
  Tensor computed(const Shape& shape) const {
    return make(shape, type_ == aoti_torch_dtype_float64() ? type_ : aoti_torch_dtype_float32());
  }
  Tensor bytes(size_t count) const { return make({static_cast<int64_t>(count)}, aoti_torch_dtype_uint8()); }

 private:
  // torch::stable::new_empty goes through torch's dispatcher and takes four times as long.
  Tensor make(const Shape& shape, int32_t type) const {
    const Shape strides = dense_strides(shape);
    AtenTensorHandle made = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                                                    type, device_type_, device_index_, &made));
    return Tensor(made);
  }

  const Tensor& model_;
  int32_t type_ = 0, device_type_ = 0, device_index_ = 0;
};

// The memory of a tensor in another shape; autograd does not take it for a view.
inline Tensor strided(const Tensor& tensor, const Shape& shape, const Shape& strides) {
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), static_cast<int64_t>(shape.size()), shape.data(),
                                                        strides.data(), 0, &made));
  return Tensor(made);
}

// That of a contiguous one.
inline Tensor reshaped(const Tensor& tensor, const Shape& shape) {
  return strided(tensor, shape, dense_strides(shape));
}

// An op that returns [0] for what the call does not have; it has at least one result.
template <auto Op>
struct Completed;

template <class... Tensors, class... Arguments, std::tuple<Tensors...> (*Op)(Arguments...)>
struct Completed<Op> {
  static std::tuple<Tensors...> op(Arguments... arguments) {
    std::tuple<Tensors...> results = Op(arguments...);
    std::apply(
        [](auto&... each) {
          const Tensor* present = nullptr;
          ((present = present == nullptr && !is_absent(each) ? &each : present), ...);
          ((each = is_absent(each) ? Allocator(*present).empty() : each), ...);
        },
        results);
    return results;
  }
};

}  // namespace fused_rnn
