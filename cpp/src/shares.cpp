#include "trajmill/shares.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

#include "trajmill/error.hpp"

namespace trajmill {
namespace {

constexpr double kRounding = 1e-9;  // rows; a source that is owed less than this beyond its rows is owed none
constexpr std::size_t kMostRows = std::size_t{1} << 33;
constexpr double kDrift = 1e-3;  // rows; more than rounding makes of the sum in 10^12 draws

}  // namespace

void Shares::set_credit(std::vector<double> credit) {
  require(credit.size() == credit_.size(), "there must be one credit for each of ", credit_.size(), " sources, got ",
          credit.size());
  double owed = 0.0;
  const double most = static_cast<double>(credit.size());
  for (const double rows : credit) {
    require(std::abs(rows) <= most, "credit must be rows that a source is owed, at most ", most, ", got ", rows);
    owed += rows;
  }
  require(std::abs(owed) < kDrift, "credit must sum to 0, as what one source is owed another was given, got ", owed);
  credit_ = std::move(credit);
}

void Shares::split(std::size_t batch_size, std::span<const double> weights, std::span<std::size_t> counts) {
  const std::size_t source_count = credit_.size();
  require(weights.size() == source_count && counts.size() == source_count, "there must be one weight for each of ",
          source_count, " sources, got ", weights.size());
  require(batch_size <= kMostRows, "batch_size must be at most 2^33, got ", batch_size);
  const double whole = std::accumulate(weights.begin(), weights.end(), 0.0);
  require(whole > 0 && !std::isinf(whole) && std::ranges::all_of(weights, [](double weight) { return weight >= 0; }),
          "weights must be >= 0 with a finite sum > 0, which is ", whole);
  std::size_t given = 0;
  for (std::size_t k = 0; k < source_count; ++k) {
    credit_[k] += static_cast<double>(batch_size) * (weights[k] / whole);
    const bool due = weights[k] > 0 && credit_[k] >= 1;
    counts[k] = due ? static_cast<std::size_t>(std::floor(credit_[k])) : 0;
    given += counts[k];
  }
  const auto best = [&](const auto& is_candidate, const auto& rank) {
    std::size_t found = source_count;
    for (std::size_t k = 0; k < source_count; ++k) {
      if (is_candidate(k) && (found == source_count || rank(k) < rank(found))) found = k;
    }
    return found;
  };
  const auto surplus = [&](std::size_t k) { return static_cast<double>(counts[k]) - credit_[k]; };
  // Only after a change of weights can more rows be due than there are seats; the source that lags least waits.
  for (; given > batch_size; --given) {
    --counts[best([&](std::size_t k) { return counts[k] > 0; }, [&](std::size_t k) { return -surplus(k); })];
  }
  for (; given < batch_size; ++given) {
    ++counts[best([&](std::size_t k) { return weights[k] > 0; },
                  [&](std::size_t k) { return std::tuple(surplus(k) > -kRounding, (surplus(k) + 1) / weights[k]); })];
  }
  for (std::size_t k = 0; k < source_count; ++k) credit_[k] -= static_cast<double>(counts[k]);
}

}  // namespace trajmill
