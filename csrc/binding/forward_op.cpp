// The op torch.ops.fused_rnn.forward: a recurrence over a whole sequence, given the gates of x.
//
// Registered through torch's LibTorch stable ABI, so that one binary serves every torch from the target version on.
#include <torch/csrc/stable/library.h>

#include "binding/cell_name.h"
#include "binding/cuda_backend.h"
#include "binding/describe.h"
#include "binding/recurrence_call.h"

namespace fused_rnn {

namespace {

ForwardResult run_forward(const std::string& cell, const ForwardTensors& given, bool save, bool round_factors,
                          int64_t heads) {
  Reader read(given.gates, "gates");
  const auto& [w_hh, w_hr, rows, variant] = given.recurrence;
  Problem p = describe(cell, read.type(), extent_of(given.gates, "gates", heads), w_hh, w_hr, variant);
  p.keeps_weights = keeps_weights(p, save);
  p.rounds_factors = round_factors;
  if (p.normalized && given.b_hh.has_value()) fail("b_hh must be None where there is a norm, which has the biases");
  ForwardViews views;
  views.gates = read.sequence(given.gates, "gates", "[T, B, D, G, H]",
                              {p.time_steps, p.batch, p.directions, p.cell.gates, p.hidden_size});
  views.b_hh = read.weight(given.b_hh, "b_hh", "[D, R*H]", {p.directions, p.cell.recurrent_gates * p.hidden_size});
  read_recurrence(views, read, p, given.recurrence);
  const Allocator allocate(given.gates);
  const ForwardBuffers made(p, allocate, save);
  made.view(views);
  if (given.gates.is_cpu()) {
    run_forward(p, views, max_threads());
  } else {
    run_on_cuda(p, views, allocate, given.recurrence);
  }
  return made.result();
}

// NOLINTNEXTLINE(readability-function-size): the schema's arguments
ForwardResult forward(CellName cell, const Tensor& gates, const Tensor& w_hh, const OptionalTensor& b_hh,
                      const OptionalTensor& w_hr, const OptionalTensor& h_0, const OptionalTensor& c_0,
                      const OptionalTensor& unit_weights, const OptionalTensor& norm, const OptionalTensor& lengths,
                      const OptionalTensor& resets, const OptionalTensor& zoneout, const OptionalTensor& recurrent_mask,
                      bool save, bool round_factors, int64_t heads) {
  const RecurrenceTensors recurrence{
      w_hh, w_hr, {h_0, c_0, lengths, resets}, {unit_weights, norm, zoneout, recurrent_mask}};
  return run_forward(cell.take(), {gates, b_hh, recurrence}, save, round_factors, heads);
}

}  // namespace

}  // namespace fused_rnn

STABLE_TORCH_LIBRARY(fused_rnn, m) {
  m.def(
      "forward(str cell, Tensor gates, Tensor w_hh, Tensor? b_hh, Tensor? w_hr, Tensor? h_0, Tensor? c_0,"
      " Tensor? unit_weights, Tensor? norm, Tensor? lengths, Tensor? resets, Tensor? zoneout,"
      " Tensor? recurrent_mask, bool save, bool round_factors, int heads=1)"
      " -> (Tensor output, Tensor h_n, Tensor c_n, Tensor cells, Tensor saved, Tensor hidden)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CPU, m) {
  m.impl("forward", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::forward>::op));
}
STABLE_TORCH_LIBRARY_IMPL(fused_rnn, CUDA, m) {
  m.impl("forward", TORCH_BOX(&fused_rnn::Completed<&fused_rnn::forward>::op));
}
