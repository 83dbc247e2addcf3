// How fast this build samples; no test, and run by name alone: `python tools/check.py compilers` compares compilers.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "doctest.h"
#include "trajmill/markov_chain.hpp"
#include "trajmill/simd.hpp"

using namespace trajmill;

TEST_CASE("10^9 tokens a second, each instruction set's best of 100 rounds on one thread" * doctest::skip()) {
  constexpr std::size_t kRows = 2048, kLength = 1024;
  const MarkovChain chain({100, 1, Temperature(1.0), InitialLaw::softmax, 42}, Backend::dense, std::size_t{1} << 30,
                          {});
  std::vector<std::byte> tokens(kRows * kLength);
  const SimdLevel before = simd_level();
  for (const SimdLevel level : available_simd_levels()) {
    set_simd_level(level);
    double best = 0;
    for (int round = 0; round < 100; ++round) {
      const auto start = std::chrono::steady_clock::now();
      chain.sample({0}, {tokens.data(), kRows, kLength, 1}, {});
      const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(tokens.size()) / spent.count());
    }
    std::printf("%s %.3f\n", name(level).data(), best);
  }
  set_simd_level(before);
}
