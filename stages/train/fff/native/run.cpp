#include "run.hpp"

#include <algorithm>
#include <memory>

#include "../../native/pool.hpp"
#include "../../native/processor.hpp"

namespace cmm {

#if defined(CMM_X86)
extern const Kernels avx512_bf16, avx512, avx2;
#endif
extern const Kernels plain;

const std::vector<Isa>& isas() {
  static const std::vector<Isa> found = [] {
    std::vector<Isa> list;
#if defined(CMM_X86)
    if (native::has_avx512_bf16()) list.push_back({"avx512_bf16", &avx512_bf16});
    if (native::has_avx512()) list.push_back({"avx512", &avx512});
    if (native::has_avx2()) list.push_back({"avx2", &avx2});
    list.push_back({"plain", &plain});
#elif defined(__aarch64__)
    list.push_back({"neon", &plain});  // its vectors of four floats are NEON's
    list.push_back({"plain", &plain});
#else
    list.push_back({"plain", &plain});
#endif
    return list;
  }();
  return found;
}

namespace {

constexpr int kTokens = 128;                    // of a chunk: their rows stay in the L2 cache
constexpr std::size_t kSubtree = 400 * 1024;    // bytes of records that stay there beside them
constexpr std::size_t kPast = 8 << 20;          // bytes of outputs that would not stay in a cache
constexpr int kManyChunks = 4;                  // from which a large tree is cut in two

template <class T>
class Buffer {  // grows, is never shrunk, and is not set to zeros
 public:
  T* of(std::size_t size) {
    if (size > size_) {
      data_.reset(new (std::align_val_t(64)) T[size]);
      size_ = size;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete[](data, std::align_val_t(64)); }
  };
  std::unique_ptr<T[], Free> data_;
  std::size_t size_ = 0;
};

// What one worker needs beside the arrays of all tokens.
struct Desk {
  Buffer<int> spare;
  Buffer<Group> groups;
  Buffer<float> hidden;

  void set(Chunk& chunk, int* order, int num, int levels) {
    chunk.order = order;
    chunk.num = num;
    chunk.spare = spare.of(4 * std::size_t(num));
    Group* both = groups.of(2 * std::size_t(num) + 2);
    chunk.groups[0] = both;
    chunk.groups[1] = both + num + 1;
    chunk.hidden = hidden.of(std::size_t(num) * levels + 64);
  }
};

class Call {
 public:
  Call(const Kernels& kernels, const Forest& forest, const float* x, std::size_t x_stride,
       float* out, std::size_t out_stride, int n, int threads)
      : k_(kernels), f_(forest), x_(x), x_stride_(x_stride), n_(n), threads_(threads) {
    all_.out = out;
    all_.out_stride = out_stride;
    const std::size_t bytes = std::size_t(n) * f_.out * sizeof(float);
    all_.past = f_.trees == 1 && bytes >= kPast && is_lines(out, out_stride);
    as_is_ = k_.reads_as_is(f_);
    all_.x_stride = as_is_ ? x_stride * sizeof(float) : k_.prepared_stride(f_);
  }

  void run() {
    thread_local Buffer<std::byte> prepared;
    std::byte* to = as_is_ ? nullptr : prepared.of(n_ * all_.x_stride);
    all_.x = as_is_ ? reinterpret_cast<const std::byte*>(x_) : to;
    if (n_ == 1) {
      prepare(0, 1);
      k_.token(f_, all_.x, all_.out);
      return;
    }
    thread_local Buffer<float> logits;
    thread_local Buffer<std::uint32_t> path;
    thread_local Buffer<int> order;
    thread_local std::vector<std::unique_ptr<Desk>> desks;
    while (static_cast<int>(desks.size()) < std::max(1, threads_))
      desks.push_back(std::make_unique<Desk>());
    desks_ = &desks;  // the workers' own are others: they have this thread's
    all_.logits = logits.of(std::size_t(n_) * f_.levels);
    all_.path = path.of(n_);
    order_ = order.of(2 * std::size_t(n_));
    const int share = (n_ + std::max(1, threads_) - 1) / std::max(1, threads_);
    chunk_ = std::min(kTokens, share);
    const std::size_t bytes = f_.nodes() * f_.record();
    if (n_ >= kManyChunks * kTokens && bytes > 2 * kSubtree)
      in_two();
    else
      in_chunks();
  }

 private:
  void prepare(int begin, int num) {
    if (!as_is_)
      k_.prepare(f_, x_ + begin * x_stride_, x_stride_, num,
                 const_cast<std::byte*>(all_.x) + begin * all_.x_stride);
  }

  static bool is_lines(const float* rows, std::size_t stride) {
    return reinterpret_cast<std::uintptr_t>(rows) % 64 == 0 && stride * sizeof(float) % 64 == 0;
  }

  Desk& desk(int worker) { return *(*desks_)[worker]; }

  void start(Chunk& chunk, int begin, int num) {
    for (int i = 0; i < num; ++i) {
      chunk.order[i] = begin + i;
      chunk.path[begin + i] = 0;
    }
  }

  void for_chunks(const std::function<void(Chunk&, int begin, int num)>& work) {
    native::Pool::of_process().run(threads_, (n_ + chunk_ - 1) / chunk_, [&](int unit, int worker) {
      const int begin = unit * chunk_, num = std::min(chunk_, n_ - begin);
      Chunk chunk = all_;
      desk(worker).set(chunk, order_ + begin, num, f_.levels);
      work(chunk, begin, num);
    });
  }

  void in_chunks() {
    for_chunks([&](Chunk& chunk, int begin, int num) {
      prepare(begin, num);
      for (int tree = 0; tree < f_.trees; ++tree) {
        start(chunk, begin, num);
        k_.descend(f_, tree, chunk, 0, 0, f_.levels);
        k_.emit(f_, tree, chunk);
      }
    });
  }

  // First all tokens through the top of a tree, then through each subtree those that reach it:
  // every record is read once, and what it is needed for stays in the cache meanwhile.
  void in_two() {
    int top = 0;
    while (f_.below(top) * f_.record() > kSubtree) ++top;
    const int parts = 1 << top;
    std::vector<int> begin(parts + 1);
    int* const sorted = order_ + n_;
    for (int tree = 0; tree < f_.trees; ++tree) {
      for_chunks([&](Chunk& chunk, int first, int num) {
        if (tree == 0) prepare(first, num);
        start(chunk, first, num);
        k_.descend(f_, tree, chunk, 0, 0, top);
      });
      std::fill(begin.begin(), begin.end(), 0);
      for (int i = 0; i < n_; ++i) ++begin[all_.path[i] + 1];
      for (int part = 0; part < parts; ++part) begin[part + 1] += begin[part];
      std::vector<int> at(begin.begin(), begin.end() - 1);
      for (int i = 0; i < n_; ++i) sorted[at[all_.path[i]]++] = i;
      native::Pool::of_process().run(threads_, parts, [&](int part, int worker) {
        std::uint32_t node = 0;
        for (int level = 0; level < top; ++level)
          node += 1 + ((part >> (top - 1 - level)) & 1) * f_.below(level + 1);
        for (int i = begin[part]; i < begin[part + 1]; i += kTokens) {
          Chunk chunk = all_;
          desk(worker).set(chunk, sorted + i, std::min(kTokens, begin[part + 1] - i), f_.levels);
          k_.descend(f_, tree, chunk, node, top, f_.levels);
          k_.emit(f_, tree, chunk);
        }
      });
    }
  }

  const Kernels& k_;
  const Forest& f_;
  const float* x_;
  std::size_t x_stride_;
  int n_, threads_, chunk_ = 0;
  bool as_is_ = false;
  Chunk all_{};
  int* order_ = nullptr;
  std::vector<std::unique_ptr<Desk>>* desks_ = nullptr;
};

}  // namespace

void run(const Kernels& kernels, const Forest& forest, const float* x, std::size_t x_stride,
         float* out, std::size_t out_stride, int n, int threads) {
  if (n > 0) Call(kernels, forest, x, x_stride, out, out_stride, n, threads).run();
}

}  // namespace cmm
