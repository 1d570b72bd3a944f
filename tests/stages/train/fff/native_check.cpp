// Check: the kernels of every instruction set that this processor has, against sums in float64.
//
// It needs no Python, so that it can also be built for other processors and run in emulation.
// Prints one line for each instruction set; exits with 1 and says what is wrong.
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "packing.hpp"
#include "run.hpp"

namespace {

using cmm::Activation;
using cmm::Forest;
using cmm::Isa;
using cmm::Weights;
using Floats = std::vector<float>;

constexpr int kTokens = 600;
constexpr double kLargestError = 1e-6;  // relative to the largest output of the batch
constexpr float kUntouched = 12345.0f;  // stands where nothing is to be written
constexpr int kSpareX = 3, kSpareOut = 2;  // columns between rows

// Logits of this size are sums of small integers: exact, many of them 0, and int8's scale is 1.
constexpr float kWhole = 4.0f;

Floats values(std::size_t num, float deviation) {
  static std::mt19937 bits(0);
  Floats all(num);
  for (float& value : all) value = (bits() * 0x1p-32f - 0.5f) * std::sqrt(12.0f) * deviation;
  return all;
}

float bf16_of(float value) {  // to nearest even; of numbers
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

// --- layers -------------------------------------------------------------------------------------

struct Shape {
  int in, out, depth, trees;
};

struct Layer {
  Forest forest;
  Floats w_in, w_out, b_in, b_out;  // as kernels read them; neurons of a tree numbered as a heap
  std::unique_ptr<cmm::Pages> records;
  bool has_exact_logits;

  Layer(const Shape& shape, Weights weights, Activation activation, bool bias, float logits)
      : forest{nullptr, nullptr, shape.in, shape.out, shape.depth + 1, shape.trees, weights,
               activation},
        has_exact_logits(logits == kWhole) {
    w_in = values(neurons() * shape.in, logits / std::sqrt(float(shape.in)));
    w_out = values(neurons() * shape.out, 1.0f);
    if (bias) {
      b_in = values(neurons(), 0.5f);
      b_out = values(shape.out, 1.0f);
    }
    if (has_exact_logits)
      for (std::size_t i = 0; i < w_in.size(); ++i)
        w_in[i] = i % shape.in ? std::nearbyint(w_in[i]) : 127.0f;  // where x is 0
    pack();
  }
  std::size_t neurons() const { return forest.trees * forest.nodes(); }
  int x_stride() const { return forest.in + kSpareX; }
  void pack();
};

// Write a row as packed.py lays it out, make of `row` what a kernel reads there, return its scale.
float put(const Forest& f, float* row, int columns, std::byte* to) {
  if (f.weights == Weights::bf16) {
    for (int j = 0; j < columns; ++j) {
      row[j] = bf16_of(row[j]);
      const int at = j / cmm::kBlock * cmm::kBlock + j % 16 * 2 + j % cmm::kBlock / 16;
      std::memcpy(to + at * 2, reinterpret_cast<const std::byte*>(row + j) + 2, 2);
    }
    return 1.0f;
  }
  float largest = 0.0f;
  for (int j = 0; j < columns; ++j) largest = std::fmax(largest, std::fabs(row[j]));
  const float scale = std::fmax(largest / 127, std::numeric_limits<float>::min());
  for (int j = 0; j < columns; ++j) {
    const float whole = std::nearbyint(row[j] / scale);
    to[j] = static_cast<std::byte>(static_cast<signed char>(whole));
    row[j] = whole * scale;
  }
  return scale;
}

void Layer::pack() {
  Forest& f = forest;
  records = std::make_unique<cmm::Pages>(neurons() * f.record());
  f.records = records->begin();
  f.b_out = b_out.empty() ? nullptr : b_out.data();
  const float* const bias = b_in.empty() ? nullptr : b_in.data();
  if (f.weights == Weights::fp32)
    return cmm::pack(f, w_in.data(), w_out.data(), bias, records->begin());
  const std::size_t nodes = f.nodes();
  const std::vector<std::size_t> place = cmm::preorder(f);
  for (std::size_t k = 0; k < neurons(); ++k) {
    const std::size_t at = k / nodes * nodes + place[k % nodes];
    std::byte* const record = records->begin() + at * f.record();
    cmm::Head head{bias ? bias[k] : 0.0f, 1.0f, 1.0f};
    head.in_scale = put(f, &w_in[k * f.in], f.in, record + cmm::kHead);
    head.out_scale = put(f, &w_out[k * f.out], f.out, record + f.out_at());
    std::memcpy(record, &head, sizeof head);
  }
}

Floats tokens_of(const Layer& layer) {
  Floats x = values(kTokens * layer.x_stride(), 1.0f);
  if (layer.has_exact_logits)
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = i % layer.x_stride() ? std::nearbyint(x[i]) : 0.0f;
  return x;
}

// --- what is wanted -----------------------------------------------------------------------------

struct Wanted {
  std::vector<double> out;    // (tokens, out)
  std::vector<bool> is_sure;  // no logit is so close to 0 that fp32 may round it to its other side
  double largest = 0.0;
  int num_sure = 0, num_zeros = 0;  // tokens; logits
};

double activated(Activation kind, double z) {
  switch (kind) {
    case Activation::gelu: return 0.5 * z * std::erfc(-z / std::sqrt(2.0));
    case Activation::gelu_tanh: {
      const double u = std::sqrt(2.0 / std::acos(-1.0)) * (z + 0.044715 * z * z * z);
      return 0.5 * z * (1.0 + std::tanh(u));
    }
    case Activation::relu: return z > 0.0 ? z : 0.0;
    case Activation::silu: return z / (1.0 + std::exp(-z));
  }
  return z;
}

Wanted wanted_of(const Layer& layer, const Floats& x) {
  const Forest& f = layer.forest;
  Wanted wanted;
  for (int t = 0; t < kTokens; ++t) {
    Floats row(&x[t * layer.x_stride()], &x[t * layer.x_stride() + f.in]);
    if (f.weights == Weights::bf16)
      for (float& value : row) value = bf16_of(value);
    std::vector<double> out(layer.b_out.begin(), layer.b_out.end());
    out.resize(f.out);
    bool is_sure = true;
    for (int tree = 0; tree < f.trees; ++tree)
      for (std::size_t level = 0, node = 0; level < std::size_t(f.levels); ++level) {
        const std::size_t k = tree * f.nodes() + node;
        double z = layer.b_in.empty() ? 0.0 : layer.b_in[k], size = std::fabs(z);
        for (int j = 0; j < f.in; ++j) {
          const double product = double(row[j]) * layer.w_in[k * f.in + j];
          z += product;
          size += std::fabs(product);
        }
        is_sure &= layer.has_exact_logits || std::fabs(z) > 1e-6 * size;
        wanted.num_zeros += z == 0.0;
        const double hidden = activated(f.activation, z);
        for (int j = 0; j < f.out; ++j) out[j] += hidden * layer.w_out[k * f.out + j];
        node = 2 * node + 1 + (z > 0.0);
      }
    for (const double value : out) wanted.largest = std::fmax(wanted.largest, std::fabs(value));
    wanted.out.insert(wanted.out.end(), out.begin(), out.end());
    wanted.is_sure.push_back(is_sure);
    wanted.num_sure += is_sure;
  }
  return wanted;
}

// --- what is answered ---------------------------------------------------------------------------

[[noreturn]] void fail(const Isa& isa, const Layer& layer, const std::string& what) {
  const Forest& f = layer.forest;
  const int kinds[] = {int(f.weights), int(f.activation), f.in, f.out, f.levels, f.trees};
  std::string name = std::string(isa.name) + ", weights activation in out levels trees";
  for (const int kind : kinds) name += " " + std::to_string(kind);
  throw std::runtime_error(name + (f.b_out ? " with bias: " : " without bias: ") + what);
}

// The outputs (num, out) of tokens from `begin` on.
Floats answers(const Isa& isa, const Layer& layer, const Floats& x, int begin, int num,
               int threads) {
  const std::size_t columns = layer.forest.out, stride = columns + kSpareOut;
  Floats wide((num + 1) * stride, kUntouched), out;
  cmm::run(*isa.kernels, layer.forest, x.data() + begin * layer.x_stride(), layer.x_stride(),
           wide.data(), stride, num, threads);
  for (std::size_t i = 0; i < wide.size(); ++i)
    if (i < num * stride && i % stride < columns)
      out.push_back(wide[i]);
    else if (wide[i] != kUntouched)
      fail(isa, layer, "something is written beside the outputs");
  return out;
}

bool same_bits(const Floats& some, const Floats& all, std::size_t begin) {
  return some.empty() || !std::memcmp(some.data(), &all[begin], some.size() * sizeof(float));
}

// Returns the largest relative error.
double check_values(const Isa& isa, const Layer& layer, const Floats& x, const Wanted& wanted) {
  const int out = layer.forest.out;
  const Floats whole = answers(isa, layer, x, 0, kTokens, 1);
  double error = 0.0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    if (!wanted.is_sure[i / out]) continue;
    const double off = std::fabs(whole[i] - wanted.out[i]) / wanted.largest;
    if (!(off <= kLargestError))
      fail(isa, layer, "token " + std::to_string(i / out) + " has " + std::to_string(whole[i]) +
                           " for " + std::to_string(wanted.out[i]));
    error = std::fmax(error, off);
  }
  constexpr int spans[][2] = {{0, 0},  {0, 1},    {299, 1},   {598, 2},
                              {7, 15}, {100, 16}, {301, 127}, {0, kTokens}};
  for (const auto& [begin, num] : spans)
    for (int threads = num == kTokens ? 2 : 1; threads <= 2; ++threads)
      if (!same_bits(answers(isa, layer, x, begin, num, threads), whole, begin * out))
        fail(isa, layer, std::to_string(num) + " tokens on " + std::to_string(threads) +
                             " threads have other bits than in the whole batch on one");
  return error;
}

void check_not_finite(const Isa& isa, const Layer& layer, const Floats& x, int num) {
  const int out = layer.forest.out;
  Floats changed = x;
  const float bad[] = {std::nanf(""), HUGE_VALF, -HUGE_VALF};
  for (int t = 0; t < 3; ++t) changed[t * layer.x_stride() + layer.forest.in - 1] = bad[t];
  const Floats before = answers(isa, layer, x, 0, num, 2);
  const Floats after = answers(isa, layer, changed, 0, num, 2);
  for (int t = 0; t < 3; ++t) {
    const Floats alone = answers(isa, layer, changed, t, 1, 1);
    for (int j = 0; j < out; ++j) {
      const bool is_nan = std::isnan(after[t * out + j]);
      if (is_nan != std::isnan(alone[j])) fail(isa, layer, "NaN or Inf is another in a batch");
      if (t == 0 && !is_nan) fail(isa, layer, "NaN has become a number");
    }
  }
  if (!same_bits({after.begin() + 3 * out, after.end()}, before, 3 * out))
    fail(isa, layer, "what is not finite reaches other tokens");
}

void check(const Layer& layer, int num_not_finite, std::vector<double>& errors) {
  const std::vector<Isa>& isas = cmm::isas();
  const Floats x = tokens_of(layer);
  const Wanted wanted = wanted_of(layer, x);
  if (wanted.num_sure < kTokens * 9 / 10) fail(isas[0], layer, "too few tokens can be compared");
  if (layer.has_exact_logits && wanted.num_zeros < kTokens) fail(isas[0], layer, "too few ties");
  for (std::size_t i = 0; i < isas.size(); ++i) {
    const bool is_new = !i || isas[i].kernels != isas[i - 1].kernels;  // and no other name
    const double error = is_new ? check_values(isas[i], layer, x, wanted) : errors[i - 1];
    errors[i] = std::fmax(errors[i], error);
    if (is_new && num_not_finite) check_not_finite(isas[i], layer, x, num_not_finite);
  }
}

void check_all(std::vector<double>& errors) {
  constexpr Shape shapes[] = {{1, 1, 0, 1},    {5, 3, 1, 3},   {17, 33, 2, 1}, {37, 70, 3, 3},
                              {130, 96, 4, 1}, {64, 32, 5, 3}, {33, 31, 6, 1}};
  constexpr Shape large{12, 7, 13, 2};          // its trees are cut in two by run()
  constexpr float logits[] = {3.0, 1.0, 40.0};  // their size: activations at their ends, too
  int turn = 0;
  for (const Weights weights : {Weights::fp32, Weights::bf16, Weights::int8}) {
    for (const Activation activation :
         {Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::silu}) {
      for (int i = int(activation) % 2; i < 7; i += 2, ++turn)
        check({shapes[i], weights, activation, turn % 2 == 0, logits[turn % 3]}, 0, errors);
      check({{37, 20, 5, 3}, weights, activation, false, kWhole}, 33, errors);
    }
    check({large, weights, Activation::gelu, true, 2.0f}, kTokens, errors);
  }
}

}  // namespace

int main() {
  std::vector<double> errors(cmm::isas().size());
  try {
    check_all(errors);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  for (std::size_t i = 0; i < errors.size(); ++i)
    std::printf("%s: largest relative error %.1e\n", cmm::isas()[i].name, errors[i]);
}
