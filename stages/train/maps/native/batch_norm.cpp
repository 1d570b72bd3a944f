#include "batch_norm.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "../../native/pool.hpp"

namespace maps {
namespace {

constexpr std::size_t kPiece = 1 << 15;        // values, of which sums are taken in fp32
constexpr std::size_t kFewest = 64;            // rows of a piece
constexpr std::size_t kAtOnce = 4;             // rows whose columns are taken block by block
constexpr std::size_t kCached = 4 << 20;       // bytes; beyond them memory is read in one stream
constexpr std::size_t kMostColumns = 1 << 14;  // of a row

using Doubles = std::vector<double>;

// Maps as rows, and these in pieces.
class Pieces {
 public:
  Pieces(Extent extent, std::size_t value_bytes, int threads)
      : pixels_(pixels_in_a_row(extent)),
        rows_(extent.pixels / pixels_),
        columns_(pixels_ * extent.channels),
        piece_(std::max(kFewest, kPiece / columns_)),
        at_once_(rows_ * columns_ * value_bytes > kCached ? 1 : kAtOnce),
        threads_(rows_ * columns_ < kAlone ? 1 : threads) {
    if (columns_ == kColumns) at_once_ = piece_;  // a single block is a single stream
  }

  std::size_t num() const { return (rows_ + piece_ - 1) / piece_; }
  std::size_t columns() const { return columns_; }
  Rows rows(std::size_t piece) const {
    return {piece * piece_, std::min(rows_, (piece + 1) * piece_), columns_, at_once_};
  }

  // work(piece). Backwards: what was seen last is still in a cache.
  template <class Work>
  void each(const Work& work, bool backwards = false) const {
    const int last = static_cast<int>(num()) - 1;
    native::Pool::of_process().run(threads_, last + 1, [&](int unit, int) {
      work(static_cast<std::size_t>(backwards ? last - unit : unit));
    });
  }

 private:
  std::size_t pixels_, rows_, columns_, piece_, at_once_;
  int threads_;
};

// Two sums for each column of each piece.
class Table {
 public:
  explicit Table(const Pieces& pieces)
      : columns_(pieces.columns()), values_(new float[2 * pieces.num() * columns_]) {}
  Sums of(std::size_t piece) const {
    float* const at = values_.get() + 2 * piece * columns_;
    return {at, at + columns_};
  }

 private:
  std::size_t columns_;
  std::unique_ptr<float[]> values_;
};

// Sums of a row's pixels, by channel.
Doubles by_channel(const Doubles& columns, std::size_t channels) {
  Doubles sums(channels);
  for (std::size_t column = 0; column < columns.size(); ++column)
    sums[column % channels] += columns[column];
  return sums;
}

// Values of channels, again for each pixel of a row.
class Repeated {
 public:
  Repeated(std::size_t channels, std::size_t columns) : channels_(channels), values_(columns) {}
  void set(std::size_t channel, double value) {
    for (std::size_t at = channel; at < values_.size(); at += channels_)
      values_[at] = static_cast<float>(value);
  }
  const float* data() const { return values_.data(); }
  float operator[](std::size_t column) const { return values_[column]; }

 private:
  std::size_t channels_;
  std::vector<float> values_;
};

struct Line {  // y = x scale + shift
  Repeated scale, shift;

  Line(Extent extent, std::size_t columns, Layer layer, Measured measured)
      : scale(extent.channels, columns), shift(extent.channels, columns) {
    for (std::size_t c = 0; c < extent.channels; ++c) {
      const double by = (layer.weight ? layer.weight[c] : 1.0) * double(measured.inverse[c]);
      scale.set(c, by);
      shift.set(c, (layer.bias ? layer.bias[c] : 0.0) - measured.mean[c] * by);
    }
  }
  Affine affine() const { return {scale.data(), shift.data()}; }
};

// Mean and squared distances of all, from those of pieces (Chan, Golub, LeVeque 1979).
struct Whole {
  Doubles mean, squares;

  Whole(const Pieces& pieces, const Table& table, Extent extent) {
    const std::size_t columns = pieces.columns(), channels = extent.channels;
    const double row = static_cast<double>(columns) / channels;  // pixels
    Doubles sums(columns), off(columns);
    for (std::size_t piece = 0; piece < pieces.num(); ++piece) {
      const Rows rows = pieces.rows(piece);
      const float* const means = table.of(piece).first;
      const double num = static_cast<double>(rows.end - rows.begin);
      for (std::size_t c = 0; c < columns; ++c) sums[c] += num * means[c];
    }
    mean = by_channel(sums, channels);
    for (double& each : mean) each /= row * pieces.rows(pieces.num() - 1).end;
    Doubles center(columns);
    for (std::size_t c = 0; c < columns; ++c) center[c] = mean[c % channels];
    for (std::size_t piece = 0; piece < pieces.num(); ++piece) {
      const Rows rows = pieces.rows(piece);
      const Sums sums = table.of(piece);
      const double num = static_cast<double>(rows.end - rows.begin);
      for (std::size_t c = 0; c < columns; ++c) {
        const double distance = sums.first[c] - center[c];
        off[c] += sums.second[c] + num * distance * distance;
      }
    }
    squares = by_channel(off, channels);
  }
};

}  // namespace

std::size_t pixels_in_a_row(Extent extent) {
  if (!extent.channels || !extent.pixels) return 0;
  const std::size_t pixels = kColumns / std::gcd(extent.channels, std::size_t(kColumns));
  return extent.pixels % pixels || pixels * extent.channels > kMostColumns ? 0 : pixels;
}

template <class T>
void forward(const Isa& isa, const T* x, Extent extent, Layer layer, float eps, Running running,
             int threads, T* y, Measured measured) {
  const Kernels<T>& kernels = of<T>(isa);
  const double num = static_cast<double>(extent.pixels);
  const Pieces pieces(extent, sizeof(T), threads);
  const Table table(pieces);
  pieces.each([&](std::size_t piece) {
    kernels.measure(x, pieces.rows(piece), table.of(piece));
  });
  const auto [means, squares] = Whole(pieces, table, extent);
  for (std::size_t c = 0; c < extent.channels; ++c) {
    measured.mean[c] = static_cast<float>(means[c]);
    measured.inverse[c] = static_cast<float>(1.0 / std::sqrt(squares[c] / num + eps));
    if (!running.mean) continue;
    const double kept = 1.0 - running.momentum;
    running.mean[c] = static_cast<float>(kept * running.mean[c] + running.momentum * means[c]);
    running.variance[c] = static_cast<float>(kept * running.variance[c] +
                                             running.momentum * squares[c] / (num - 1));
  }
  const Line line(extent, pieces.columns(), layer, measured);
  const auto apply = [&](std::size_t piece) {
    kernels.apply(x, pieces.rows(piece), line.affine(), layer.relu, y);
  };
  pieces.each(apply, true);
}

template <class T>
void backward(const Isa& isa, const T* x, const T* dy, Extent extent, Layer layer,
              Measured measured, int threads, T* dx, float* d_weight, float* d_bias) {
  const Kernels<T>& kernels = of<T>(isa);
  const double num = static_cast<double>(extent.pixels);
  const Pieces pieces(extent, sizeof(T), threads);
  const Table table(pieces);
  const std::size_t columns = pieces.columns();
  const Line line(extent, columns, layer, measured);
  Repeated mean(extent.channels, columns);
  for (std::size_t c = 0; c < extent.channels; ++c) mean.set(c, measured.mean[c]);
  pieces.each([&](std::size_t piece) {
    kernels.gather(x, dy, pieces.rows(piece), line.affine(), mean.data(), layer.relu,
                   table.of(piece));
  });
  Doubles first(columns), second(columns);
  for (std::size_t piece = 0; piece < pieces.num(); ++piece) {
    const Sums sums = table.of(piece);
    for (std::size_t c = 0; c < columns; ++c) first[c] += sums.first[c];
    for (std::size_t c = 0; c < columns; ++c) second[c] += sums.second[c];
  }
  const Doubles upstream = by_channel(first, extent.channels);
  const Doubles along = by_channel(second, extent.channels);
  Repeated slope(extent.channels, columns), offset(extent.channels, columns);
  for (std::size_t c = 0; c < extent.channels; ++c) {
    const double inverse = measured.inverse[c], scale = line.scale[c];
    const double by = scale * inverse * inverse * along[c] / num;
    slope.set(c, by);
    offset.set(c, scale * upstream[c] / num - measured.mean[c] * by);
    if (d_weight) d_weight[c] = static_cast<float>(along[c] * inverse);
    if (d_bias) d_bias[c] = static_cast<float>(upstream[c]);
  }
  if (!dx) return;
  const Pull pull = {slope.data(), offset.data()};
  const auto back = [&](std::size_t piece) {
    kernels.pull(x, dy, pieces.rows(piece), line.affine(), pull, layer.relu, dx);
  };
  pieces.each(back, true);
}

#define OFFER(T)                                                                                 \
  template void forward(const Isa&, const T*, Extent, Layer, float, Running, int, T*, Measured); \
  template void backward(const Isa&, const T*, const T*, Extent, Layer, Measured, int, T*,       \
                         float*, float*);
OFFER(float)
OFFER(Bf16)

}  // namespace maps
