// Descend: the tokens of a chunk on their way down a tree, sorted by the nodes that they reach.
#pragma once

#include <cstring>

#include "dots.hpp"

namespace cmm {
namespace {

template <class W, int T>
INLINE void step_one(const Forest& f, Chunk& c, const int* tokens, const std::byte* record,
                     int level, Soon& soon) {
  const std::byte* x[T];
  float z[T][1];
  for (int t = 0; t < T; ++t) x[t] = c.x + tokens[t] * c.x_stride;
  logits_of<W, T, 1>(f, x, {record}, soon, z);
  for (int t = 0; t < T; ++t) {
    c.logits[std::size_t(tokens[t]) * f.levels + level] = z[t][0];
    c.path[tokens[t]] = c.path[tokens[t]] * 2 + (z[t][0] > 0.0f);
  }
}

// Two levels at once: a tile reads both children's rows and keeps what each token needs.
template <class W, int T>
INLINE void step_two(const Forest& f, Chunk& c, const int* tokens, const std::byte* const (&at)[3],
                     int level, Soon& soon) {
  const std::byte* x[T];
  float z[T][3];
  for (int t = 0; t < T; ++t) x[t] = c.x + tokens[t] * c.x_stride;
  logits_of<W, T, 3>(f, x, at, soon, z);
  for (int t = 0; t < T; ++t) {
    float* logits = c.logits + std::size_t(tokens[t]) * f.levels + level;
    const bool right = z[t][0] > 0.0f;
    logits[0] = z[t][0];
    logits[1] = right ? z[t][2] : z[t][1];
    c.path[tokens[t]] = c.path[tokens[t]] * 4 + right * 2 + (logits[1] > 0.0f);
  }
}

// Sort a group by its last decisions, and append what is left of it to `next`.
INLINE int split(const Forest& f, Chunk& c, const Group& group, int level, int steps, Group* next) {
  int* tokens = c.order + group.begin;
  const int num = group.end - group.begin, ways = 1 << steps;
  auto child = [&](int way) {
    const std::uint32_t size = level + 1 < f.levels ? f.below(level + 1) : 0;
    if (steps == 1) return group.node + 1 + (way ? size : 0);
    const std::uint32_t last = level + 2 < f.levels ? f.below(level + 2) : 0;
    return group.node + 2 + (way & 2 ? size : 0) + (way & 1 ? last : 0);
  };
  if (num == 1) {
    *next = {child(c.path[*tokens] & (ways - 1)), group.begin, group.end};
    return 1;
  }
  int count[4] = {};
  for (int i = 0; i < num; ++i) {
    const int way = c.path[tokens[i]] & (ways - 1);
    c.spare[way * c.num + count[way]++] = tokens[i];
  }
  int made = 0, begin = group.begin;
  for (int way = 0; way < ways; ++way) {
    if (!count[way]) continue;
    std::memcpy(c.order + begin, c.spare + way * c.num, count[way] * sizeof(int));
    next[made++] = {child(way), begin, begin + count[way]};
    begin += count[way];
  }
  return made;
}

// Level by level, or two at a time: first all groups, then those who left theirs one by one. The
// nodes of a level are known before it begins, so that their rows can be asked for ahead.
template <class W>
class Descent {
 public:
  Descent(const Forest& f, int tree, Chunk& c, int level)
      : f_(f), c_(c), records_(f.tree(tree)), record_(f.record()), first_(level) {}

  void run(std::uint32_t node, int stop) {
    Group *now = c_.groups[0], *next = c_.groups[1];
    int groups = c_.num ? 1 : 0;
    now[0] = {node, 0, c_.num};
    for (level_ = first_; level_ < stop && groups; level_ += steps_) {
      steps_ = stop - level_ >= 2 ? 2 : 1;
      size_ = level_ + 1 < f_.levels ? f_.below(level_ + 1) : 0;
      for (int k = 0; k < groups; ++k) visit(now, k, groups);
      for (int k = 0; k < groups && steps_ == 2; ++k) visit_children(now, k, groups);
      int made = 0;
      for (int k = 0; k < groups; ++k) made += split(f_, c_, now[k], level_, steps_, next + made);
      Group* const swap = now;
      now = next;
      next = swap;
      groups = made;
    }
  }

 private:
  // Whether both children's rows are read for all of a group, and not each for those who go there.
  INLINE bool is_tiled(const Group& g) const { return steps_ == 2 && g.end - g.begin >= kFew; }

  INLINE const std::byte* at(std::uint32_t node) const { return records_ + node * record_; }

  // What the group reads whose turn is some groups later.
  INLINE Soon soon_of(const Group* now, int k, int groups) const {
    Soon soon;
    if (k + kAhead >= groups) return soon;
    const Group& g = now[k + kAhead];
    soon.add(at(g.node));
    if (is_tiled(g)) {
      soon.add(at(g.node + 1));
      soon.add(at(g.node + 1 + size_));
    }
    return soon;
  }

  INLINE void visit(const Group* now, int k, int groups) {
    const Group& g = now[k];
    Soon soon = soon_of(now, k, groups);
    int i = g.begin;
    if (!is_tiled(g)) {
      for (; i + 4 <= g.end; i += 4) step_one<W, 4>(f_, c_, c_.order + i, at(g.node), level_, soon);
      for (; i < g.end; ++i) step_one<W, 1>(f_, c_, c_.order + i, at(g.node), level_, soon);
      return;
    }
    for (; i + kTile <= g.end; i += kTile) visit_tile<kTile>(g, i, soon);
    if constexpr (kTile == 4)
      if (i + 2 <= g.end) {
        visit_tile<2>(g, i, soon);
        i += 2;
      }
    if (i < g.end) visit_tile<1>(g, i, soon);
  }

  // `next` is for the last tile of a group; tokens come from memory the first time only.
  template <int T>
  INLINE void visit_tile(const Group& g, int i, const Soon& next) {
    Soon soon;
    if (i + kTile >= g.end) soon.add_all(next);
    if (level_ == first_) {
      const int begin = i + kTokensAhead;
      for (int t = begin; t < begin + T && t < g.end; ++t)
        soon.add(c_.x + c_.order[t] * c_.x_stride);
    }
    const std::byte* const three[3] = {at(g.node), at(g.node + 1), at(g.node + 1 + size_)};
    step_two<W, T>(f_, c_, c_.order + i, three, level_, soon);
  }

  INLINE const std::byte* child(const Group& g, int i) const {
    return at(g.node + 1 + (c_.path[c_.order[i]] & 1 ? size_ : 0));
  }

  // Those who went one step only go another.
  INLINE void visit_children(const Group* now, int k, int groups) {
    Soon soon;
    if (k + kAhead < groups && !is_tiled(now[k + kAhead]))
      for (int i = now[k + kAhead].begin; i < now[k + kAhead].end; ++i)
        soon.add(child(now[k + kAhead], i));
    if (is_tiled(now[k])) return soon.fetch(f_.out_at(), f_.out_at());
    for (int i = now[k].begin; i < now[k].end; ++i, soon.num = 0)
      step_one<W, 1>(f_, c_, c_.order + i, child(now[k], i), level_ + 1, soon);
  }

  const Forest& f_;
  Chunk& c_;
  const std::byte* const records_;
  const std::size_t record_;
  const int first_;
  int level_ = 0, steps_ = 0;
  std::uint32_t size_ = 0;  // of a child's subtree
};

template <class W>
void descend(const Forest& f, int tree, Chunk& c, std::uint32_t node, int level, int stop) {
  Descent<W>(f, tree, c, level).run(node, stop);
}

}  // namespace
}  // namespace cmm
