// The op torch.ops.fused_rnn.product: the matrix product of cpu/matrix_product.h for tensors of any strides.
#include <torch/csrc/stable/library.h>

#include "binding/allocator.h"
#include "binding/multiply.h"
#include "binding/tensor_views.h"

namespace fused_rnn {

namespace {

Tensor product(const Tensor& left, const Tensor& right, const OptionalTensor& bias) {
  const Checker check(left, "left");
  if (check.type() != DataType::kFloat32 && check.type() != DataType::kFloat64) {
    fail(std::string("left must be float32 or float64, got ") + name_of(check.type()));
  }
  if (left.dim() != 2) fail("left must have shape [M, K], got " + to_string(shape_of(left)));
  if (right.dim() != 2) fail("right must have shape [K, N], got " + to_string(shape_of(right)));
  const int64_t rows = left.size(0), depth = left.size(1), columns = right.size(1);
  check(right, "right", "[K, N]", {depth, columns});
  check(bias, "bias", "[N]", {columns});
  const Allocator allocate(left);
  const Tensor result = allocate(true, {rows, columns});
  if (rows == 0 || columns == 0) return result;
  const OptionalTensor dense = with_dense_tail(bias, 0);
  multiply_on_cpu({{.type = check.type(),
                    .rows = rows,
                    .depth = depth,
                    .a = {left.const_data_ptr(), left.stride(0), left.stride(1)},
                    .factors = {{.columns = columns,
                                 .b = {{depth, {right.const_data_ptr(), right.stride(0), right.stride(1)}}},
                                 .bias = dense.has_value() ? dense->const_data_ptr() : nullptr,
                                 .c = result.mutable_data_ptr()}}}});
  return result;
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) { m.def("product(Tensor left, Tensor right, Tensor? bias) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) { m.impl("product", TORCH_BOX(&fused_rnn::product)); }
