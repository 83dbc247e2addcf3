// Softmax rows that need no table: drawn by rejection from their hashed logits, whatever the number of rows.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "trajmill/softmax_row.hpp"

namespace trajmill {

// The rows of softmax_row.hpp under one key. A draw proposes a column uniformly and accepts it with probability
// exp((u - 1) / temperature), u the column's logit; the accepted column follows the row's softmax law.
//
// One 64-bit uniform number x serves both: x * columns / 2^64 has the column as integer part, and the column is
// accepted if the fraction, in units of 2^-64, is below an integer threshold that depends on the logit alone. So a
// column's probability is off by at most 2^-63 / columns x the mean number of proposals: less than the rounding of a
// double.
class ImplicitLaw {
 public:
  ImplicitLaw(std::uint64_t logit_key, std::uint32_t column_count, Temperature temperature);

  [[nodiscard]] std::uint64_t logit_key() const noexcept { return logit_key_; }
  [[nodiscard]] std::uint32_t column_count() const noexcept { return column_count_; }
  [[nodiscard]] Temperature temperature() const noexcept { return temperature_; }

  // The column that `uniform` proposes for row `row`, if it is accepted. `row_top` are the bits of a row's number from
  // 64 on.
  [[nodiscard]] std::optional<std::uint32_t> propose(std::uint64_t row, std::uint64_t uniform,
                                                     std::uint32_t row_top = 0) const noexcept;

  // A draw from the whole row, by inverse cumulative sums over every column. The law is that of accepted proposals, so
  // a draw may turn to it after any fixed number of refusals: rows whose logits are all small need it.
  [[nodiscard]] std::uint32_t scan(std::uint64_t row, std::uint64_t uniform, std::uint32_t row_top = 0) const;

  // Refusals after which a draw scans its row: about as much work as the scan itself.
  [[nodiscard]] std::uint32_t refusal_limit() const noexcept;

 private:
  std::uint64_t logit_key_;
  std::uint32_t column_count_;
  Temperature temperature_;
};

// The same with a table for the kernels, which spares them nearly all exponentials.
class ImplicitRows : public ImplicitLaw {
 public:
  ImplicitRows(std::uint64_t logit_key, std::uint32_t column_count, Temperature temperature);

  // What the top half of `uniform` alone decides, for the kernels. Entry k belongs to the logits whose top bits are k.
  // A proposal with fraction f (its top 32 bits) is accepted if f is below the entry's low half << 16, and refused if f
  // is above (entry | 0xFFFF) and below certain_limit(); in between, the low half of `uniform` has a say.
  [[nodiscard]] std::span<const std::uint32_t> decisions() const noexcept { return decisions_; }
  [[nodiscard]] std::uint32_t certain_limit() const noexcept { return 0u - column_count(); }

 private:
  std::vector<std::uint32_t> decisions_;  // [2^kDecisionBits]
};

}  // namespace trajmill
