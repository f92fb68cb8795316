// Makes tensors in the type and on the device of a model tensor.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "binding/checks.h"

namespace fused_rnn {

class Allocator {
 public:
  explicit Allocator(const Tensor& model) : model_(model) {}

  const Tensor& model() const { return model_; }
  Tensor operator()(bool wanted, const Shape& shape) const {
    return torch::stable::new_empty(model_, wanted ? shape : Shape{0});
  }
  Tensor bytes(size_t count) const {
    return torch::stable::new_empty(model_, {static_cast<int64_t>(count)}, torch::headeronly::ScalarType::Byte);
  }

 private:
  const Tensor& model_;
};

}  // namespace fused_rnn
