// The ops on CUDA tensors: choice of a schedule, workspace, stream, and the GEMMs of per_step.
#include <array>
#include <cstdlib>
#include <optional>
#include <vector>

#include "binding/cuda_backend.h"
#include "binding/cuda_stream.h"
#include "cuda/schedule.h"

// torch's GEMM without its dispatcher, which takes longer than a small GEMM. Weak for the reason of
// cuda_stream.h.
extern "C" [[gnu::weak]] AOTITorchError aoti_torch_cuda_mm_out(AtenTensorHandle result, AtenTensorHandle left,
                                                               AtenTensorHandle right);

namespace fused_rnn {

namespace {

// GEMMs with the weights through torch, which knows the libraries and its own switches for them. A step is short: what
// is the same in every step is made once.
class TorchProducts : public cuda::Products {
 public:
  TorchProducts(const Problem& problem, const RecurrenceTensors& given)
      : problem_(problem), given_(given), operands_(static_cast<size_t>(2 * problem.directions)) {}

  void multiply(cuda::Factor factor, const StateView<const void>& from, const StateView<void>& to) override {
    for (int64_t d = 0; d < problem_.directions; ++d) {
      const int64_t first = factor == cuda::Factor::kRecurrent ? 0 : problem_.directions;
      std::optional<Operands>& operands = operands_[static_cast<size_t>(first + d)];
      if (!operands || operands->from.data != from.data || operands->to.data != to.data) {
        operands.emplace(operands_of(factor, from, to, d));
      }
      if (aoti_torch_cuda_mm_out != nullptr) {
        TORCH_ERROR_CODE_CHECK(
            aoti_torch_cuda_mm_out(operands->result.get(), operands->left.get(), operands->matrix.get()));
      } else {
        multiply_by_dispatcher(*operands);
      }
    }
  }

 private:
  struct Operands {
    StateView<const void> from;
    StateView<void> to;
    Tensor left, matrix, result;
  };

  Operands operands_of(cuda::Factor factor, const StateView<const void>& from, const StateView<void>& to,
                       int64_t d) const {
    const Tensor& matrices = factor == cuda::Factor::kRecurrent ? given_.w_hh : *given_.w_hr;  // [D, rows, columns]
    const Tensor stored = torch::stable::select(matrices, 0, d);
    const Tensor matrix = problem_.backward ? stored : torch::stable::transpose(stored, 0, 1);
    const int64_t size = static_cast<int64_t>(given_.w_hh.element_size());
    const auto* source = static_cast<const unsigned char*>(from.data) + size * from.offset(d, 0);
    auto* target = static_cast<unsigned char*>(to.data) + size * to.offset(d, 0);
    // from_blob takes what it will not write as it takes what it will.
    const Tensor left = matrix_at(const_cast<unsigned char*>(source), matrix.size(0), from.row_stride);
    return {from, to, left, matrix, matrix_at(target, matrix.size(1), to.row_stride)};
  }
  Tensor matrix_at(void* data, int64_t columns, int64_t row_stride) const {
    return torch::stable::from_blob(data, {problem_.batch, columns}, {row_stride, 1}, given_.w_hh.device(),
                                    given_.w_hh.scalar_type());
  }
  static void multiply_by_dispatcher(const Operands& operands) {
    std::array<StableIValue, 3> stack{torch::stable::detail::from(operands.left),
                                      torch::stable::detail::from(operands.matrix),
                                      torch::stable::detail::from(operands.result)};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
    (void)torch::stable::detail::to<Tensor>(stack[0]);  // takes over the reference that the call returns
  }

  const Problem& problem_;
  const RecurrenceTensors& given_;
  std::vector<std::optional<Operands>> operands_;  // [factor][D]
};

}  // namespace

template <class Views>
void run_on_cuda(const Problem& problem, const Views& views, const Allocator& allocate,
                 const RecurrenceTensors& given) {
  const int device = allocate.model().get_device();
  const cuda::CurrentDevice current(device);
  const char* forced = cuda::offsets_fit(problem, views) ? std::getenv("FUSED_RNN_CUDA_SCHEDULE") : "per_step";
  const cuda::Option option = cuda::choose(problem, forced != nullptr ? forced : "");
  const Tensor workspace = allocate.bytes(option.all_workspace_bytes());
  TorchProducts products(problem, given);
  cuda::run(problem, option, views, products, workspace.mutable_data_ptr(), current_stream(device));
}
template void run_on_cuda(const Problem&, const ForwardViews&, const Allocator&, const RecurrenceTensors&);
template void run_on_cuda(const Problem&, const BackwardViews&, const Allocator&, const RecurrenceTensors&);

}  // namespace fused_rnn
