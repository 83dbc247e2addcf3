// The authors' streams: NumPy's generators by known answers, and the same bytes whatever makes them.
#include <doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "trajmill/reference_mdp.hpp"
#include "trajmill/reference_random.hpp"
#include "trajmill/reference_tokens.hpp"
#include "trajmill/simd.hpp"

using namespace trajmill;

namespace {

constexpr std::size_t kMemory = std::size_t{1} << 30;

std::vector<std::uint64_t> first_draws(std::vector<std::uint64_t> entropy) {
  Pcg64 generator(entropy);
  return {generator.next(), generator.next()};
}

template <class T>
Rows rows_over(std::vector<T>& values, std::size_t columns) {
  return {reinterpret_cast<std::byte*>(values.data()), values.size() / columns, columns, sizeof(T)};
}

template <class T = std::uint32_t>
std::vector<T> chain_tokens(std::uint32_t states, std::uint32_t order, double temperature, std::size_t memory_limit,
                            std::size_t threads = 1) {
  std::vector<T> tokens(6 * 8 * 40);
  ReferenceChain(states, order, Temperature(temperature), 666, memory_limit)
      .sample({6, 3, 0, 6}, rows_over(tokens, 40), {threads, {}});
  return tokens;
}

std::vector<std::int64_t> mdp_columns(double policy_temperature, double transition_temperature,
                                      std::size_t memory_limit, std::size_t threads = 1) {
  constexpr std::size_t kCount = 70 * 5;  // more trajectories than advance together
  std::vector<std::int64_t> columns(3 * kCount);
  std::int64_t* data = columns.data();
  reference_mdp_transitions({33, 70, Temperature(policy_temperature), Temperature(transition_temperature), 70, true},
                            memory_limit, {0, 70, 5, data, data + kCount, data + 2 * kCount}, {threads, {}});
  return columns;
}

}  // namespace

// numpy.random.default_rng(entropy).bit_generator.random_raw() >> 11, NumPy 2.4
TEST_CASE("SeedSequence and PCG64 give NumPy's draws") {
  using Draws = std::vector<std::uint64_t>;
  CHECK(first_draws({0}) == Draws{5737240835340368, 2430022687152954});
  CHECK(first_draws({666}) == Draws{6882960741269265, 4958447295013175});
  CHECK(first_draws({5, 7}) == Draws{4616098058709277, 2632476956235553});
  CHECK(first_draws({5 + (std::uint64_t{7} << 32)}) == first_draws({5, 7}));
  CHECK(first_draws({5, 0}) == first_draws({5}));
  CHECK(first_draws({7, 5}) != first_draws({5, 7}));
  CHECK(first_draws({std::uint64_t{1} << 32, 1}) == Draws{7643960037446544, 2290150914271712});
  CHECK(first_draws({1, 2, 3, 4, 5, 6}) == Draws{5600720827827402, 1075471011208553});
  CHECK(first_draws({std::uint64_t{1} << 40, std::uint64_t{1} << 50, std::uint64_t{1} << 60}) ==
        Draws{6036940469054223, 2570647816922356});
}

// numpy.random.RandomState(seed), NumPy 2.4
TEST_CASE("MT19937 gives NumPy's words, uniforms and integers") {
  Mt19937 generator(1000);
  CHECK(generator.next() == 2807145907);
  CHECK(generator.next() == 882709079);
  for (int i = 2; i < 624; ++i) generator.next();
  CHECK(generator.next() == 4245116817);
  CHECK(Mt19937(0xFFFFFFFF).next() == 419326371);
  CHECK(Mt19937(0).next_double() == 0.5488135039273248);
  CHECK(Mt19937(5).next_double() == 0.22199317108973948);
  CHECK(Mt19937(1).next_below(100) == 37);
  CHECK(Mt19937(5).next_below(100) == 99);
  CHECK(Mt19937(1000).next_below(100) == 51);
  CHECK(Mt19937(1000).next_below(1) == 0);
}

TEST_CASE("reference streams do not depend on instruction set, threads, element size or kept rows") {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  struct Law {
    std::uint32_t states, order;
    double temperature;
  };
  constexpr std::size_t kFewRows = 200'000;  // one of 5,000 states, or some hundred of 9
  const std::vector<SimdLevel> levels = available_simd_levels();
  for (const Law law :
       {Law{100, 1, 1.0}, Law{7, 2, 0.1}, Law{5000, 1, 1.0}, Law{100, 1, 0.001}, Law{9, 5, kInfinity}}) {
    set_simd_level(SimdLevel::scalar);
    const auto expected = chain_tokens(law.states, law.order, law.temperature, kMemory);
    for (const SimdLevel level : levels) {
      set_simd_level(level);
      CHECK(chain_tokens(law.states, law.order, law.temperature, kFewRows) == expected);
      CHECK(chain_tokens(law.states, law.order, law.temperature, kMemory, 3) == expected);
      const auto wide = chain_tokens<std::uint64_t>(law.states, law.order, law.temperature, kFewRows, 3);
      CHECK(std::equal(wide.begin(), wide.end(), expected.begin(), expected.end()));
    }
  }
  for (const double temperature : {1.0, kInfinity}) {
    set_simd_level(SimdLevel::scalar);
    const auto expected = mdp_columns(temperature, 0.5, kMemory);
    for (const SimdLevel level : levels) {
      set_simd_level(level);
      CHECK(mdp_columns(temperature, 0.5, 0) == expected);
      CHECK(mdp_columns(temperature, 0.5, kMemory, 3) == expected);
    }
  }
}

TEST_CASE("reference streams refuse what the authors' programs could not draw") {
  std::vector<std::uint32_t> tokens(12);
  std::vector<std::uint8_t> bytes(12);
  const ReferenceChain chain(1000, 1, Temperature(1.0), 666, kMemory);
  const std::uint64_t large = ~std::uint64_t{0};
  CHECK_THROWS_AS(chain.sample({5, 0, 0, 5}, rows_over(tokens, 3), {}), std::invalid_argument);
  CHECK_THROWS_AS(chain.sample({0, 0, 0, 0}, rows_over(tokens, 3), {}), std::invalid_argument);
  CHECK_THROWS_AS(chain.sample({2, 0, 0, 2}, rows_over(bytes, 3), {}), std::invalid_argument);
  CHECK_THROWS_AS(chain.sample({2, 0, 1, 2}, rows_over(tokens, 3), {}), std::invalid_argument);
  CHECK_THROWS_AS(chain.sample({2, 0, 3, 1}, rows_over(tokens, 3), {}), std::invalid_argument);
  CHECK_THROWS_AS(chain.sample({2, large, 0, 2}, rows_over(tokens, 3), {}), std::invalid_argument);
  CHECK_THROWS_AS(reference_iid_tokens(10, large, {2, 1, 0, 2}, rows_over(tokens, 3), 1 << 20, {}),
                  std::invalid_argument);
  CHECK_THROWS_AS(ReferenceChain(0, 1, Temperature(1.0), 0, kMemory), std::invalid_argument);
  CHECK_THROWS_AS(ReferenceChain(10, 0, Temperature(1.0), 0, kMemory), std::invalid_argument);
  CHECK_THROWS_AS(ReferenceChain(10, 33, Temperature(1.0), 0, kMemory), std::invalid_argument);
  CHECK_THROWS_AS(ReferenceChain(10, 1, Temperature(1.0), large, kMemory), std::invalid_argument);
  CHECK_THROWS_AS(ReferenceChain(10, 1, Temperature(1e-310), 0, kMemory), std::invalid_argument);
}
