// Tensors: torch's, read and made from C++ without a call of Python, where its version offers that.
//
// Each call of Python that a kernel is wrapped in takes as long as one or two levels of a tree, and
// an empty tensor of torch's own as long as four.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdlib>
#include <new>

#include "dlpack.hpp"

namespace cmm {

// Where tokens lie one behind the other, and the dimensions (..., columns) of their tensor.
struct Rows {
  const float* values;
  int num;
  int ndim;
  const std::int64_t* shape;  // the tensor's own
};

class Tensors {
 public:
  // Of `type`, which is torch.Tensor; throws what Python raises where it offers no exchange.
  explicit Tensors(nanobind::type_object type) : type_(type.ptr()) {
    const nanobind::object capsule = type.attr("__dlpack_c_exchange_api__");
    exchange_ = static_cast<const dlpack::Exchange*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!exchange_) throw nanobind::python_error();
    if (exchange_->version.major != dlpack::kMajor || !exchange_->look_at)
      throw nanobind::attribute_error("another version of DLPack's exchange");
  }

  // The rows of a contiguous fp32 tensor (..., columns) on the CPU; false: it is not one.
  bool rows_of(nanobind::handle tensor, std::int64_t columns, Rows* rows) const {
    if (reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) != type_) return false;
    dlpack::Tensor seen;
    if (exchange_->look_at(tensor.ptr(), &seen)) throw nanobind::python_error();
    const bool is_floats =
        seen.dtype.code == dlpack::kFloat && seen.dtype.bits == 32 && seen.dtype.lanes == 1;
    if (seen.device.type != dlpack::kCpu || !is_floats) return false;
    if (seen.ndim < 1 || seen.ndim > kMaxDims || seen.shape[seen.ndim - 1] != columns) return false;
    std::int64_t size = 1;  // of what lies behind a dimension
    for (int d = seen.ndim - 1; d >= 0; --d) {
      if (seen.shape[d] != 1 && seen.strides && seen.strides[d] != size) return false;
      size *= seen.shape[d];
    }
    if (size < columns || size / columns > INT32_MAX) return false;
    const auto* const first = static_cast<const char*>(seen.data) + seen.byte_offset;
    *rows = {reinterpret_cast<const float*>(first), static_cast<int>(size / columns), seen.ndim,
             seen.shape};
    return true;
  }

  // An empty tensor of fp32 on the CPU for rows of so many columns, and where its values go.
  nanobind::object empty_for(const Rows& rows, std::int64_t columns, float** values) const {
    constexpr std::size_t kFirst = (sizeof(Block) + kLine - 1) / kLine * kLine;
    const std::size_t bytes = rows.num * columns * sizeof(float);
    void* const memory = std::aligned_alloc(kLine, kFirst + (bytes + kLine - 1) / kLine * kLine);
    if (!memory) throw std::bad_alloc();
    Block* const block = new (memory) Block;
    *values = reinterpret_cast<float*>(static_cast<char*>(memory) + kFirst);
    std::int64_t size = 1;
    for (int d = rows.ndim - 1; d >= 0; --d) {
      block->shape[d] = d == rows.ndim - 1 ? columns : rows.shape[d];
      block->strides[d] = size;
      size *= block->shape[d];
    }
    block->managed = {};
    block->managed.version = {dlpack::kMajor, 0};
    block->managed.free = [](dlpack::ManagedTensor* managed) { std::free(managed); };
    block->managed.tensor = {*values, {dlpack::kCpu, 0}, rows.ndim, {dlpack::kFloat, 32, 1},
                             block->shape, block->strides, 0};
    void* object;
    if (exchange_->to_python(&block->managed, &object)) throw nanobind::python_error();
    return nanobind::steal(static_cast<PyObject*>(object));
  }

 private:
  static constexpr std::size_t kLine = 64;
  static constexpr int kMaxDims = 6;
  struct Block {  // what lies before the values, so that both are one allocation
    dlpack::ManagedTensor managed;
    std::int64_t shape[kMaxDims], strides[kMaxDims];
  };

  PyObject* type_;  // lives as long as the process
  const dlpack::Exchange* exchange_;
};

}  // namespace cmm
