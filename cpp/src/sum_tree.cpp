#include "trajmill/sum_tree.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "check_sum.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kFanOut = SumTree::kFanOut;

// before[k] = the sum of children 0 to k - 1; returns the sum of all eight. The order of the additions is fixed.
inline double scan(const double* child, double* before) noexcept {
  double sum = 0.0;
  for (std::size_t k = 0; k < kFanOut; ++k) {
    before[k] = sum;
    sum += child[k];
  }
  return sum;
}

using Pair = double __attribute__((vector_size(16)));
using PairMask = std::int64_t __attribute__((vector_size(16)));  // of a comparison: -1 where it holds

// The last child that begins at or before `target` >= 0, which becomes a place in it.
inline std::size_t descend(const double* before, double& target) noexcept {
  PairMask counts = {};
  for (std::size_t k = 0; k < kFanOut; k += 2) {
    Pair pair;
    std::memcpy(&pair, before + k, sizeof(pair));
    counts -= pair <= Pair{target, target};
  }
  const auto last = static_cast<std::size_t>(counts[0] + counts[1] - 1);  // before[0] is 0, so it is counted
  target -= before[last];
  return last;
}

// The same from the children themselves: through memory the sums would come back late.
inline std::size_t last_begun(const double* child, double target) noexcept {
  double before = 0.0;
  std::size_t count = 0;
  for (std::size_t k = 0; k < kFanOut; ++k) {
    count += before <= target ? 1 : 0;
    before += child[k];
  }
  return count - 1;
}

std::uint64_t check_term(std::size_t index, double weight) noexcept {
  return weight == 0.0 ? 0 : mixed(index + 1, std::bit_cast<std::uint64_t>(weight));
}

}  // namespace

std::uint64_t WeightCheck::sum_of(std::span<const double> weights) noexcept {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) sum += check_term(i, weights[i]);
  return sum;
}

// Much memory comes from the system: calloc fills what was freed before with zeros, used or not.
SumTree::Zeros SumTree::zeros(std::size_t count) {
  constexpr std::size_t kMuch = std::size_t{1} << 20;
  const std::size_t bytes = count * sizeof(double);
  if (bytes < kMuch) {
    void* memory = std::calloc(count, sizeof(double));
    if (memory == nullptr) throw std::bad_alloc();
    return Zeros(static_cast<double*>(memory));
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return Zeros(static_cast<double*>(memory), Free(bytes));
}

void SumTree::Free::operator()(double* memory) const noexcept {
  if (mapped_bytes > 0) {
    munmap(memory, mapped_bytes);
  } else {
    std::free(memory);
  }
}

SumTree::SumTree(std::span<double> weights, WeightCheck* check, bool all_zero) : weights_(weights), check_(check) {
  std::span<const double> below = weights_;
  do {
    const std::size_t count = below.size() / kFanOut, size = count == 1 ? 1 : padded(count);
    Level level{count, zeros(size), levels_.empty() ? nullptr : zeros(below.size())};
    double unused[kFanOut];
    for (std::size_t node = 0; node < (all_zero ? 0 : count); ++node) {
      const std::size_t begin = node * kFanOut;
      level.totals[node] = scan(&below[begin], level.before ? &level.before[begin] : unused);
    }
    levels_.push_back(std::move(level));
    below = {levels_.back().totals.get(), size};
  } while (below.size() > 1);
}

// Sums the nodes over `changed` weights again, level by level.
void SumTree::refresh(std::span<std::size_t> changed) noexcept {
  const double* below = weights_.data();
  std::size_t count = changed.size();
  for (Level& level : levels_) {
    std::size_t node_count = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t node = changed[i] / kFanOut;
      if (node_count == 0 || changed[node_count - 1] != node) changed[node_count++] = node;
    }
    double unused[kFanOut];
    for (std::size_t i = 0; i < node_count; ++i) {
      const std::size_t begin = changed[i] * kFanOut;
      level.totals[changed[i]] = scan(below + begin, level.before ? &level.before[begin] : unused);
    }
    below = level.totals.get();
    count = node_count;
  }
}

// Calls change(), which puts weights: a process that dies meanwhile leaves a check behind that says so.
template <class Change>
void SumTree::change(const Change& change) noexcept {
  if (check_ == nullptr) return change();
  check_->state = WeightCheck::kChanging;
  std::atomic_signal_fence(std::memory_order_seq_cst);  // what the process has stored is there, in this order
  change();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  check_->state = 0;
}

void SumTree::put(std::size_t index, double weight) noexcept {
  if (check_ != nullptr) check_->sum += check_term(index, weight) - check_term(index, weights_[index]);
  weights_[index] = weight;
}

void SumTree::set(std::span<const std::int64_t> indexes, std::span<const double> weights) {
  changed_.resize(indexes.size());
  std::ranges::transform(indexes, changed_.begin(), [](std::int64_t index) { return static_cast<std::size_t>(index); });
  change([&] {
    for (std::size_t i = 0; i < changed_.size(); ++i) put(changed_[i], weights[i]);
  });
  refresh(changed_);
}

void SumTree::fill(std::size_t begin, std::size_t end, double weight) {
  changed_.clear();
  for (std::size_t i = begin; i < end; i = (i / kFanOut + 1) * kFanOut) changed_.push_back(i);
  change([&] {
    for (std::size_t i = begin; i < end; ++i) put(i, weight);
  });
  refresh(changed_);
}

void SumTree::find(std::span<const double> targets, std::int64_t* indexes) const noexcept {
  constexpr std::size_t kGroup = 64;  // descents at a time, so that they wait for memory together
  for (std::size_t first = 0; first < targets.size(); first += kGroup) {
    const std::size_t count = std::min(kGroup, targets.size() - first);
    double target[kGroup];
    std::size_t node[kGroup] = {};
    for (std::size_t i = 0; i < count; ++i) target[i] = targets[first + i];
    for (std::size_t level = levels_.size(); level-- > 1;) {
      const double* const before = levels_[level].before.get();
      const double* const next = level > 1 ? levels_[level - 1].before.get() : weights_.data();
      const std::size_t last = levels_[level - 1].count - 1;
      for (std::size_t i = 0; i < count; ++i) {
        node[i] = node[i] * kFanOut + descend(before + node[i] * kFanOut, target[i]);
        if (node[i] > last) {  // rounding has led behind all weights: to the last one
          node[i] = last;
          target[i] = std::numeric_limits<double>::infinity();
        }
        __builtin_prefetch(next + node[i] * kFanOut);
      }
    }
    for (std::size_t i = 0; i < count; ++i) {
      std::size_t index = node[i] * kFanOut + last_begun(&weights_[node[i] * kFanOut], target[i]);
      if (weights_[index] == 0.0) index = find_nonzero(targets[first + i]);
      indexes[first + i] = static_cast<std::int64_t>(index);
    }
  }
}

// As find() where rounding has led to a weight of zero: stays away from empty subtrees.
std::size_t SumTree::find_nonzero(double target) const noexcept {
  std::size_t node = 0;
  for (std::size_t level = levels_.size(); level-- > 0;) {
    const double* const child = (level > 0 ? levels_[level - 1].totals.get() : weights_.data()) + node * kFanOut;
    double before[kFanOut];
    scan(child, before);
    std::size_t k = kFanOut - 1;
    while (k > 0 && (child[k] == 0.0 || before[k] > target)) --k;
    while (child[k] == 0.0) ++k;  // nothing begins at or before the target: the first there is
    target = std::max(0.0, target - before[k]);
    node = node * kFanOut + k;
  }
  return node;
}

}  // namespace trajmill
