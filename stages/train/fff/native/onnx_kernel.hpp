// The kernel behind a node of a graph: its weights packed once, and what it answers.
#pragma once

#include <climits>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_interface.hpp"
#include "packing.hpp"
#include "run.hpp"

namespace cmm {

using Dims = std::vector<std::int64_t>;

// What ONNX Runtime itself said was wrong; whoever catches it hands it on.
struct Refused {
  ort::Status* status;
};
inline void check(ort::Status* status) {
  if (status) throw Refused{status};
}

inline std::string text(const Dims& dims) {
  std::string all;
  for (const std::int64_t dim : dims) all += (all.empty() ? "" : ", ") + std::to_string(dim);
  return "(" + all + ")";
}

inline Dims dims_of(const ort::Functions* api, const ort::Value* value) {
  ort::Shape* found;
  check(ort::ShapeOf::call(api, value, &found));
  const auto release = [api](ort::Shape* shape) { ort::ReleaseShape::call(api, shape); };
  const std::unique_ptr<ort::Shape, decltype(release)> shape(found, release);
  std::size_t num;
  check(ort::NumDims::call(api, found, &num));
  Dims dims(num);
  check(ort::Dims::call(api, found, dims.data(), num));
  return dims;
}

inline float* data_of(const ort::Functions* api, const ort::Value* value) {
  void* data;
  check(ort::DataOf::call(api, value, &data));
  return static_cast<float*>(data);
}

// What a node says of itself.
class Node {
 public:
  Node(const ort::Functions* api, const ort::KernelInfo* info) : api_(api), info_(info) {}

  int number(const char* name, int least, int most) const {
    std::int64_t value;
    check(ort::IntAttribute::call(api_, info_, name, &value));
    if (value < least || value > most)
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                  ", and must be from " + std::to_string(least) + " to " +
                                  std::to_string(most));
    return static_cast<int>(value);
  }

  int number_or(const char* name, int least, int most, int otherwise) const {
    std::int64_t value;
    ort::Status* const status = ort::IntAttribute::call(api_, info_, name, &value);
    if (!status) return number(name, least, most);
    ort::ReleaseStatus::call(api_, status);
    return otherwise;
  }

  Activation activation() const {
    static const char* const names[] = {"gelu", "gelu_tanh", "relu", "silu"};
    std::size_t size = 0;  // with the zero at its end
    check(ort::TextAttribute::call(api_, info_, "activation", nullptr, &size));
    std::string name(size, '\0');
    check(ort::TextAttribute::call(api_, info_, "activation", name.data(), &size));
    name.resize(size - 1);
    for (int i = 0; i < 4; ++i)
      if (name == names[i]) return static_cast<Activation>(i);
    throw std::invalid_argument("activation is '" + name +
                                "', and must be gelu, gelu_tanh, relu or silu");
  }

  std::size_t num_inputs() const {
    std::size_t num;
    check(ort::NumInputs::call(api_, info_, &num));
    return num;
  }

  const ort::Value* constant(std::size_t index, const char* name) const {
    int is_constant = 0;
    const ort::Value* value = nullptr;
    check(ort::ConstantInput::call(api_, info_, index, &is_constant, &value));
    if (!is_constant)
      throw std::invalid_argument(std::string(name) +
                                  " is computed by the graph, and must be an initializer: weights "
                                  "are packed once, when the graph is loaded");
    return value;
  }

  // An initializer of exactly that shape.
  const float* weights(std::size_t index, const char* name, const Dims& wanted) const {
    const ort::Value* const value = constant(index, name);
    const Dims dims = dims_of(api_, value);
    if (dims != wanted)
      throw std::invalid_argument(std::string(name) + " is " + text(dims) + ", and " +
                                  text(wanted) + " is needed");
    return data_of(api_, value);
  }

  int columns(std::size_t index, const char* name) const {
    const Dims dims = dims_of(api_, constant(index, name));
    if (dims.size() != 2 || dims[1] < 1 || dims[1] > kMostColumns)
      throw std::invalid_argument(std::string(name) + " is " + text(dims) +
                                  ", and (neurons, columns) is needed");
    return static_cast<int>(dims[1]);
  }

 private:
  static constexpr std::int64_t kMostColumns = 1 << 24;
  const ort::Functions* api_;
  const ort::KernelInfo* info_;
};

// Inputs of the node: x (..., in), w_in (neurons, in), w_out (neurons, out), and both or neither of
// b_in (neurons) and b_out (out); neurons of trees one after the other, each numbered as a heap.
class OnnxKernel {
 public:
  OnnxKernel(const ort::Functions* api, const Node& node)
      : api_(api), threads_(node.number_or("threads", 1, 1024, 1)) {
    forest_.levels = node.number("depth", 0, kMaxLevels - 1) + 1;
    forest_.trees = node.number("trees", 1, 1 << 20);
    forest_.activation = node.activation();
    forest_.weights = Weights::fp32;
    forest_.in = node.columns(1, "w_in");
    forest_.out = node.columns(2, "w_out");
    const std::int64_t neurons = forest_.trees * static_cast<std::int64_t>(forest_.nodes());
    const std::size_t given = node.num_inputs();
    if (given != 3 && given != 5) throw std::invalid_argument("b_in and b_out go together");
    const bool has_bias = given == 5;
    const float* const w_in = node.weights(1, "w_in", {neurons, forest_.in});
    const float* const w_out = node.weights(2, "w_out", {neurons, forest_.out});
    const float* const b_in = has_bias ? node.weights(3, "b_in", {neurons}) : nullptr;
    const float* const b_out = has_bias ? node.weights(4, "b_out", {forest_.out}) : nullptr;
    if (has_bias) b_out_.assign(b_out, b_out + forest_.out);
    records_ = std::make_unique<Pages>(neurons * forest_.record());
    pack(forest_, w_in, w_out, b_in, records_->begin());
    forest_.records = records_->begin();
    forest_.b_out = has_bias ? b_out_.data() : nullptr;
  }

  void compute(ort::KernelContext* context) const {
    const ort::Value* x;
    check(ort::Input::call(api_, context, 0, &x));
    Dims dims = dims_of(api_, x);
    if (dims.empty() || dims.back() != forest_.in)
      throw std::invalid_argument("x is " + text(dims) + ", and (..., " +
                                  std::to_string(forest_.in) + ") is needed");
    const std::int64_t tokens = std::accumulate(dims.begin(), dims.end() - 1, std::int64_t(1),
                                                std::multiplies<std::int64_t>());
    if (tokens > INT_MAX) throw std::invalid_argument("x has more than 2^31 - 1 rows");
    dims.back() = forest_.out;
    ort::Value* out;
    check(ort::Output::call(api_, context, 0, dims.data(), dims.size(), &out));
    run(*isas().front().kernels, forest_, data_of(api_, x), forest_.in, data_of(api_, out),
        forest_.out, static_cast<int>(tokens), threads_);
  }

 private:
  const ort::Functions* api_;
  Forest forest_{};
  int threads_;
  std::vector<float> b_out_;
  std::unique_ptr<Pages> records_;
};

}  // namespace cmm
