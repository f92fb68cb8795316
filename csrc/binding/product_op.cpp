// The op torch.ops.fused_rnn.product: the GEMM of cpu/gemm/matrix_product.h for tensors of any strides.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "binding/allocator.h"
#include "binding/recurrence_call.h"
#include "binding/tensor_views.h"
#include "cpu/runtime/workspace.h"

namespace fused_rnn {

namespace {

// `wide`: the result in the type that half types are computed in.
Tensor product(const Tensor& left, const Tensor& right, const OptionalTensor& bias, bool wide, bool round_factors) {
  const Checker check(left, "left");
  if (left.dim() != 2) fail("left must have shape [M, K], got " + to_string(shape_of(left)));
  if (right.dim() != 2) fail("right must have shape [K, N], got " + to_string(shape_of(right)));
  const int64_t rows = left.size(0), depth = left.size(1), columns = right.size(1);
  check(right, "right", "[K, N]", {depth, columns});
  check(bias, "bias", "[N]", {columns});
  const Allocator allocate(left);
  const bool round = !wide && computed_in(check.type()) != check.type();
  const Tensor result = wide ? allocate.computed({rows, columns}) : allocate(true, {rows, columns});
  if (rows == 0 || columns == 0) return result;
  const OptionalTensor dense = with_dense_tail(bias, 0);
  std::optional<Workspace> parts;  // of sums
  if (round && depth > kPanelDepth)
    parts.emplace(Workspace::Key{}, static_cast<size_t>(rows * columns) * sizeof(float));
  void* const sums = parts.has_value() ? parts->data() : nullptr;
  multiply({{.type = check.type(),
             .rounds_factors = round_factors,
             .rows = rows,
             .depth = depth,
             .a = {left.const_data_ptr(), left.stride(0), left.stride(1)},
             .factors = {{.columns = columns,
                          .b = {right.const_data_ptr(), right.stride(0), right.stride(1)},
                          .bias = dense.has_value() ? dense->const_data_ptr() : nullptr,
                          .c = round ? sums : result.mutable_data_ptr(),
                          .rounded = round ? result.mutable_data_ptr() : nullptr}}}},
           max_threads());
  return result;
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def("product(Tensor left, Tensor right, Tensor? bias, bool wide, bool round_factors) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) { m.impl("product", TORCH_BOX(&fused_rnn::product)); }
