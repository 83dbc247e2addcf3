// Random softmax rows: p_j = exp(u_j / temperature) / sum, with u_j uniform and hashed from (row, j).
//
// Paper: Wang et al., "Pre-training with Synthetic Data Helps Offline Reinforcement Learning" (arXiv 2310.00771),
// section 3. Deviation: u_j comes from a counter-based hash on a grid of 2^24 values in (0, 1), so no table need exist.
#pragma once

#include <cstdint>
#include <span>

#include "trajmill/philox.hpp"

namespace trajmill {

// A softmax divisor > 0; infinity makes rows uniform. Construction throws std::invalid_argument otherwise.
class Temperature {
 public:
  explicit Temperature(double value, const char* name = "temperature");
  [[nodiscard]] double value() const noexcept { return value_; }
  [[nodiscard]] std::uint64_t bits() const noexcept;

 private:
  double value_;
};

// e^x for x <= 0 from additions and multiplications in a fixed order: the same bits on every machine, error < 1 ulp or
// so; below -708 the result is 0.
[[nodiscard]] double portable_exp(double x) noexcept;

// Logits are kept as k in [0, kLogitCount); k stands for (k + 1/2) / kLogitCount.
inline constexpr std::uint32_t kLogitCount = std::uint32_t{1} << 24;
[[nodiscard]] constexpr double logit_value(std::uint32_t k) noexcept { return (k + 0.5) * 0x1p-24; }

// The logits of columns 4 block .. 4 block + 3 of row `row` + 2^64 `row_top` under `key`, in the top 24 bits of the
// words.
[[nodiscard]] constexpr PhiloxBlock logit_block(std::uint64_t key, std::uint64_t row, std::uint32_t block,
                                                std::uint32_t row_top = 0) noexcept {
  return row_block(key, row, block, kLogitRounds, row_top);
}

// The logit of one column.
[[nodiscard]] constexpr std::uint32_t logit(std::uint64_t key, std::uint64_t row, std::uint32_t column,
                                            std::uint32_t row_top = 0) noexcept {
  return logit_block(key, row, column / 4, row_top)[column % 4] >> 8;
}

// The values of the logits of row `row` under `key`.
void logits_row(std::uint64_t key, std::uint64_t row, std::span<double> logits) noexcept;

// The probabilities of that row at `temperature`; they sum to 1 up to rounding.
void softmax_row(std::uint64_t key, std::uint64_t row, Temperature temperature,
                 std::span<double> probabilities) noexcept;

}  // namespace trajmill
