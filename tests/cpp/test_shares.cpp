// A million batches of awkward fractions: no source is ever a row off.
#include <doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "trajmill/philox.hpp"
#include "trajmill/shares.hpp"

using namespace trajmill;

TEST_CASE("shares do not drift in a million batches") {
  constexpr std::uint64_t kBatches = 1'000'000;
  const std::vector<std::vector<std::uint64_t>> cases = {{1, 1, 1}, {1, 2}, {1, 6, 7, 3, 11, 2}, {999'983, 1, 17}};
  for (const std::vector<std::uint64_t>& parts : cases) {
    std::uint64_t whole = 0;
    for (const std::uint64_t part : parts) whole += part;
    const std::vector<double> weights(parts.begin(), parts.end());
    Shares shares(parts.size());
    std::vector<std::size_t> counts(parts.size());
    std::vector<std::uint64_t> given(parts.size());
    std::uint64_t total = 0;
    bool exact = true;
    for (std::uint64_t batch = 0; batch < kBatches; ++batch) {
      const std::size_t batch_size = batch % 2 == 0 ? 256 : philox4x32({static_cast<std::uint32_t>(batch)}, 1)[0] % 300;
      shares.split(batch_size, weights, counts);
      total += batch_size;
      std::uint64_t sum = 0;
      for (std::size_t k = 0; k < parts.size(); ++k) {
        given[k] += counts[k];
        sum += given[k];
        // |given - total * part / whole| < 1, in whole numbers
        const std::uint64_t got = given[k] * whole, owed = total * parts[k];
        exact = exact && (got > owed ? got - owed : owed - got) < whole;
      }
      exact = exact && sum == total;
    }
    CHECK(exact);
  }
}
