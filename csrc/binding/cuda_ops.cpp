// The ops on CUDA tensors: choice of a schedule, workspace, stream, and the matrix products of per_step.
#include <array>
#include <cstdlib>

#include "binding/cuda_backend.h"
#include "binding/cuda_stream.h"
#include "cuda/schedule.h"

namespace fused_rnn {

namespace {

// Products of the weights through torch, which knows the libraries and its own switches for them.
class TorchProducts : public cuda::Products {
 public:
  TorchProducts(const Problem& problem, const Tensor& w_hh, const OptionalTensor& w_hr)
      : problem_(problem), w_hh_(w_hh), w_hr_(w_hr) {}

  void multiply(cuda::Factor factor, const StateView<const void>& from, const StateView<void>& to) override {
    const Tensor& matrices = factor == cuda::Factor::kRecurrent ? w_hh_ : *w_hr_;  // [D, rows, columns]
    const int64_t size = static_cast<int64_t>(w_hh_.element_size());
    for (int64_t d = 0; d < problem_.directions; ++d) {
      const Tensor stored = torch::stable::select(matrices, 0, d);
      const Tensor matrix = problem_.backward ? stored : torch::stable::transpose(stored, 0, 1);
      const auto* source = static_cast<const unsigned char*>(from.data) + size * from.offset(d, 0);
      auto* target = static_cast<unsigned char*>(to.data) + size * to.offset(d, 0);
      // from_blob takes what it will not write as it takes what it will.
      const Tensor left = matrix_at(const_cast<unsigned char*>(source), matrix.size(0), from.row_stride);
      const Tensor result = matrix_at(target, matrix.size(1), to.row_stride);
      std::array<StableIValue, 3> stack{torch::stable::detail::from(left), torch::stable::detail::from(matrix),
                                        torch::stable::detail::from(result)};
      TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
      (void)torch::stable::detail::to<Tensor>(stack[0]);  // takes over the reference that the call returns
    }
  }

 private:
  Tensor matrix_at(void* data, int64_t columns, int64_t row_stride) const {
    return torch::stable::from_blob(data, {problem_.batch, columns}, {row_stride, 1}, w_hh_.device(),
                                    w_hh_.scalar_type());
  }

  const Problem& problem_;
  const Tensor& w_hh_;
  const OptionalTensor& w_hr_;
};

template <class Views>
void run(const Problem& problem, const Views& views, const Allocator& allocate, const Tensor& w_hh,
         const OptionalTensor& w_hr, bool allow_tf32) {
  const int device = allocate.model().get_device();
  const cuda::CurrentDevice current(device);
  const char* forced = cuda::offsets_fit(problem, views) ? std::getenv("FUSED_RNN_CUDA_SCHEDULE") : "per_step";
  const cuda::Option option = cuda::choose(problem, allow_tf32, forced != nullptr ? forced : "");
  const Tensor workspace = allocate.bytes(option.workspace_bytes);
  TorchProducts products(problem, w_hh, w_hr);
  cuda::run(problem, allow_tf32, option, views, products, workspace.mutable_data_ptr(), current_stream(device));
}

}  // namespace

void run_on_cuda(const Problem& problem, const ForwardViews& views, const Allocator& allocate, const Tensor& w_hh,
                 const OptionalTensor& w_hr, bool allow_tf32) {
  run(problem, views, allocate, w_hh, w_hr, allow_tf32);
}
void run_on_cuda(const Problem& problem, const BackwardViews& views, const Allocator& allocate, const Tensor& w_hh,
                 const OptionalTensor& w_hr, bool allow_tf32) {
  run(problem, views, allocate, w_hh, w_hr, allow_tf32);
}

}  // namespace fused_rnn
