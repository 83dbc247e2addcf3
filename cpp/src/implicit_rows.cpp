#include "trajmill/implicit_rows.hpp"

#include <algorithm>
#include <cmath>

#include "simd/kernels.hpp"
#include "trajmill/philox.hpp"

namespace trajmill {
namespace {

constexpr std::uint64_t kEverything = ~std::uint64_t{0};

struct Product {
  std::uint64_t high, low;
};

// The 128-bit product, from 32-bit halves: the same on every compiler.
Product multiply(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t a0 = a & 0xFFFFFFFF, a1 = a >> 32, b0 = b & 0xFFFFFFFF, b1 = b >> 32;
  const std::uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
  const std::uint64_t carry = (middle & 0xFFFFFFFF) + a0 * b1;
  return {a1 * b1 + (middle >> 32) + (carry >> 32), a * b};
}

// exp((u - 1) / temperature) in units of 2^-64; the largest number stands for 1.
std::uint64_t threshold(std::uint32_t logit, Temperature temperature) {
  const double weight = portable_exp((logit_value(logit) - 1.0) / temperature.value());
  return weight < 1.0 ? static_cast<std::uint64_t>(weight * 0x1p64) : kEverything;
}

}  // namespace

ImplicitLaw::ImplicitLaw(std::uint64_t logit_key, std::uint32_t column_count, Temperature temperature)
    : logit_key_(logit_key), column_count_(column_count), temperature_(temperature) {}

ImplicitRows::ImplicitRows(std::uint64_t logit_key, std::uint32_t column_count, Temperature temperature)
    : ImplicitLaw(logit_key, column_count, temperature) {
  constexpr std::uint32_t kBinSize = kLogitCount >> simd::kDecisionBits;
  constexpr std::uint64_t kSlack = 2;  // covers the rounding of the thresholds inside a bin
  for (std::uint32_t first = 0; first < kLogitCount; first += kBinSize) {
    const std::uint64_t smallest = threshold(first, temperature) >> 32;
    const std::uint64_t largest = threshold(first + kBinSize - 1, temperature) >> 32;
    // The low half of the uniform number adds less than column_count to the top 32 bits of the fraction.
    const std::uint64_t certain = smallest > column_count + kSlack ? smallest - column_count - kSlack : 0;
    const std::uint64_t possible = std::min<std::uint64_t>(largest + kSlack, 0xFFFFFFFF);
    decisions_.push_back(static_cast<std::uint32_t>((possible & 0xFFFF0000) | certain >> 16));
  }
}

std::optional<std::uint32_t> ImplicitLaw::propose(std::uint64_t row, std::uint64_t uniform,
                                                  std::uint32_t row_top) const noexcept {
  const auto [column, fraction] = multiply(uniform, column_count_);
  const auto candidate = static_cast<std::uint32_t>(column);
  const std::uint64_t limit = threshold(logit(logit_key_, row, candidate, row_top), temperature_);
  if (fraction < limit || limit == kEverything) return candidate;
  return std::nullopt;
}

std::uint32_t ImplicitLaw::scan(std::uint64_t row, std::uint64_t uniform, std::uint32_t row_top) const {
  struct Candidate {
    std::uint32_t column, logit;
  };
  constexpr double kNegligible = 44.0;  // exp(-44) x 2^63 < 1
  const double reach = kNegligible * temperature_.value() * kLogitCount + 1.0;
  const std::uint32_t window = reach < kLogitCount ? static_cast<std::uint32_t>(reach) : kLogitCount;
  std::vector<Candidate> candidates;  // whose weight was not negligible when they came
  std::uint32_t largest = 0;
  for (std::uint64_t first = 0; first < column_count_; first += 4) {
    const PhiloxBlock block = logit_block(logit_key_, row, static_cast<std::uint32_t>(first / 4), row_top);
    for (std::uint32_t j = 0; j < 4 && first + j < column_count_; ++j) {
      const std::uint32_t k = block[j] >> 8;
      if (k + window < largest) continue;
      candidates.push_back({static_cast<std::uint32_t>(first) + j, k});
      largest = std::max(largest, k);
    }
  }
  const double unit = 0x1p63 / column_count_;  // so that the sum fits
  const auto weight = [&](const Candidate& candidate) {
    const double x = (logit_value(candidate.logit) - logit_value(largest)) / temperature_.value();
    return static_cast<std::uint64_t>(portable_exp(x) * unit);
  };
  std::uint64_t total = 0;
  for (const Candidate& candidate : candidates) total += weight(candidate);
  std::uint64_t left = multiply(uniform, total).high;
  for (const Candidate& candidate : candidates) {
    const std::uint64_t part = weight(candidate);
    if (left < part) return candidate.column;
    left -= part;
  }
  return candidates.back().column;  // not reached: left < total
}

std::uint32_t ImplicitLaw::refusal_limit() const noexcept {
  constexpr std::uint64_t kProposalsPerColumn = 2;
  constexpr std::uint64_t kFewest = 256;
  return static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(kProposalsPerColumn * column_count_, kFewest, std::uint64_t{1} << 31));
}

}  // namespace trajmill
