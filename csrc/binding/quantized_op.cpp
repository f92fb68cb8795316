// The op torch.ops.fused_rnn.quantized_layer: a layer for inference on CPU with int8 weights. What they multiply, a row
// of x or h, is quantized when it comes (cpu/gemm/factor_rows.h); sums are exact, and the cell computes in float32.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "binding/cell_name.h"
#include "binding/describe.h"
#include "binding/recurrence_call.h"

namespace fused_rnn {

namespace {

// Products of bytes whose sum int32 holds.
constexpr int64_t kMostTerms = int64_t{1} << 16;

// Matrices in int8, and the factor of each of their rows.
struct QuantizedLayerTensors {
  const Tensor& x;                          // [T, B, I]
  const Tensor &w_ih, &w_ih_scale;          // [D*G*H, I], [D*G*H]
  const OptionalTensor& b_ih;               // [D*G*H]
  const Tensor &w_hh, &w_hh_scale;          // [D*G*H, P], [D*G*H]
  const OptionalTensor& b_hh;               // [D*G*H]
  const OptionalTensor &w_hr, &w_hr_scale;  // [D*P, H], [D*P]
  RowTensors rows;
};

std::tuple<Tensor, Tensor, Tensor> run_quantized_layer(const std::string& cell, const QuantizedLayerTensors& given,
                                                       int64_t directions) {
  using torch::headeronly::ScalarType;
  Reader read(given.x, "x");
  if (read.type() != DataType::kFloat32) fail(std::string("x must be float32, got ") + name_of(read.type()));
  const Extent extent = extent_of_layer(shape_of(given.x), directions);
  Problem p = describe(cell, read.type(), extent, given.w_hh, given.w_hr);
  p.quantized = true;
  p.keeps_weights = true;
  if (const int64_t most = std::max({p.input_size, p.hidden_size, p.output_size}); most > kMostTerms) {
    fail("sizes of a quantized layer must be at most " + std::to_string(kMostTerms) + ", got " + std::to_string(most));
  }
  ForwardViews views;
  const auto matrix = [&](Given tensor, const char* name, const char* dimensions, const Shape& expected) {
    read.typed(tensor, name, dimensions, expected, ScalarType::Char, "int8");
    return stacked_view(read.dense(tensor, 0), directions);
  };
  const auto vector = [&](Given tensor, const char* name, const char* dimensions, int64_t rows) {
    return stacked_view(read.dense(tensor, name, dimensions, {rows}, 0), directions);
  };
  const int64_t rows = directions * p.cell.gates * p.hidden_size, outputs = directions * p.output_size;
  views.w_ih = matrix(given.w_ih, "w_ih", "[D*G*H, I]", {rows, p.input_size});
  views.w_hh = matrix(given.w_hh, "w_hh", "[D*G*H, P]", {rows, p.output_size});
  views.w_hr = matrix(given.w_hr, "w_hr", "[D*P, H]", {outputs, p.hidden_size});
  views.scales.w_ih = vector(given.w_ih_scale, "w_ih_scale", "[D*G*H]", rows);
  views.scales.w_hh = vector(given.w_hh_scale, "w_hh_scale", "[D*G*H]", rows);
  views.scales.w_hr = vector(given.w_hr_scale, "w_hr_scale", "[D*P]", outputs);
  views.b_ih = vector(given.b_ih, "b_ih", "[D*G*H]", rows);
  views.b_hh = vector(given.b_hh, "b_hh", "[D*G*H]", rows);
  if (p.projected != given.w_hr_scale.has_value()) fail("w_hr_scale must be given with w_hr, and not without it");
  read_rows(views, read, p, given.rows);
  const Tensor& x = *read.dense(given.x, 2);
  if (x.numel() > 0) views.x = {x.const_data_ptr(), x.stride(0), x.stride(1), 0};

  const Allocator allocate(x);
  const ForwardBuffers made(p, allocate, false);
  made.view(views);
  run_forward(p, views, max_threads());
  return {reshaped(made.output, {p.time_steps, p.batch, outputs}), made.h_n, made.c_n};
}

// NOLINTNEXTLINE(readability-function-size): the schema's arguments
std::tuple<Tensor, Tensor, Tensor> quantized_layer(CellName cell, const Tensor& x, const Tensor& w_ih,
                                                   const Tensor& w_ih_scale, const OptionalTensor& b_ih,
                                                   const Tensor& w_hh, const Tensor& w_hh_scale,
                                                   const OptionalTensor& b_hh, const OptionalTensor& w_hr,
                                                   const OptionalTensor& w_hr_scale, const OptionalTensor& h_0,
                                                   const OptionalTensor& c_0, const OptionalTensor& lengths,
                                                   const OptionalTensor& resets, int64_t directions) {
  return run_quantized_layer(
      cell.take(), {x, w_ih, w_ih_scale, b_ih, w_hh, w_hh_scale, b_hh, w_hr, w_hr_scale, {h_0, c_0, lengths, resets}},
      directions);
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY_FRAGMENT(fused_rnn, m) {
  m.def(
      "quantized_layer(str cell, Tensor x, Tensor w_ih, Tensor w_ih_scale, Tensor? b_ih, Tensor w_hh,"
      " Tensor w_hh_scale, Tensor? b_hh, Tensor? w_hr, Tensor? w_hr_scale, Tensor? h_0, Tensor? c_0, Tensor? lengths,"
      " Tensor? resets, int directions) -> (Tensor output, Tensor h_n, Tensor c_n)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("quantized_layer", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::quantized_layer>::op));
}
