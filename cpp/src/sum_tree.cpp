#include "trajmill/sum_tree.hpp"

#include <algorithm>

namespace trajmill {
namespace {

// The sums on the way down inside one node: its children in pairs, then in fours, then all.
struct PartialSums {
  double pair[4];
  double four[2];

  explicit PartialSums(const double* child) noexcept
      : pair{child[0] + child[1], child[2] + child[3], child[4] + child[5], child[6] + child[7]},
        four{pair[0] + pair[1], pair[2] + pair[3]} {}

  [[nodiscard]] double total() const noexcept { return four[0] + four[1]; }
};

// One step of the descent. Going right needs something there, so a weight of zero is never reached, rounding or not.
inline std::size_t go_right(double& target, double left, double right) noexcept {
  const bool is_right = target >= left && right > 0.0;
  target -= is_right ? left : 0.0;
  return is_right ? 1 : 0;
}

inline std::size_t descend(const double* child, double& target) noexcept {
  const PartialSums sums(child);
  std::size_t at = go_right(target, sums.four[0], sums.four[1]);
  at = 2 * at + go_right(target, sums.pair[2 * at], sums.pair[2 * at + 1]);
  return 2 * at + go_right(target, child[2 * at], child[2 * at + 1]);
}

}  // namespace

SumTree::SumTree(std::span<double> weights) : weights_(weights) {
  std::span<const double> below = weights_;
  do {
    const std::size_t count = below.size() / kFanOut;
    std::vector<double> level(count == 1 ? 1 : padded(count), 0.0);
    for (std::size_t node = 0; node < count; ++node) level[node] = PartialSums(&below[node * kFanOut]).total();
    levels_.push_back(std::move(level));
    below = levels_.back();
  } while (below.size() > 1);
}

void SumTree::refresh(std::span<std::size_t> nodes) {
  const double* below = weights_.data();
  std::size_t count = nodes.size();
  for (std::vector<double>& level : levels_) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t node = nodes[i] / kFanOut;
      if (kept > 0 && nodes[kept - 1] == node) continue;
      nodes[kept++] = node;
    }
    for (std::size_t i = 0; i < kept; ++i) level[nodes[i]] = PartialSums(&below[nodes[i] * kFanOut]).total();
    below = level.data();
    count = kept;
  }
}

void SumTree::set(std::span<const std::int64_t> indexes, std::span<const double> weights) {
  changed_.resize(indexes.size());
  for (std::size_t i = 0; i < indexes.size(); ++i) {
    changed_[i] = static_cast<std::size_t>(indexes[i]);
    weights_[changed_[i]] = weights[i];
  }
  refresh(changed_);
}

void SumTree::fill(std::size_t begin, std::size_t end, double weight) {
  if (begin == end) return;
  std::fill(weights_.begin() + static_cast<std::ptrdiff_t>(begin), weights_.begin() + static_cast<std::ptrdiff_t>(end),
            weight);
  changed_.clear();
  for (std::size_t node = begin / kFanOut; node <= (end - 1) / kFanOut; ++node) changed_.push_back(node * kFanOut);
  refresh(changed_);
}

void SumTree::find(std::span<const double> targets, std::int64_t* indexes) const noexcept {
  constexpr std::size_t kGroup = 16;  // descents at a time, so that they wait for memory together
  for (std::size_t first = 0; first < targets.size(); first += kGroup) {
    const std::size_t count = std::min(kGroup, targets.size() - first);
    double target[kGroup];
    std::size_t node[kGroup] = {};
    std::copy_n(targets.begin() + static_cast<std::ptrdiff_t>(first), count, target);
    for (std::size_t level = levels_.size(); level-- > 0;) {
      const double* below = level == 0 ? weights_.data() : levels_[level - 1].data();
      for (std::size_t i = 0; i < count; ++i) {
        node[i] = node[i] * kFanOut + descend(below + node[i] * kFanOut, target[i]);
        if (level > 1) __builtin_prefetch(levels_[level - 2].data() + node[i] * kFanOut);
        if (level == 1) __builtin_prefetch(weights_.data() + node[i] * kFanOut);
      }
    }
    for (std::size_t i = 0; i < count; ++i) indexes[first + i] = static_cast<std::int64_t>(node[i]);
  }
}

}  // namespace trajmill
