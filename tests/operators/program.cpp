// A program without Python that runs a traced module and a package of AOTInductor with the operators of fused_rnn.
//
//     program OPERATORS TRACE PACKAGE T B I OUTPUT
//
// The input is x[i] = sin(i), float32 [T, B, I]. The first output of both is written to OUTPUT as it lies in memory.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

namespace {

void write(std::ofstream& file, const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  file.write(static_cast<const char*>(plain.data_ptr()), static_cast<std::streamsize>(plain.nbytes()));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 8) return 2;
  if (dlopen(arguments[1], RTLD_NOW) == nullptr) {
    std::printf("%s\n", dlerror());
    return 1;
  }
  at::set_num_threads(1);
  const auto size = [&](int i) { return std::atoll(arguments[i]); };
  const at::Tensor x = at::arange(size(4) * size(5) * size(6), at::kFloat).sin().view({size(4), size(5), size(6)});
  std::ofstream file(arguments[7], std::ios::binary);
  torch::jit::Module module = torch::jit::load(arguments[2]);
  write(file, module.forward({x}).toTuple()->elements()[0].toTensor());
  torch::inductor::AOTIModelPackageLoader package(arguments[3]);
  write(file, package.run({x})[0]);
  return 0;
}
