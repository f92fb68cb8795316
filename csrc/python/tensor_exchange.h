// How torch shows a tensor to other libraries without Python: the part of DLPack's C exchange API, version 1, that a
// reader of borrowed memory needs. (torch's own header of it is not for libraries of its stable ABI.) The layouts are
// those of https://dmlc.github.io/dlpack/latest/c_api.html.
#pragma once

#include <cstdint>

namespace fused_rnn::exchange {

inline constexpr uint32_t kMajorVersion = 1;
inline constexpr int32_t kCpu = 1;        // a device type
inline constexpr uint8_t kFloatCode = 2;  // IEEE floating point

struct Device {
  int32_t type, index;
};

struct ElementType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct TensorInMemory {
  void* data;
  Device device;
  int32_t dimensions;
  ElementType type;
  int64_t *shape, *strides;  // in elements; strides may be null: contiguous
  uint64_t byte_offset;
};

struct Api {
  uint32_t major_version, minor_version;
  const void* previous;
  void (*unused[3])();  // for memory that changes its owner
  // Of a tensor of Python, as long as the call that was given it runs; not 0 where it raised an error.
  int (*view)(void* python_tensor, TensorInMemory* view);
  void (*stream)();
};

}  // namespace fused_rnn::exchange
