// Many discrete laws over the same columns, each drawn from in constant time (Walker 1977, Vose 1991).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "trajmill/thread_pool.hpp"

namespace trajmill {

// Rows of alias cells. A draw picks column c uniformly, then keeps c if a uniform number is below the cell's threshold
// and takes the cell's alias otherwise. Probabilities are integers: multiples of 1 / (columns * capacity), where the
// capacity is 2^24 (narrow) or 2^32 (wide). A zero stays exactly zero.
//
// Narrow tables (at most 256 columns) pack a cell into 32 bits, threshold << 8 | alias, and spend one 32-bit word on a
// draw: the column is the high half of word * columns, the uniform number the top 24 bits of the low half.
// Wide tables hold threshold and alias in 32 bits each and spend two words: column from the first, second as it is.
class AliasTable {
 public:
  static constexpr std::uint32_t kNarrowColumnLimit = 256;
  static constexpr std::uint64_t kCellLimit =
      (std::uint64_t{1} << 31) - 1;  // a gather's index is a signed 32-bit number

  // fill(row, probabilities) writes the probabilities of one row; it is called from several threads. Throws
  // std::invalid_argument if the cells would need more than `memory_limit` bytes or number more than kCellLimit.
  AliasTable(std::uint64_t row_count, std::uint32_t column_count, std::size_t memory_limit, const RunOptions& options,
             const std::function<void(std::uint64_t, std::span<double>)>& fill);

  // What a table takes, as a double: it may be more than any memory.
  [[nodiscard]] static double bytes_for(std::uint64_t row_count, std::uint32_t column_count) noexcept;

  [[nodiscard]] bool is_narrow() const noexcept { return column_count_ <= kNarrowColumnLimit; }
  [[nodiscard]] std::uint32_t column_count() const noexcept { return column_count_; }
  [[nodiscard]] std::uint64_t row_count() const noexcept { return row_count_; }
  [[nodiscard]] std::size_t byte_count() const noexcept { return cells_.size() * sizeof(std::uint32_t); }
  [[nodiscard]] const std::uint32_t* cells() const noexcept { return cells_.data(); }

  // The exact law of the cells of one row: column_count() integers that sum to column_count() * capacity.
  [[nodiscard]] std::vector<std::uint64_t> integer_law(std::uint64_t row) const;

 private:
  std::uint64_t row_count_;
  std::uint32_t column_count_;
  std::vector<std::uint32_t> cells_;  // one word a cell if narrow, else two: threshold, alias
};

}  // namespace trajmill
