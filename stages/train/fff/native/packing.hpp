// Packing: plain weights in fp32 become the records of a forest; `packed.py` says how they lie.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <vector>

#include "forest.hpp"

namespace cmm {

// Zero bytes that begin at a huge page, where the system has them.
class Pages {
 public:
  explicit Pages(std::size_t size) : size_(size + kHuge) {
    area_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area_ == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(area_, size_, MADV_HUGEPAGE);  // a wish
#endif
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { munmap(area_, size_); }

  std::byte* begin() const {
    const auto at = reinterpret_cast<std::uintptr_t>(area_);
    return reinterpret_cast<std::byte*>((at + kHuge - 1) / kHuge * kHuge);
  }

 private:
  static constexpr std::size_t kHuge = std::size_t(2) << 20;
  std::size_t size_;
  void* area_;
};

// The place in preorder of each node of a tree that is numbered as a heap.
inline std::vector<std::size_t> preorder(const Forest& forest) {
  std::vector<std::size_t> place(forest.nodes());
  std::size_t first = 0;  // of a level, in the heap
  for (int level = 0; level + 1 < forest.levels; ++level) {
    const std::size_t num = std::size_t(1) << level, below = forest.below(level + 1);
    for (std::size_t i = 0; i < num; ++i) {
      place[first + num + 2 * i] = place[first + i] + 1;
      place[first + num + 2 * i + 1] = place[first + i] + 1 + below;
    }
    first += num;
  }
  return place;
}

// w_in (trees nodes, in), w_out (trees nodes, out), b_in (trees nodes) or null: none; the trees one
// after the other, each numbered as a heap. `records` are zeros.
inline void pack(const Forest& forest, const float* w_in, const float* w_out, const float* b_in,
                 std::byte* records) {
  const std::vector<std::size_t> place = preorder(forest);
  const std::size_t nodes = forest.nodes();
  for (std::size_t neuron = 0; neuron < forest.trees * nodes; ++neuron) {
    std::byte* const record =
        records + (neuron / nodes * nodes + place[neuron % nodes]) * forest.record();
    const Head head{b_in ? b_in[neuron] : 0.0f, 1.0f, 1.0f};
    std::memcpy(record, &head, sizeof head);
    std::memcpy(record + kHead, w_in + neuron * forest.in, forest.in * sizeof(float));
    std::memcpy(record + forest.out_at(), w_out + neuron * forest.out, forest.out * sizeof(float));
  }
}

}  // namespace cmm
