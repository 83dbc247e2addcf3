// Which episode a step belongs to, in constant time however many steps there are.
//
// Steps are numbered through all episodes, 0, 1, 2, ... A guide table (Chen, Asau: "On generating random variates from
// an empirical distribution", 1974) names the episode in which each of equal pieces of these numbers begins. There are
// at least as many pieces as episodes, so the search for a uniformly drawn step passes less than one end of an episode
// on average, whatever the lengths. 24 to 40 bytes an episode, none a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace trajmill {

// Consecutive rows of arrays of steps.
struct Episode {
  std::size_t first_row;
  std::size_t length;
};

// Where a step is: its row, its number in its episode, and the steps from it to the end, itself included.
struct StepPlace {
  std::size_t row;
  std::size_t timestep;
  std::size_t remaining;
};

class EpisodeIndex {
 public:
  // Throws std::invalid_argument if there is no episode or one has no step.
  explicit EpisodeIndex(std::span<const Episode> episodes);

  [[nodiscard]] std::size_t step_count() const noexcept { return entries_.back().first_step; }

  // The place of `step` < step_count().
  [[nodiscard]] StepPlace find(std::size_t step) const noexcept {
    std::size_t episode = guide_[step >> piece_bits_];
    while (entries_[episode + 1].first_step <= step) ++episode;
    const std::size_t timestep = step - entries_[episode].first_step;
    return {entries_[episode].first_row + timestep, timestep, entries_[episode + 1].first_step - step};
  }

 private:
  struct Entry {
    std::size_t first_step;
    std::size_t first_row;
  };
  std::vector<Entry> entries_;      // one more than episodes: the last only ends the one before
  std::vector<std::size_t> guide_;  // episode of the first step of each piece
  std::uint32_t piece_bits_;        // a piece is 2^piece_bits_ steps
};

}  // namespace trajmill
