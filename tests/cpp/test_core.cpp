// The core on its own: known answers, alias laws, invariance under instruction sets and threads.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "simd/kernels.hpp"
#include "trajmill/alias_table.hpp"
#include "trajmill/error.hpp"
#include "trajmill/implicit_rows.hpp"
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

MarkovChain make_chain(const ChainLaw& law, Backend backend = Backend::dense) { return {law, backend, kMemory, {}}; }

template <class T>
std::vector<T> sample(const MarkovChain& chain, const Sequences& sequences, std::size_t rows, std::size_t columns,
                      std::size_t threads = 1) {
  std::vector<T> out(rows * columns);
  chain.sample(sequences, {reinterpret_cast<std::byte*>(out.data()), rows, columns, sizeof(T)}, {threads, {}});
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

TEST_CASE("Philox4x32-7, which makes logits, gives Random123's known answers") {
  constexpr std::uint32_t kOnes = 0xFFFFFFFF;
  CHECK(philox4x32({0, 0, 0, 0}, 0, kLogitRounds) == PhiloxBlock{0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48});
  CHECK(philox4x32({kOnes, kOnes, kOnes, kOnes}, ~std::uint64_t{0}, kLogitRounds) ==
        PhiloxBlock{0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822, kLogitRounds) ==
        PhiloxBlock{0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a});
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
  CHECK_THROWS_AS(make_chain(chain_law(100000, 5)), std::invalid_argument);
}

TEST_CASE("implicit rows decide by the top half of a uniform number only what both halves agree on") {
  for (const double temperature : {0.01, 0.3, 1.0, 10.0, kInfinity}) {
    for (const std::uint32_t columns : {1u, 2u, 100u, 100000u, 3000000019u, 0xFFFFFFFFu}) {
      const ImplicitRows rows(7, columns, Temperature(temperature));
      for (std::uint64_t row = 0; row < 2000; ++row) {
        const std::uint64_t top = philox4x32({1, static_cast<std::uint32_t>(row), columns, 0}, 3)[0];
        const auto fraction = static_cast<std::uint32_t>(top * columns);
        const auto column = static_cast<std::uint32_t>(top * columns >> 32);
        const std::uint32_t k = logit(7, row, column);
        const std::uint32_t decision = rows.decisions()[k >> (24 - simd::kDecisionBits)];
        for (const std::uint64_t low : {std::uint64_t{0}, std::uint64_t{0xFFFFFFFF}}) {
          const auto drawn = rows.propose(row, top << 32 | low);
          if (fraction < decision << 16) {
            CHECK(drawn == column);
          } else if (fraction > (decision | 0xFFFF) && fraction < rows.certain_limit()) {
            CHECK(!drawn);
          }
        }
      }
    }
  }
}

TEST_CASE("a scan and accepted proposals draw from the same row, which is the dense one") {
  constexpr std::uint32_t kColumns = 37;
  constexpr int kDraws = 400000;
  const Temperature temperature(0.2);
  const ImplicitRows rows(5, kColumns, temperature);
  std::vector<double> law(kColumns);
  softmax_row(5, 11, temperature, law);
  std::vector<double> scanned(kColumns), proposed(kColumns);
  double accepted_count = 0;
  for (std::uint32_t i = 0; i < kDraws; ++i) {
    const PhiloxBlock words = philox4x32({i, 0, 0, 0}, 99);
    const std::uint64_t uniform = words[0] | std::uint64_t{words[1]} << 32;
    ++scanned[rows.scan(11, uniform)];
    const auto drawn = rows.propose(11, uniform);
    if (drawn) ++proposed[*drawn], ++accepted_count;
  }
  for (std::uint32_t j = 0; j < kColumns; ++j) {  // six standard deviations
    CHECK(std::abs(scanned[j] - kDraws * law[j]) < 6 * std::sqrt(kDraws * law[j]) + 1);
    CHECK(std::abs(proposed[j] - accepted_count * law[j]) < 6 * std::sqrt(accepted_count * law[j]) + 1);
  }
}

TEST_CASE("bytes do not depend on instruction set, threads, split, list, element size or length") {
  struct Case {
    std::uint32_t states, order;
    Backend backend;
    double temperature = 1.0;
    InitialLaw initial = InitialLaw::softmax;
  };
  const auto dense = Backend::dense, implicit = Backend::implicit;
  for (const Case& c : {Case{100, 1, dense}, Case{7, 3, dense}, Case{2, 0, dense}, Case{300, 1, dense},
                        Case{1, 2, dense}, Case{20, 2, dense}, Case{100, 1, implicit}, Case{60000, 0, implicit},
                        Case{60000, 1, implicit, 0.05, InitialLaw::uniform}, Case{100, 5, implicit},
                        Case{1000, 32, implicit}, Case{3, 2, implicit, 0.001}, Case{1, 1, implicit},
                        Case{9, 0, implicit, 1.0, InitialLaw::uniform}, Case{50, 2, implicit, kInfinity}}) {
    CAPTURE(c.states);
    CAPTURE(c.order);
    const MarkovChain chain = make_chain({c.states, c.order, Temperature(c.temperature), c.initial, 42}, c.backend);
    set_simd_level(SimdLevel::scalar);
    const auto expected = sample<std::uint16_t>(chain, {0}, 150, 131);
    for (const SimdLevel level : available_simd_levels()) {
      set_simd_level(level);
      for (const std::size_t threads : {1, 2, 3, 7}) {
        CHECK(sample<std::uint16_t>(chain, {0}, 150, 131, threads) == expected);
      }
      const auto wide = sample<std::uint64_t>(chain, {0}, 150, 131);
      CHECK(std::equal(wide.begin(), wide.end(), expected.begin()));
      const auto tail = sample<std::uint16_t>(chain, {61}, 89, 131);
      CHECK(std::equal(tail.begin(), tail.end(), expected.begin() + 61 * 131));
      const auto shorter = sample<std::uint16_t>(chain, {3}, 1, 5);
      CHECK(std::equal(shorter.begin(), shorter.end(), expected.begin() + 3 * 131));
      std::vector<std::uint64_t> indexes;
      for (std::uint64_t k = 0; k < 90; ++k) indexes.push_back(k * 77 % 150);
      const auto listed = sample<std::uint16_t>(chain, {0, indexes.data()}, indexes.size(), 131, 2);
      for (std::size_t k = 0; k < indexes.size(); ++k) {
        CHECK(std::equal(listed.begin() + k * 131, listed.begin() + (k + 1) * 131,
                         expected.begin() + static_cast<std::ptrdiff_t>(indexes[k]) * 131));
      }
    }
  }
}

TEST_CASE("implicit chains are what docs/streams.md says") {
  for (const auto& [states, order, temperature] :
       {std::tuple{100u, 1u, 1.0}, {100u, 3u, 0.1}, {40u, 1u, 0.002}, {1000000u, 2u, 1.0}, {7u, 0u, 1.0}}) {
    const ChainLaw law = chain_law(states, order, temperature);
    const ImplicitRows rows(derive_key(42, Domain::chain_logits), states, law.temperature);
    const std::uint64_t key = derive_key(42, Domain::chain_proposals, {states, order, law.temperature.bits(), 0});
    for (const std::uint64_t sequence : {std::uint64_t{0}, std::uint64_t{5} << 32 | 3}) {
      const auto tokens = sample<std::uint32_t>(make_chain(law, Backend::implicit), {sequence}, 1, 3000);
      std::vector<std::uint32_t> twin;
      std::uint32_t refused = 0;
      for (std::uint32_t n = 0; twin.size() < tokens.size(); ++n) {
        const auto word = [&](std::uint32_t last) {
          return philox4x32(
              {n / 4, static_cast<std::uint32_t>(sequence), static_cast<std::uint32_t>(sequence >> 32), last},
              key)[n % 4];
        };
        const std::uint64_t uniform = std::uint64_t{word(0)} << 32 | word(0x80000000);
        std::uint64_t row = 0;
        for (std::size_t t = twin.size() - std::min<std::size_t>(twin.size(), order); t < twin.size(); ++t) {
          row = row * states + twin[t] + 1;
        }
        const bool scan = refused == std::max(256u, 2 * states);
        const auto drawn = scan ? std::optional(rows.scan(row, uniform)) : rows.propose(row, uniform);
        refused = drawn ? 0 : refused + 1;
        if (drawn) twin.push_back(*drawn);
      }
      CHECK(tokens == twin);
    }
  }
}

TEST_CASE("chains of 2^32 - 1 states are the same for every instruction set") {
  const MarkovChain chain = make_chain(chain_law(0xFFFFFFFF, 3), Backend::implicit);
  set_simd_level(SimdLevel::scalar);
  const auto expected = sample<std::uint32_t>(chain, {~std::uint64_t{0} - 100}, 100, 40);
  for (const SimdLevel level : available_simd_levels()) {
    set_simd_level(level);
    CHECK(sample<std::uint32_t>(chain, {~std::uint64_t{0} - 100}, 100, 40) == expected);
  }
  CHECK(*std::ranges::max_element(expected) > 0xF0000000);
}

TEST_CASE("MDP bytes do not depend on instruction set or threads, for every backend and mix of table widths") {
  struct Case {
    std::uint32_t states, actions;
    Backend backend = Backend::dense;
    double temperature = 0.5;
  };
  for (const Case& c :
       {Case{10, 7}, Case{10, 300}, Case{300, 5}, Case{300, 300}, Case{10, 7, Backend::implicit},
        Case{60000, 50000, Backend::implicit}, Case{300, 1, Backend::implicit}, Case{5, 9, Backend::implicit, 0.001}}) {
    CAPTURE(c.states);
    CAPTURE(c.actions);
    const MDPLaw law{c.states, c.actions, Temperature(1.0), Temperature(c.temperature), StartLaw::random, 7};
    const MDP mdp(law, c.backend, kMemory, {});
    const auto draw = [&](const Sequences& trajectories, std::size_t rows, std::size_t threads) {
      std::vector<std::uint16_t> s(rows * 71), a(rows * 70);
      mdp.sample(trajectories, {reinterpret_cast<std::byte*>(s.data()), rows, 71, 2},
                 {reinterpret_cast<std::byte*>(a.data()), rows, 70, 2}, {threads, {}});
      return std::pair(s, a);
    };
    set_simd_level(SimdLevel::scalar);
    const auto expected = draw({0}, 100, 1);
    for (const SimdLevel level : available_simd_levels()) {
      set_simd_level(level);
      CHECK(draw({0}, 100, 3) == expected);
      const auto tail = draw({33}, 67, 2);
      CHECK(std::equal(tail.first.begin(), tail.first.end(), expected.first.begin() + 33 * 71));
      const std::uint64_t indexes[] = {99, 0, 45};
      const auto listed = draw({0, indexes}, 3, 1);
      CHECK(std::equal(listed.second.begin(), listed.second.begin() + 70, expected.second.begin() + 99 * 70));
      CHECK(std::equal(listed.first.begin() + 142, listed.first.end(), expected.first.begin() + 45 * 71));
    }
  }
}

TEST_CASE("rows that cannot hold the values are refused") {
  const MarkovChain chain = make_chain(chain_law(300, 1));
  CHECK_THROWS_AS(sample<std::uint8_t>(chain, {0}, 2, 2), std::invalid_argument);
  CHECK_THROWS_AS(sample<std::uint16_t>(chain, {~std::uint64_t{0}}, 2, 2), std::invalid_argument);
  CHECK(sample<std::uint16_t>(chain, {0}, 0, 5).empty());
}

TEST_CASE("an interrupt stops long work, and the pool serves the next call") {
  const MarkovChain chain = make_chain(chain_law(100, 1));
  std::vector<std::uint8_t> out(std::size_t{1} << 28);
  const Rows rows{reinterpret_cast<std::byte*>(out.data()), 1 << 18, 1 << 10, 1};
  CHECK_THROWS_AS(chain.sample({0}, rows, {2, [] { return true; }}), Interrupted);
  CHECK(sample<std::uint8_t>(chain, {0}, 100, 10, 2) == sample<std::uint8_t>(chain, {0}, 100, 10, 1));
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
