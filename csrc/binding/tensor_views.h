// From tensors to the views of core/views.h.
#pragma once

#include <torch/csrc/stable/ops.h>

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

// The address so many elements further.
template <class Void>
Void* shifted(Void* data, int64_t elements, DataType type) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  return static_cast<Byte*>(data) + elements * element_size(type);
}

// [T, B, D, ...] with contiguous trailing dimensions. An absent or empty tensor gives the null view.
template <class Void>
SequenceView<Void> sequence_view(const Tensor& tensor) {
  if (tensor.numel() == 0) return {};
  return {data_of<Void>(tensor), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

template <class Void>
StateView<Void> state_view(const Tensor& tensor) {  // [D, B, H]
  if (tensor.numel() == 0) return {};
  return {data_of<Void>(tensor), tensor.stride(0), tensor.stride(1)};
}

inline SequenceView<const void> sequence_view(const OptionalTensor& tensor) {
  return tensor.has_value() ? sequence_view<const void>(*tensor) : SequenceView<const void>{};
}

inline StateView<const void> state_view(const OptionalTensor& tensor) {
  return tensor.has_value() ? state_view<const void>(*tensor) : StateView<const void>{};
}

// [D, B, ...] as the only step of a sequence.
inline SequenceView<void> rows_view(const Tensor& tensor) {
  if (tensor.numel() == 0) return {};
  return {tensor.mutable_data_ptr(), 0, tensor.stride(1), tensor.stride(0)};
}

inline WeightView weight_view(const OptionalTensor& tensor) {  // [D, rows] or [D, rows, columns]
  if (!tensor.has_value() || tensor->numel() == 0) return {};
  return {tensor->const_data_ptr(), tensor->stride(0), tensor->stride(1), tensor->dim() > 2 ? tensor->stride(2) : 0};
}

inline const int64_t* lengths_view(const OptionalTensor& tensor) {  // [B], contiguous
  return tensor.has_value() ? static_cast<const int64_t*>(tensor->const_data_ptr()) : nullptr;
}

inline ResetView reset_view(const OptionalTensor& tensor) {  // [T, B], any strides
  if (!tensor.has_value() || tensor->numel() == 0) return {};
  return {static_cast<const uint8_t*>(tensor->const_data_ptr()), tensor->stride(0), tensor->stride(1)};
}

// The tensor itself where the dimensions from `first` on are contiguous, otherwise a contiguous copy.
inline Tensor with_dense_tail(const Tensor& tensor, int64_t first) {
  int64_t expected = 1;
  for (int64_t dim = tensor.dim() - 1; dim >= first; --dim) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != expected) return torch::stable::contiguous(tensor);
    expected *= tensor.size(dim);
  }
  return tensor;
}

inline OptionalTensor with_dense_tail(const OptionalTensor& tensor, int64_t first) {
  return tensor.has_value() ? OptionalTensor(with_dense_tail(*tensor, first)) : std::nullopt;
}

}  // namespace fused_rnn
