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

  // The rows of a contiguous fp32 matrix on the CPU with so many columns; null: it is not one.
  const float* rows_of(nanobind::handle tensor, std::int64_t columns, int* rows) const {
    if (reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) != type_) return nullptr;
    dlpack::Tensor seen;
    if (exchange_->look_at(tensor.ptr(), &seen)) throw nanobind::python_error();
    const bool is_floats =
        seen.dtype.code == dlpack::kFloat && seen.dtype.bits == 32 && seen.dtype.lanes == 1;
    if (seen.device.type != dlpack::kCpu || !is_floats || seen.ndim != 2) return nullptr;
    if (seen.shape[1] != columns || seen.shape[0] < 1 || seen.shape[0] > INT32_MAX) return nullptr;
    const bool is_contiguous =
        !seen.strides ||
        (seen.strides[1] == 1 && (seen.shape[0] == 1 || seen.strides[0] == columns));
    if (!is_contiguous) return nullptr;
    *rows = static_cast<int>(seen.shape[0]);
    return reinterpret_cast<const float*>(static_cast<const char*>(seen.data) + seen.byte_offset);
  }

  // An empty matrix of fp32 on the CPU, and where its values go.
  nanobind::object empty(std::int64_t rows, std::int64_t columns, float** values) const {
    constexpr std::size_t kFirst = (sizeof(Block) + kLine - 1) / kLine * kLine;
    const std::size_t bytes = (rows * columns * sizeof(float) + kLine - 1) / kLine * kLine;
    void* const memory = std::aligned_alloc(kLine, kFirst + bytes);
    if (!memory) throw std::bad_alloc();
    Block* const block = new (memory) Block{};
    *values = reinterpret_cast<float*>(static_cast<char*>(memory) + kFirst);
    block->shape[0] = rows;
    block->shape[1] = block->strides[0] = columns;
    block->strides[1] = 1;
    block->managed.version = {dlpack::kMajor, 0};
    block->managed.free = [](dlpack::ManagedTensor* managed) { std::free(managed); };
    block->managed.tensor = {*values, {dlpack::kCpu, 0}, 2, {dlpack::kFloat, 32, 1}, block->shape,
                             block->strides, 0};
    void* object;
    if (exchange_->to_python(&block->managed, &object)) throw nanobind::python_error();
    return nanobind::steal(static_cast<PyObject*>(object));
  }

 private:
  static constexpr std::size_t kLine = 64;
  struct Block {  // what lies before the values, so that both are one allocation
    dlpack::ManagedTensor managed;
    std::int64_t shape[2], strides[2];
  };

  PyObject* type_;  // lives as long as the process
  const dlpack::Exchange* exchange_;
};

}  // namespace cmm
