#include "trajmill/softmax_row.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "trajmill/error.hpp"

namespace trajmill {

Temperature::Temperature(double value, const char* name) : value_(value) {
  if (!(value > 0.0)) {  // written so that NaN fails too
    throw std::invalid_argument(message(name, " must be > 0 (infinity makes every row uniform), got ", value));
  }
}

std::uint64_t Temperature::bits() const noexcept { return std::bit_cast<std::uint64_t>(value_); }

double portable_exp(double x) noexcept {
  constexpr double kSmallest = -708.0;
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42fee00000p-1;  // low bits zero, so that n * kLn2High is exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  if (!(x > kSmallest)) return 0.0;
  const double n = std::floor(x * kLog2E + 0.5);
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  double sum = 1.0;
  for (int k = 13; k >= 1; --k) sum = 1.0 + sum * r / k;  // Taylor series in Horner form
  const auto exponent = static_cast<std::uint64_t>(static_cast<std::int64_t>(n) + 1023);
  return sum * std::bit_cast<double>(exponent << 52);
}

void logits_row(std::uint64_t key, std::uint64_t row, std::span<double> logits) noexcept {
  for (std::size_t first = 0; first < logits.size(); first += 4) {
    const PhiloxBlock block = row_block(key, row, static_cast<std::uint32_t>(first / 4));
    const std::size_t count = std::min<std::size_t>(4, logits.size() - first);
    for (std::size_t j = 0; j < count; ++j) logits[first + j] = logit_value(block[j] >> 8);
  }
}

void softmax_row(std::uint64_t key, std::uint64_t row, Temperature temperature,
                 std::span<double> probabilities) noexcept {
  logits_row(key, row, probabilities);
  const double largest = *std::ranges::max_element(probabilities);
  double sum = 0.0;
  for (double& p : probabilities) sum += p = portable_exp((p - largest) / temperature.value());
  for (double& p : probabilities) p /= sum;
}

}  // namespace trajmill
