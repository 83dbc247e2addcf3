// Bracket laws: what is left of a word picks without a division, exactly, and the r-th open type is found.
#include <doctest.h>

#include <cstdint>
#include <vector>

#include "laws/dyck.hpp"
#include "simd/scalar.hpp"

using namespace trajmill;
using simd::Scalar;

namespace {

constexpr std::uint64_t kWhole = std::uint64_t{1} << 32;

// Numbers below `end` around every edge of x n / whole, and the ends.
std::vector<std::uint32_t> edges(std::uint64_t n, std::uint64_t whole, std::uint64_t end) {
  std::vector<std::uint32_t> numbers;
  for (std::uint64_t k = 0; k <= n; k += n > 200 ? n / 97 : 1) {
    for (std::uint64_t x = k * whole / n, near = 0; near < 4; ++near) {
      if (x + near >= 2 && x + near - 2 < end) numbers.push_back(static_cast<std::uint32_t>(x + near - 2));
    }
  }
  numbers.push_back(static_cast<std::uint32_t>(end - 1));
  return numbers;
}

}  // namespace

TEST_CASE("what is left of a word picks a type and a rank as a division would") {
  for (const std::uint64_t pairs : {1, 2, 3, 63, 64, 65, 1000, 32767, 32768}) {
    for (const std::uint64_t threshold : {pairs + 1, pairs + 2, std::uint64_t{100'003}, kWhole / 3, kWhole / 2 - 1,
                                          kWhole / 2, kWhole / 2 + 1, kWhole - 65'536, kWhole - 3, kWhole - 1}) {
      if (threshold <= pairs) continue;
      const laws::dyck::Choices<Scalar> choices(static_cast<std::uint32_t>(pairs),
                                                static_cast<std::uint32_t>(threshold));
      std::uint32_t rest = 0;
      bool same = true;
      for (const std::uint64_t x : edges(pairs, threshold, threshold)) {
        same &= choices.type(x, false, rest) == x * pairs / threshold && rest == x * pairs % threshold;
      }
      for (const std::uint64_t x : edges(pairs, kWhole, kWhole)) {
        same &= choices.type(x, true, rest) == x * pairs / kWhole && rest == x * pairs % kWhole;
        same &=
            choices.rank(static_cast<std::uint32_t>(x), true, static_cast<std::uint32_t>(pairs)) == x * pairs / kWhole;
      }
      for (std::uint64_t m = 1; m <= pairs; m += pairs > 200 ? 419 : 1) {
        for (const std::uint64_t left : edges(m, kWhole - threshold, kWhole - threshold)) {
          same &= choices.rank(static_cast<std::uint32_t>(threshold + left), false, static_cast<std::uint32_t>(m)) ==
                  left * m / (kWhole - threshold);
        }
      }
      CHECK_MESSAGE(same, pairs, " types, threshold ", threshold);
    }
  }
}

TEST_CASE("the r-th smallest of the open types is found") {
  std::uint64_t state = 1;
  for (int set = 0; set < 2000; ++set) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const std::uint64_t chosen = set == 0 ? ~std::uint64_t{0} : state & (set % 3 == 0 ? state >> 7 : ~std::uint64_t{0});
    laws::dyck::OpenTypes<Scalar> open;
    for (std::uint32_t type = 0; type < 64; ++type) open.put(type, true);
    for (std::uint32_t type = 0; type < 64; ++type) open.put(type, (chosen >> type & 1) != 0);
    std::uint32_t r = 0;
    bool same = true;
    for (std::uint32_t type = 0; type < 64; ++type) {
      if ((chosen >> type & 1) != 0) same &= open.at(r++) == type;
    }
    CHECK(same);
  }
}
