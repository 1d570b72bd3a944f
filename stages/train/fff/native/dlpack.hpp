// The part of DLPack's stable interface in C that tensors.hpp needs: version 1, as
// https://github.com/dmlc/dlpack/blob/main/include/dlpack/dlpack.h has it.
//
// Declared here and not included: the wheel of torch has a copy, but the package is built without
// torch. Names and order are DLPack's; what is not used stays a plain pointer.
#pragma once

#include <cstdint>

namespace cmm::dlpack {

constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;
constexpr std::uint8_t kFloat = 2;

struct Device {
  std::int32_t type, id;
};
struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous
  std::uint64_t byte_offset;
};
struct Version {
  std::uint32_t major, minor;
};
struct ManagedTensor {  // DLManagedTensorVersioned
  Version version;
  void* context;  // of who made it
  void (*free)(ManagedTensor*);  // on any thread
  std::uint64_t flags;
  Tensor tensor;
};

// What `type(tensor).__dlpack_c_exchange_api__` points to. They are asked on the thread that
// holds Python's lock, and return 0, or -1 with an error set.
struct Exchange {
  Version version;
  void* older;
  void* allocate;
  void* to_managed;
  int (*to_python)(ManagedTensor* taken, void** object);
  int (*look_at)(void* object, Tensor* seen);  // null: not offered
  void* current_work_stream;
};

}  // namespace cmm::dlpack
