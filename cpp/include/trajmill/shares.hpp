// How many rows of each batch every source gets: whole numbers that follow the weights and never drift from them.
//
// Source k is owed the sum of batch_size * weight_k over all batches. Its row j may be given once it is owed more than
// j - 1 rows and must be given by the time it is owed j. Of the rows that may be given, each batch takes those whose
// time comes first. While weights do not change, all rows are then in time (earliest deadline first misses none if any
// order of unit jobs does: Horn, "Some simple scheduling algorithms", 1974; one exists: Tijdeman, "The chairman
// assignment problem", 1980), so what a source got and what it was owed never differ by a row, whatever the batch
// sizes. The work is quadratic in the number of sources and does not depend on the batch size.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace trajmill {

class Shares {
 public:
  explicit Shares(std::size_t source_count) : credit_(source_count) {}

  // The rows of the next batch, which sum to `batch_size`. Weights are relative; a source of weight 0 gets none. Throws
  // std::invalid_argument unless there is one weight for each source, all >= 0, with a finite sum > 0, and at most 2^33
  // rows.
  void split(std::size_t batch_size, std::span<const double> weights, std::span<std::size_t> counts);

  // Rows that each source was owed so far less those it got.
  [[nodiscard]] const std::vector<double>& credit() const noexcept { return credit_; }

  // Throws std::invalid_argument unless there is one for each source, and they can have come from draws: no more rows
  // are owed than there are sources, and as many as some were given too early.
  void set_credit(std::vector<double> credit);

 private:
  std::vector<double> credit_;
};

}  // namespace trajmill
