// The core on its own: known answers, alias laws, invariance under instruction sets and threads.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "trajmill/alias_table.hpp"
#include "trajmill/error.hpp"
#include "trajmill/markov_chain.hpp"
#include "trajmill/mdp.hpp"
#include "trajmill/philox.hpp"
#include "trajmill/simd.hpp"

using namespace trajmill;

namespace {

constexpr std::size_t kMemory = std::size_t{1} << 30;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

ChainLaw chain_law(std::uint32_t states, std::uint32_t order, double temperature = 1.0) {
  return {states, order, Temperature(temperature), InitialLaw::softmax, 42};
}

template <class T>
std::vector<T> sample(const MarkovChain& chain, std::uint64_t first, std::size_t rows, std::size_t columns,
                      std::size_t threads = 1) {
  std::vector<T> out(rows * columns);
  chain.sample(first, {reinterpret_cast<std::byte*>(out.data()), rows, columns, sizeof(T)}, {threads, {}});
  return out;
}

}  // namespace

TEST_CASE("Philox4x32-10 gives Random123's known answers") {
  constexpr std::uint32_t kOnes = 0xFFFFFFFF;
  CHECK(philox4x32({0, 0, 0, 0}, 0) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({kOnes, kOnes, kOnes, kOnes}, ~std::uint64_t{0}) ==
        PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822) ==
        PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("every instruction set makes the generator's words") {
  std::uint32_t expected = 0;
  for (std::uint32_t sequence = 0; sequence < 37; ++sequence) {
    for (std::uint32_t block = 0; block < 5; ++block) {
      for (const std::uint32_t word : philox4x32({block, sequence, 0, 0}, 0x123456789ABCDEF0)) expected ^= word;
    }
  }
  for (const SimdLevel level : available_simd_levels()) {
    set_simd_level(level);
    CHECK(philox_checksum(0x123456789ABCDEF0, 37, 5) == expected);
  }
}

TEST_CASE("portable_exp is e^x to the last bits") {
  for (double x = -700.0; x <= 0.0; x += 0.37) CHECK(std::abs(portable_exp(x) / std::exp(x) - 1.0) < 4e-16);
  CHECK(portable_exp(0.0) == 1.0);
  CHECK(portable_exp(-1e9) == 0.0);
  CHECK(portable_exp(-kInfinity) == 0.0);
}

TEST_CASE("a temperature is > 0") {
  CHECK_THROWS_AS(Temperature(0.0), std::invalid_argument);
  CHECK_THROWS_AS(Temperature(-1.0), std::invalid_argument);
  CHECK_THROWS_AS(Temperature(std::nan("")), std::invalid_argument);
  CHECK(Temperature(kInfinity).value() == kInfinity);
}

TEST_CASE("an alias table holds its law to the resolution, and zeros exactly") {
  for (const std::uint32_t columns : {1u, 2u, 7u, 100u, 256u, 257u, 1000u}) {
    std::vector<double> law(columns);
    double sum = 0;
    for (std::uint32_t j = 0; j < columns; ++j) sum += law[j] = j % 3 == 1 ? 0.0 : 1.0 / (1.0 + j);
    for (double& p : law) p /= sum;
    const AliasTable table(1, columns, kMemory, {}, [&](std::uint64_t, std::span<double> out) {
      std::copy(law.begin(), law.end(), out.begin());
    });
    const auto integers = table.integer_law(0);
    const double total = columns * (table.is_narrow() ? 0x1p24 : 0x1p32);
    std::uint64_t integer_sum = 0;
    for (std::uint32_t j = 0; j < columns; ++j) {
      integer_sum += integers[j];
      CHECK(std::abs(static_cast<double>(integers[j]) - law[j] * total) <= columns);
      if (law[j] == 0.0) CHECK(integers[j] == 0);
    }
    CHECK(static_cast<double>(integer_sum) == total);
  }
}

TEST_CASE("a table that does not fit is refused") {
  const auto fill = [](std::uint64_t, std::span<double>) {};
  CHECK_THROWS_AS(AliasTable(1000, 1000, 1000, {}, fill), std::invalid_argument);
  CHECK_THROWS_AS(MarkovChain(chain_law(100000, 5), kMemory, {}), std::invalid_argument);
}

TEST_CASE("bytes do not depend on instruction set, threads, split, element size or length") {
  for (const auto& [states, order] : {std::pair{100u, 1u}, {7u, 3u}, {2u, 0u}, {300u, 1u}, {1u, 2u}, {20u, 2u}}) {
    const MarkovChain chain(chain_law(states, order), kMemory, {});
    set_simd_level(SimdLevel::scalar);
    const auto expected = sample<std::uint16_t>(chain, 0, 150, 131);
    for (const SimdLevel level : available_simd_levels()) {
      set_simd_level(level);
      for (const std::size_t threads : {1, 2, 3, 7}) {
        CHECK(sample<std::uint16_t>(chain, 0, 150, 131, threads) == expected);
      }
      const auto wide = sample<std::uint64_t>(chain, 0, 150, 131);
      CHECK(std::equal(wide.begin(), wide.end(), expected.begin()));
      const auto tail = sample<std::uint16_t>(chain, 61, 89, 131);
      CHECK(std::equal(tail.begin(), tail.end(), expected.begin() + 61 * 131));
      const auto shorter = sample<std::uint16_t>(chain, 3, 1, 5);
      CHECK(std::equal(shorter.begin(), shorter.end(), expected.begin() + 3 * 131));
    }
  }
  set_simd_level(available_simd_levels().back());
}

TEST_CASE("MDP bytes do not depend on instruction set or threads, for every mix of table widths") {
  for (const auto& [states, actions] : {std::pair{10u, 7u}, {10u, 300u}, {300u, 5u}, {300u, 300u}}) {
    const MDP mdp({states, actions, Temperature(1.0), Temperature(0.5), StartLaw::random, 7}, kMemory, {});
    const auto draw = [&](std::uint64_t first, std::size_t rows, std::size_t threads) {
      std::vector<std::uint16_t> s(rows * 71), a(rows * 70);
      mdp.sample(first, {reinterpret_cast<std::byte*>(s.data()), rows, 71, 2},
                 {reinterpret_cast<std::byte*>(a.data()), rows, 70, 2}, {threads, {}});
      return std::pair(s, a);
    };
    set_simd_level(SimdLevel::scalar);
    const auto expected = draw(0, 100, 1);
    for (const SimdLevel level : available_simd_levels()) {
      set_simd_level(level);
      CHECK(draw(0, 100, 3) == expected);
      const auto tail = draw(33, 67, 2);
      CHECK(std::equal(tail.first.begin(), tail.first.end(), expected.first.begin() + 33 * 71));
    }
  }
}

TEST_CASE("rows that cannot hold the values are refused") {
  const MarkovChain chain(chain_law(300, 1), kMemory, {});
  CHECK_THROWS_AS(sample<std::uint8_t>(chain, 0, 2, 2), std::invalid_argument);
  CHECK_THROWS_AS(sample<std::uint16_t>(chain, ~std::uint64_t{0}, 2, 2), std::invalid_argument);
  CHECK(sample<std::uint16_t>(chain, 0, 0, 5).empty());
}

TEST_CASE("an interrupt stops long work, and the pool serves the next call") {
  const MarkovChain chain(chain_law(100, 1), kMemory, {});
  std::vector<std::uint8_t> out(std::size_t{1} << 28);
  const Rows rows{reinterpret_cast<std::byte*>(out.data()), 1 << 18, 1 << 10, 1};
  CHECK_THROWS_AS(chain.sample(0, rows, {2, [] { return true; }}), Interrupted);
  CHECK(sample<std::uint8_t>(chain, 0, 100, 10, 2) == sample<std::uint8_t>(chain, 0, 100, 10, 1));
}

TEST_CASE("parallel_for covers every index once and passes exceptions on") {
  std::vector<std::atomic<int>> hits(1001);
  parallel_for(1001, 10, {5, {}}, [&](std::size_t begin, std::size_t end, const std::atomic<bool>&) {
    for (std::size_t i = begin; i < end; ++i) ++hits[i];
  });
  for (const auto& hit : hits) CHECK(hit == 1);
  const auto fail = [](std::size_t, std::size_t, const std::atomic<bool>&) { throw std::runtime_error("x"); };
  CHECK_THROWS_AS(parallel_for(100, 1, {4, {}}, fail), std::runtime_error);
}
