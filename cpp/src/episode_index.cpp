#include "trajmill/episode_index.hpp"

#include <bit>
#include <stdexcept>

#include "trajmill/error.hpp"

namespace trajmill {

constexpr std::size_t kMostSteps = std::size_t{1} << 62;

EpisodeIndex::EpisodeIndex(std::span<const Episode> episodes) {
  if (episodes.empty()) throw std::invalid_argument("there must be at least one episode, got none");
  entries_.reserve(episodes.size() + 1);
  std::size_t step = 0;
  for (const Episode& episode : episodes) {
    if (episode.length == 0) {
      throw std::invalid_argument(
          message("episodes must have at least one step, number ", entries_.size(), " has none"));
    }
    entries_.push_back({step, episode.first_row});
    require(episode.length <= kMostSteps - step, "episodes must have at most 2^62 steps together");
    step += episode.length;
  }
  entries_.push_back({step, 0});

  piece_bits_ = static_cast<std::uint32_t>(std::bit_width(step / episodes.size()) - 1);
  const std::size_t piece_count = ((step - 1) >> piece_bits_) + 1;
  guide_.reserve(piece_count);
  std::size_t number = 0;
  for (std::size_t piece = 0; piece < piece_count; ++piece) {
    while (entries_[number + 1].first_step <= piece << piece_bits_) ++number;
    guide_.push_back(number);
  }
}

}  // namespace trajmill
