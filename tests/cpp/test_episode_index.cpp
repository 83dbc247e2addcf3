// Steps are found at any size, and episodes without steps are refused.
#include <doctest.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "trajmill/episode_index.hpp"
#include "trajmill/philox.hpp"

using namespace trajmill;

namespace {

std::uint64_t number_below(std::uint64_t bound, std::uint32_t position) {
  const PhiloxBlock block = philox4x32({position, 0, 0, 0}, 5);
  return (std::uint64_t{block[0]} << 32 | block[1]) % bound;
}

}  // namespace

TEST_CASE("a step is found at any size") {
  for (const std::uint64_t step_count : {10'000ULL, 1'000'000ULL, 1'000'000'000ULL, 1'000'000'000'000ULL}) {
    for (const std::uint64_t wanted_count : {1ULL, 10ULL, 10'000ULL, 1'000'000ULL}) {
      const std::uint64_t episode_count = std::min(wanted_count, step_count);
      std::vector<std::uint64_t> lengths(episode_count, step_count / episode_count);
      for (std::uint64_t k = 0; k < episode_count / 2; ++k) {  // from short to long and very long
        const std::uint64_t moved = number_below(lengths[k], static_cast<std::uint32_t>(k));
        lengths[k] -= moved;
        lengths[episode_count - 1 - k] += moved;
      }
      std::vector<std::uint64_t> ends;
      std::vector<Episode> episodes;
      for (const std::uint64_t length : lengths) {
        const std::uint64_t begin = ends.empty() ? 0 : ends.back();
        episodes.push_back({begin + 7 * episodes.size(), length});  // with gaps between them
        ends.push_back(begin + length);
      }
      const EpisodeIndex index(episodes);
      CHECK(index.step_count() == step_count);
      std::size_t wrong = 0;
      for (std::uint32_t k = 0; k < 20'000; ++k) {
        const std::uint64_t chosen[] = {0, step_count - 1, ends[0] - 1};
        const std::uint64_t step = k < 3 ? chosen[k] : number_below(step_count, k);
        const auto number = static_cast<std::size_t>(std::ranges::upper_bound(ends, step) - ends.begin());
        const std::uint64_t timestep = step - (ends[number] - lengths[number]);
        const StepPlace place = index.find(step);
        wrong += place.row != episodes[number].first_row + timestep || place.timestep != timestep ||
                 place.remaining != lengths[number] - timestep;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("an index needs episodes, and steps in each") {
  CHECK_THROWS_AS(EpisodeIndex({}), std::invalid_argument);
  const std::vector<Episode> episodes = {{0, 5}, {5, 0}};
  CHECK_THROWS_WITH(EpisodeIndex{episodes}, "episodes must have at least one step, number 1 has none");
}
