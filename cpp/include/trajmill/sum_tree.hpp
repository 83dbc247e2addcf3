// Draws in proportion to weights that change: a tree whose nodes are the sums of eight children.
//
// A node is always summed afresh from its children, in one fixed order. So sums never drift, and a tree built from the
// same weights is equal bit for bit, whatever happened before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace trajmill {

// By which changed weights are noticed, where they lie in memory that outlives the process; it lies there too.
struct WeightCheck {
  static constexpr std::uint64_t kChanging = 0xC33C'5AA5'9669'0FF0;

  std::uint64_t sum;    // over all weights; all zero: 0
  std::uint64_t state;  // 0: the sum holds. kChanging: weights and sum are being changed

  [[nodiscard]] static std::uint64_t sum_of(std::span<const double> weights) noexcept;
};

class SumTree {
 public:
  static constexpr std::size_t kFanOut = 8;          // doubles of a cache line
  static constexpr double kLargestWeight = 0x1p960;  // so that no sum of them is infinite

  // How many weights there must be room for: `count`, filled up with zeros.
  [[nodiscard]] static constexpr std::size_t padded(std::size_t count) noexcept {
    return (count + kFanOut - 1) / kFanOut * kFanOut;
  }

  // A tree over the caller's weights, each in [0, kLargestWeight]; there are padded(n) of them, and they outlive it.
  // What `check` points to is kept up with them, if anything. If `all_zero`, none is looked at: then neither weights
  // nor tree take memory before something is set.
  explicit SumTree(std::span<double> weights, WeightCheck* check = nullptr, bool all_zero = false);

  [[nodiscard]] double total() const noexcept { return levels_.back().totals.get()[0]; }
  [[nodiscard]] double weight(std::size_t index) const noexcept { return weights_[index]; }

  // Sets many weights; where an index comes twice the last one holds.
  void set(std::span<const std::int64_t> indexes, std::span<const double> weights);

  // After this, fill() over at most `count` weights cannot fail.
  void make_room(std::size_t count) { changed_.reserve(count / kFanOut + 2); }

  // Sets the weights of [begin, end) to one value.
  void fill(std::size_t begin, std::size_t end, double weight);

  // The index under each target in [0, total()]: the i with w_0 + ... + w_{i-1} <= target < w_0 + ... + w_i up to
  // rounding. Never one of weight zero, provided that total() > 0.
  void find(std::span<const double> targets, std::int64_t* indexes) const noexcept;

 private:
  struct Free {
    Free() noexcept : mapped_bytes(0) {}
    explicit Free(std::size_t bytes) noexcept : mapped_bytes(bytes) {}
    std::size_t mapped_bytes;  // 0: of malloc
    void operator()(double* memory) const noexcept;
  };
  using Zeros = std::unique_ptr<double[], Free>;  // zero at first; what nothing was written to takes no memory

  struct Level {
    std::size_t count;  // nodes; totals are filled up with zeros
    Zeros totals;       // sums of eight children each
    Zeros before;       // of each child the sum of those left of it; not kept for the weights themselves
  };

  [[nodiscard]] static Zeros zeros(std::size_t count);

  template <class Change>
  void change(const Change& change) noexcept;
  void put(std::size_t index, double weight) noexcept;
  void refresh(std::span<std::size_t> changed) noexcept;
  [[nodiscard]] std::size_t find_nonzero(double target) const noexcept;

  std::span<double> weights_;
  WeightCheck* check_;
  std::vector<Level> levels_;         // sums of weights, then sums of sums, up to a single one
  std::vector<std::size_t> changed_;  // what set() has to sum again; kept for its memory
};

}  // namespace trajmill
