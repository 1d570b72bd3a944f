#include "weight_gradient.hpp"

#include <algorithm>
#include <memory>
#include <new>

#include "../../native/pool.hpp"

namespace maps {
namespace {

constexpr std::size_t kPixels = 192;           // of a chunk: what a tile reads stays in the L1 cache
constexpr std::size_t kParts = 8;              // of a batch, at most; one with many input channels
constexpr std::size_t kAloneProducts = 1 << 23;  // below, one thread is done before two are
constexpr std::size_t kTotals = kOutputs * kTaps * kInputs;

std::size_t divided_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// Values in lines of their own: a vector over two cache lines is read twice.
template <class T>
class Lines {
 public:
  explicit Lines(std::size_t num)
      : values_(static_cast<T*>(::operator new(num * sizeof(T), kLine))) {}
  T* get() const { return values_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Delete {
    void operator()(T* values) const { ::operator delete(values, kLine); }
  };
  std::unique_ptr<T, Delete> values_;
};

struct Chunk {  // gradients of pairs of maps, and rows of theirs
  std::size_t first_pair, last_pair, first_row, last_row;

  std::size_t pairs() const { return last_pair - first_pair; }
  std::size_t rows() const { return last_row - first_row; }
};

// A batch in chunks: several small maps, or some rows of a large one.
class Chunks {
 public:
  explicit Chunks(Convolved shape) : pairs_(divided_up(shape.num, 2)), rows_(shape.rows()) {
    const std::size_t fitting = std::max<std::size_t>(1, kPixels / shape.columns());
    rows_at_once_ = divided_up(rows_, divided_up(rows_, std::min(rows_, fitting)));
    pairs_at_once_ = std::min(pairs_, std::max<std::size_t>(1, fitting / rows_));
    bands_ = divided_up(rows_, rows_at_once_);
  }
  std::size_t num() const { return divided_up(pairs_, pairs_at_once_) * bands_; }
  std::size_t pairs_at_once() const { return pairs_at_once_; }
  std::size_t rows_at_once() const { return rows_at_once_; }
  Chunk operator[](std::size_t at) const {
    const std::size_t pair = at / bands_ * pairs_at_once_, row = at % bands_ * rows_at_once_;
    return {pair, std::min(pairs_, pair + pairs_at_once_), row,
            std::min(rows_, row + rows_at_once_)};
  }

 private:
  std::size_t pairs_, rows_, pairs_at_once_, rows_at_once_, bands_;
};

class WeightGradient {
 public:
  WeightGradient(const Products& products, const Bf16* x, const Bf16* dy, Convolved shape, Bf16* dw)
      : products_(products),
        x_(x),
        dy_(dy),
        shape_(shape),
        dw_(dw),
        chunks_(shape),
        blocks_(shape.inputs / kInputs),
        groups_(shape.outputs / kOutputs),
        parts_(std::clamp<std::size_t>(kParts / blocks_, 1, chunks_.num())),
        totals_(parts_ * blocks_ * block()) {}

  void compute(int threads) {
    const std::size_t products = shape_.num * shape_.rows() * shape_.columns() * shape_.inputs;
    if (products * shape_.outputs < kAloneProducts) threads = 1;
    const std::size_t ranges = threads == 1 ? 1 : std::min(blocks_, kParts);
    native::Pool& pool = native::Pool::of_process();
    pool.run(threads, static_cast<int>(parts_ * ranges), [&](int unit, int) {
      const std::size_t range = unit % ranges;
      sum(unit / ranges, blocks_ * range / ranges, blocks_ * (range + 1) / ranges);
    });
    if (parts_ == 1) return;
    for (std::size_t at = 0; at < blocks_ * kTaps * groups_; ++at) {
      const std::size_t group = at % groups_, row = at / groups_ % kTaps;
      products_.add_up(totals_.get() + at * kTotals, parts_, blocks_ * block(),
                       rounded(at / groups_ / kTaps, row, group));
    }
  }

 private:
  std::size_t block() const { return kTaps * groups_ * kTotals; }  // totals of a block of inputs

  Rounded rounded(std::size_t block, std::size_t row, std::size_t group) const {
    const std::size_t output = kTaps * kTaps * shape_.inputs;
    Bf16* const to = dw_ + group * kOutputs * output + row * kTaps * shape_.inputs;
    return {to + block * kInputs, output, shape_.inputs};
  }

  // The products of a part of the batch with some blocks of inputs.
  void sum(std::size_t part, std::size_t first, std::size_t last) {
    const std::size_t begin = chunks_.num() * part / parts_;
    const std::size_t end = chunks_.num() * (part + 1) / parts_;
    const std::size_t pairs = chunks_.pairs_at_once(), rows = chunks_.rows_at_once();
    const std::size_t seen = std::min(shape_.height, rows * shape_.stride + kTaps - 1);
    const Lines<Bf16> inputs(pairs * seen * shape_.width * 2 * kInputs);
    const Lines<Bf16> gradients(pairs * rows * shape_.columns() * 2 * shape_.outputs);
    for (std::size_t at = begin; at < end; ++at) {
      const Chunk chunk = chunks_[at];
      take_gradients(chunk, gradients.get());
      for (std::size_t block = first; block < last; ++block) {
        take_inputs(chunk, block, inputs.get());
        for (std::size_t row = 0; row < kTaps; ++row)
          multiply(chunk, inputs.get(), gradients.get(), block, row, part, at == begin,
                   at + 1 == end);
      }
    }
  }

  // The rows of the maps that a chunk of gradients sees.
  std::size_t first_seen(Chunk chunk) const {
    return chunk.first_row ? chunk.first_row * shape_.stride - 1 : 0;
  }
  std::size_t rows_seen(Chunk chunk) const {
    const std::size_t last = (chunk.last_row - 1) * shape_.stride + 2;
    return std::min(shape_.height, last) - first_seen(chunk);
  }

  Pair pair(const Bf16* maps, std::size_t at, std::size_t values, std::size_t offset) const {
    const Bf16* const first = maps + 2 * at * values + offset;
    return {first, 2 * at + 1 < shape_.num ? first + values : nullptr};
  }

  void take_gradients(Chunk chunk, Bf16* to) const {
    const std::size_t row = shape_.columns() * shape_.outputs;
    const std::size_t pixels = chunk.rows() * shape_.columns();
    const std::size_t group = chunk.pairs() * pixels * 2 * kOutputs;
    for (std::size_t at = 0; at < chunk.pairs(); ++at)
      products_.pair_gradients(
          pair(dy_, chunk.first_pair + at, shape_.rows() * row, chunk.first_row * row), pixels,
          shape_.outputs, to + at * pixels * 2 * kOutputs, group);
  }

  void take_inputs(Chunk chunk, std::size_t block, Bf16* to) const {
    const std::size_t row = shape_.width * shape_.inputs;
    const std::size_t pixels = rows_seen(chunk) * shape_.width;
    const std::size_t offset = first_seen(chunk) * row + block * kInputs;
    for (std::size_t at = 0; at < chunk.pairs(); ++at)
      products_.pair_inputs(pair(x_, chunk.first_pair + at, shape_.height * row, offset), pixels,
                            shape_.inputs, to + at * pixels * 2 * kInputs);
  }

  // With the neighbours above (row 0), beside or below; those beyond a map's edge are left out.
  void multiply(Chunk chunk, const Bf16* inputs, const Bf16* gradients, std::size_t block,
                std::size_t row, std::size_t part, bool anew, bool done) const {
    const std::size_t stride = shape_.stride, columns = shape_.columns();
    const std::size_t above = row == 0 && chunk.first_row == 0;
    const std::size_t below = (chunk.last_row - 1) * stride + row > shape_.height;
    const std::size_t x_row = shape_.width * 2 * kInputs, dy_row = columns * 2 * kOutputs;
    const Area area = {chunk.pairs(), chunk.rows() - above - below, shape_.width,
                       rows_seen(chunk) * x_row, stride * x_row, chunk.rows() * dy_row, dy_row};
    // A single row may have nothing above or below: no products, and no place where they would be.
    const std::size_t seen = (chunk.first_row + above) * stride + row;
    const Bf16* const x = area.rows ? inputs + (seen - 1 - first_seen(chunk)) * x_row : inputs;
    const Bf16* dy = gradients + above * dy_row;
    const std::size_t step = chunk.pairs() * chunk.rows() * dy_row;
    float* totals = totals_.get() + (part * blocks_ + block) * this->block() +
                    row * groups_ * kTotals;
    for (std::size_t group = 0; group < groups_; ++group, dy += step, totals += kTotals)
      products_.multiply(x, dy, area, stride, totals, anew,
                         done && parts_ == 1 ? rounded(block, row, group) : Rounded{});
  }

  const Products& products_;
  const Bf16 *x_, *dy_;
  const Convolved shape_;
  Bf16* const dw_;
  const Chunks chunks_;
  const std::size_t blocks_, groups_, parts_;
  const Lines<float> totals_;  // (parts, blocks, kTaps, groups, kOutputs, kTaps, kInputs)
};

}  // namespace

void weight_gradient(const Products& products, const Bf16* x, const Bf16* dy, Convolved shape,
                     int threads, Bf16* dw) {
  WeightGradient(products, x, dy, shape, dw).compute(threads);
}

}  // namespace maps
