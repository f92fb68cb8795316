// How a kernel object is launched, on a GPU or in the emulator: the shape, and the errors of every call checked.
#pragma once

#include <cstddef>

#include "cuda/device.h"

#if !defined(__CUDACC__)
#include <cstring>
#include <stdexcept>
#endif

namespace fused_rnn::cuda {

using Stream = void*;  // cudaStream_t, so that callers need no CUDA header

struct LaunchShape {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned threads = kWarpLanes;
  size_t shared_bytes = 0;   // dynamic
  unsigned cluster = 1;      // blocks along x that reach each other's shared memory
  bool cooperative = false;  // all blocks resident at once, as sync_grid needs
};

#if defined(__CUDACC__)

[[noreturn]] void fail(cudaError_t error, const char* call);  // launch_error.h

inline void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) fail(error, call);
}

// Blocks that a multiprocessor should have room for; 0: as ptxas likes.
template <class Kernel>
constexpr int room_for_blocks() {
  if constexpr (requires { Kernel::kRoomForBlocks; }) return Kernel::kRoomForBlocks;
  return 0;
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, room_for_blocks<Kernel>())
    run_kernel(const __grid_constant__ Kernel kernel) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if constexpr (requires { requires Kernel::kNeedsClusters; }) {
    __trap();  // the host refuses the launch
  } else {
    kernel();
  }
#else
  kernel();
#endif
}

// Of the current device.
inline int device_attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

// A shape in the runtime's words; the attributes live as long as this.
template <class Kernel>
struct LaunchConfig {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};

  LaunchConfig(const LaunchShape& shape, Stream stream) {
    constexpr size_t kSharedWithoutAsking = 48 * 1024;
    constexpr unsigned kPortableCluster = 8;
    if (shape.shared_bytes > kSharedWithoutAsking) {
      // Always the most that there is: another thread may be launching the same kernel with another shape.
      const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
      check(cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
            "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)");
    }
    if (shape.cluster > kPortableCluster) {
      check(cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
            "cudaFuncSetAttribute(NonPortableClusterSizeAllowed)");
    }
    config.gridDim = dim3(shape.grid_x, shape.grid_y, shape.grid_z);
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    if (shape.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = shape.cluster;
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (shape.cooperative) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
  }
  LaunchConfig(const LaunchConfig&) = delete;
  LaunchConfig& operator=(const LaunchConfig&) = delete;
};

// Enqueues the kernel on a stream of the current device; throws std::runtime_error with the name of the failed call.
template <class Kernel>
void launch(const Kernel& kernel, const LaunchShape& shape, Stream stream) {
  const LaunchConfig<Kernel> launch_config(shape, stream);
  check(cudaLaunchKernelEx(&launch_config.config, run_kernel<Kernel>, kernel), "cudaLaunchKernelEx");
}

// Sets memory to zero, in the order of the stream.
inline void clear(void* data, size_t bytes, Stream stream) {
  check(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

// How many blocks of this shape the current device can run at once.
template <class Kernel>
int active_blocks(const LaunchShape& shape) {
  const LaunchConfig<Kernel> launch_config(shape, nullptr);
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, run_kernel<Kernel>, static_cast<int>(shape.threads),
                                                      shape.shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks * device_attribute(cudaDevAttrMultiProcessorCount);
}

// How many clusters of this shape; 0 also where the kernel was compiled without them or the device has none so large.
template <class Kernel>
int active_clusters(const LaunchShape& shape) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, run_kernel<Kernel>), "cudaFuncGetAttributes");
  if (attributes.ptxVersion < 90) return 0;
  if (shape.cluster == 1) return active_blocks<Kernel>(shape);  // the query below wants a size of clusters
  const LaunchConfig<Kernel> launch_config(shape, nullptr);
  int clusters = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, run_kernel<Kernel>, &launch_config.config);
  if (error == cudaErrorInvalidClusterSize) {
    cudaGetLastError();  // the answer is no; the error has been heard
    return 0;
  }
  check(error, "cudaOccupancyMaxActiveClusters");
  return clusters;
}

#else

// The emulator runs it to completion; a broken rule throws.
template <class Kernel>
void launch(const Kernel& kernel, const LaunchShape& shape, Stream /*stream*/) {
  static_assert(Kernel::kThreads <= 1024);
  if (shape.threads > Kernel::kThreads) throw std::runtime_error("more threads than the kernel's bound");
  emulator::run(
      {shape.grid_x, shape.grid_y, shape.grid_z, shape.threads, shape.shared_bytes, shape.cluster, shape.cooperative},
      [](const void* object) { (*static_cast<const Kernel*>(object))(); }, &kernel);
}

inline void clear(void* data, size_t bytes, Stream /*stream*/) { std::memset(data, 0, bytes); }

template <class Kernel>
int active_clusters(const LaunchShape& /*shape*/) {
  return 1;
}
template <class Kernel>
int active_blocks(const LaunchShape& /*shape*/) {
  return 1024;
}

#endif

}  // namespace fused_rnn::cuda
