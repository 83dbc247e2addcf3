#include "trajmill/alias_table.hpp"

#include <algorithm>
#include <cmath>

#include "trajmill/error.hpp"

namespace trajmill {
namespace {

constexpr std::uint64_t kNarrowCapacity = std::uint64_t{1} << 24;
constexpr std::uint64_t kWideCapacity = std::uint64_t{1} << 32;
constexpr double kRounding = 1e-6;  // of a sum of probabilities

std::uint64_t capacity_of(bool narrow) { return narrow ? kNarrowCapacity : kWideCapacity; }

// Nearest integers to probability * total that sum to exactly `total`; the largest takes up the rounding. Without that
// sum Vose's method would not end, so what is no law is refused here, whoever gave it.
void round_to_integers(std::span<const double> probabilities, std::uint64_t total, std::span<std::uint64_t> integers) {
  const auto whole = static_cast<double>(total);
  std::uint64_t sum = 0;
  for (std::size_t j = 0; j < integers.size(); ++j) {
    require(probabilities[j] >= 0.0 && probabilities[j] <= 1.0 + kRounding, "probabilities must be in [0, 1], got ",
            probabilities[j], " in column ", j);
    integers[j] = static_cast<std::uint64_t>(probabilities[j] * whole + 0.5);
    sum += integers[j];
    require(sum <= total + total / 2, "the probabilities of a row must sum to 1, got more");
  }
  std::uint64_t& largest = *std::ranges::max_element(integers);
  const double rest = static_cast<double>(total) - static_cast<double>(sum);
  require(std::abs(rest) <= kRounding * whole + static_cast<double>(integers.size()) && largest + total > sum,
          "the probabilities of a row must sum to 1, got ", static_cast<double>(sum) / whole);
  largest += total - sum;  // unsigned wrap-around also subtracts
}

// Vose's method on integers, always in the same order, so that a law has one table.
class CellWriter {
 public:
  CellWriter(std::uint32_t column_count, bool narrow)
      : narrow_(narrow), probabilities_(column_count), integers_(column_count) {
    small_.reserve(column_count);
    large_.reserve(column_count);
  }

  // The law to write next; the caller fills it.
  [[nodiscard]] std::span<double> probabilities() noexcept { return probabilities_; }

  // Throws std::invalid_argument if what was filled in is no law.
  void write(std::uint32_t* cells) {
    const std::uint64_t capacity = capacity_of(narrow_);
    round_to_integers(probabilities_, capacity * integers_.size(), integers_);
    small_.clear();
    large_.clear();
    for (std::uint32_t j = 0; j < integers_.size(); ++j) (integers_[j] < capacity ? small_ : large_).push_back(j);
    while (!small_.empty()) {
      const std::uint32_t column = small_.back();
      const std::uint32_t donor = large_.back();
      small_.pop_back();
      store(cells, column, integers_[column], donor);
      integers_[donor] -= capacity - integers_[column];
      if (integers_[donor] >= capacity) continue;
      large_.pop_back();
      small_.push_back(donor);
    }
    for (const std::uint32_t column : large_) store(cells, column, 0, column);  // full: the alias is the column itself
  }

 private:
  void store(std::uint32_t* cells, std::uint32_t column, std::uint64_t threshold, std::uint32_t alias) const {
    if (narrow_) {
      cells[column] = static_cast<std::uint32_t>(threshold << 8) | alias;
    } else {
      cells[2 * std::size_t{column}] = static_cast<std::uint32_t>(threshold);
      cells[2 * std::size_t{column} + 1] = alias;
    }
  }

  bool narrow_;
  std::vector<double> probabilities_;
  std::vector<std::uint64_t> integers_;
  std::vector<std::uint32_t> small_, large_;  // columns below capacity, and the others
};

}  // namespace

AliasTable::AliasTable(std::uint64_t row_count, std::uint32_t column_count, std::size_t memory_limit,
                       const RunOptions& options, const std::function<void(std::uint64_t, std::span<double>)>& fill)
    : row_count_(row_count), column_count_(column_count) {
  if (row_count == 0 || column_count == 0) throw std::invalid_argument("a table needs at least one row and one column");
  const std::size_t words = is_narrow() ? 1 : 2;
  const double limit = std::min(static_cast<double>(memory_limit), static_cast<double>(kCellLimit * words * 4));
  require_memory(bytes_for(row_count, column_count), limit, "use fewer states, a lower order, or backend=\"implicit\"",
                 "the ", row_count, " rows x ", column_count, " columns of a dense table");
  const std::size_t row_words = words * column_count;
  cells_.resize(row_count * row_words);
  const std::size_t grain = std::max<std::size_t>(1, 4096 / column_count);
  parallel_for(row_count, grain, options, [&](std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled) {
    CellWriter writer(column_count_, is_narrow());
    for (std::size_t row = begin; row < end && !cancelled; ++row) {
      fill(row, writer.probabilities());
      writer.write(cells_.data() + row * row_words);
    }
  });
}

double AliasTable::bytes_for(std::uint64_t row_count, std::uint32_t column_count) noexcept {
  const double words = column_count <= kNarrowColumnLimit ? 1 : 2;
  return static_cast<double>(row_count) * column_count * words * sizeof(std::uint32_t);
}

std::vector<std::uint64_t> AliasTable::integer_law(std::uint64_t row) const {
  const std::uint64_t capacity = capacity_of(is_narrow());
  std::vector<std::uint64_t> law(column_count_, 0);
  for (std::uint32_t column = 0; column < column_count_; ++column) {
    const std::size_t cell = row * column_count_ + column;
    const std::uint64_t threshold = is_narrow() ? cells_[cell] >> 8 : cells_[2 * cell];
    const std::uint32_t alias = is_narrow() ? cells_[cell] & 0xFF : cells_[2 * cell + 1];
    law[column] += threshold;
    law[alias] += capacity - threshold;
  }
  return law;
}

}  // namespace trajmill
