// What the authors' streams share: NumPy's sums, softmax rows, and rows that are built once and kept. Internal to the
// core.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace trajmill {

// numpy.sum of a contiguous array: pairwise, in blocks of 128 with eight running sums.
template <class Float>
Float pairwise_sum(std::span<const Float> values) noexcept {
  constexpr std::size_t kLanes = 8, kBlock = 128;
  const std::size_t count = values.size();
  if (count > kBlock) {
    const std::size_t half = count / 2 / kLanes * kLanes;
    return pairwise_sum(values.first(half)) + pairwise_sum(values.subspan(half));
  }
  std::size_t i = 0;
  Float sum = 0;
  if (count >= kLanes) {
    Float lane[kLanes];
    for (; i < kLanes; ++i) lane[i] = values[i];
    for (; i + kLanes <= count; i += kLanes) {
      for (std::size_t k = 0; k < kLanes; ++k) lane[k] += values[i + k];
    }
    sum = ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  }
  for (; i < count; ++i) sum += values[i];
  return sum;
}

// Logits become probabilities, in their own precision: exp(x - max) / sum.
template <class Float>
void softmax_in_place(std::span<Float> row) noexcept {
  const Float largest = *std::ranges::max_element(row);
  for (Float& x : row) x = static_cast<Float>(std::exp(static_cast<double>(x - largest)));
  const Float sum = pairwise_sum(std::span<const Float>(row));
  for (Float& x : row) x /= sum;
}

// A row as NumPy's choice() uses it: its running sums divided by the last of them.
class CumulativeRow {
 public:
  void assign(std::span<const double> probabilities) {
    sums_.assign(probabilities.begin(), probabilities.end());
    double sum = 0.0;
    for (double& x : sums_) x = sum += x;
    for (double& x : sums_) x /= sum;
    starts_.resize(std::bit_ceil(sums_.size()));
    std::uint32_t start = 0;
    for (std::size_t i = 0; i < starts_.size(); ++i) {
      while (sums_[start] <= static_cast<double>(i) / static_cast<double>(starts_.size())) ++start;
      starts_[i] = start;
    }
  }

  // searchsorted(u, side="right") for u in [0, 1): the first entry above u.
  [[nodiscard]] std::uint32_t pick(double u) const noexcept {
    std::uint32_t i = starts_[static_cast<std::size_t>(u * static_cast<double>(starts_.size()))];
    while (sums_[i] <= u) ++i;
    return i;
  }

  [[nodiscard]] std::size_t byte_count() const noexcept {
    return sums_.size() * sizeof(double) + starts_.size() * sizeof(std::uint32_t);
  }

 private:
  std::vector<double> sums_;
  std::vector<std::uint32_t> starts_;  // where to look from, for each of equal parts of [0, 1)
};

// Rows that threads build when they first need them and then share, as long as memory lasts.
template <class Row>
class RowCache {
 public:
  RowCache(std::uint64_t row_count, std::size_t byte_limit)
      : slots_(row_count <= kMostRows ? row_count : 0), bytes_left_(static_cast<std::int64_t>(byte_limit)) {}
  RowCache(const RowCache&) = delete;
  RowCache& operator=(const RowCache&) = delete;
  ~RowCache() {
    for (const auto& slot : slots_) delete slot.load(std::memory_order_relaxed);
  }

  // Row `index` if it is kept, else null.
  const Row* find(std::uint64_t index) const noexcept {
    return index < slots_.size() ? slots_[index].load(std::memory_order_acquire) : nullptr;
  }

  // Row `index`, made by build(row) unless it is kept already; in `scratch` if it is not to be kept.
  template <class Build>
  const Row& get(std::uint64_t index, Row& scratch, const Build& build) {
    if (const Row* row = find(index)) return *row;
    build(scratch);
    const auto bytes = static_cast<std::int64_t>(scratch.byte_count() + sizeof(Row));
    if (index >= slots_.size() || bytes_left_.load(std::memory_order_relaxed) < bytes) return scratch;
    bytes_left_ -= bytes;
    auto fresh = std::make_unique<Row>(scratch);
    const Row* kept = nullptr;
    if (slots_[index].compare_exchange_strong(kept, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    return *kept;  // another thread was faster
  }

 private:
  static constexpr std::uint64_t kMostRows = std::uint64_t{1} << 22;

  std::vector<std::atomic<const Row*>> slots_;
  std::atomic<std::int64_t> bytes_left_;
};

}  // namespace trajmill
