// From tensors to the views of core/views.h.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <forward_list>
#include <type_traits>

#include "binding/checks.h"
#include "core/views.h"

namespace fused_rnn {

template <class Void>
Void* data_of(const Tensor& tensor) {
  if constexpr (std::is_const_v<Void>) {
    return tensor.const_data_ptr();
  } else {
    return tensor.mutable_data_ptr();
  }
}

// [T, B, D, ...] with contiguous trailing dimensions. An absent or empty tensor gives the null view.
template <class Void>
SequenceView<Void> sequence_view(const Tensor& tensor) {
  if (is_empty(tensor)) return {};
  return {data_of<Void>(tensor), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

template <class Void>
StateView<Void> state_view(const Tensor& tensor) {  // [D, B, H]
  if (is_empty(tensor)) return {};
  return {data_of<Void>(tensor), tensor.stride(0), tensor.stride(1)};
}

// [D, B, ...] as the only step of a sequence.
inline SequenceView<void> rows_view(const Tensor& tensor) {
  if (is_empty(tensor)) return {};
  return {tensor.mutable_data_ptr(), 0, tensor.stride(1), tensor.stride(0)};
}

inline WeightView weight_view(const Tensor& tensor) {  // [D, rows] or [D, rows, columns]
  if (is_empty(tensor)) return {};
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.dim() > 2 ? tensor.stride(2) : 0};
}

// [D*rows, columns] or [D*rows] as [D, rows, columns].
inline WeightView stacked_view(const Tensor* tensor, int64_t directions) {
  if (tensor == nullptr || tensor->numel() == 0) return {};
  const int64_t row_stride = tensor->stride(0);
  return {tensor->const_data_ptr(), tensor->size(0) / directions * row_stride, row_stride,
          tensor->dim() > 1 ? tensor->stride(1) : 0};
}

// Whether the dimensions from `first` on are contiguous.
inline bool has_dense_tail(const Tensor& tensor, int64_t first) {
  if (tensor.numel() == 0) return true;
  int64_t expected = 1;
  for (int64_t dim = tensor.dim() - 1; dim >= first; --dim) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != expected) return false;
    expected *= tensor.size(dim);
  }
  return true;
}

inline OptionalTensor with_dense_tail(const OptionalTensor& tensor, int64_t first) {
  return tensor.has_value() && !has_dense_tail(*tensor, first) ? torch::stable::contiguous(*tensor) : tensor;
}

// Checks what a call was given and gives views of it. Owns the copies of tensors that are not as contiguous as a view.
class Reader : public Checker {
 public:
  using Checker::Checker;
  static constexpr int64_t kAnyStrides = 64;  // beyond every dimension

  SequenceView<const void> sequence(Given tensor, const char* name, const char* dimensions, const Shape& expected) {
    const Tensor* const found = dense(tensor, name, dimensions, expected, 3);
    return found != nullptr ? sequence_view<const void>(*found) : SequenceView<const void>{};
  }
  StateView<const void> state(Given tensor, const char* name, const char* dimensions, const Shape& expected) {
    const Tensor* const found = dense(tensor, name, dimensions, expected, 2);
    return found != nullptr ? state_view<const void>(*found) : StateView<const void>{};
  }
  WeightView weight(Given tensor, const char* name, const char* dimensions, const Shape& expected) {
    const Tensor* const found = dense(tensor, name, dimensions, expected, kAnyStrides);
    return found != nullptr ? weight_view(*found) : WeightView{};
  }

  // The tensor, or a copy of it that is contiguous from a dimension on; null where none was given.
  const Tensor* dense(Given given, const char* name, const char* dimensions, const Shape& expected, int64_t first) {
    (*this)(given, name, dimensions, expected);
    return dense(given, first);
  }
  const Tensor* dense(Given given, int64_t first) {
    if (given.tensor == nullptr || has_dense_tail(*given.tensor, first)) return given.tensor;
    return &copies_.emplace_front(torch::stable::contiguous(*given.tensor));
  }

 private:
  std::forward_list<Tensor> copies_;
};

}  // namespace fused_rnn
