// Windows of consecutive steps for sequence models, drawn from whole episodes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "trajmill/batch_source.hpp"
#include "trajmill/episode_index.hpp"

namespace trajmill {

// One array of steps, owned by the caller for as long as it is drawn from, and what stands before a short window.
struct StepArray {
  Column column;  // of one step
  const std::byte* steps;
  std::size_t row_count;
  std::vector<std::byte> padding;  // one step
};

// A window starts at a step drawn uniformly from all of them (so an episode has a chance proportional to its length)
// and holds the K steps from there, or those left in the episode; what is missing is padded in front.
class TrajectoryBuffer : public BatchSource {
 public:
  // A batch has each array with K steps a row, `timestep` (i8, in its episode, at most timestep_limit - 1; 0 in the
  // padding) and `mask` (boolean, false in the padding). Throws std::invalid_argument if an episode has no step or
  // leaves an array, or if a number is 0.
  TrajectoryBuffer(std::span<const Episode> episodes, std::vector<StepArray> arrays, std::size_t context_length,
                   std::size_t timestep_limit, std::uint64_t seed);

  [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return columns_; }
  void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) override;

  // Row numbers are the steps that windows start at.
  void choose(std::span<const std::uint32_t> words, const RowGroups& groups, std::span<std::byte* const> columns,
              std::size_t thread_count) override;

  // The windows that start at the given steps; throws std::out_of_range if there is no such step.
  void windows(std::span<const std::uint64_t> steps, std::span<std::byte* const> columns,
               std::size_t thread_count) const;

  [[nodiscard]] std::size_t step_count() const noexcept { return index_.step_count(); }
  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }

  // Draws made so far, which is also the number of the next: window i of draw n depends on (seed, n, i) alone.
  [[nodiscard]] std::uint64_t draw_count() const noexcept { return draw_count_; }
  void set_draw_count(std::uint64_t count) noexcept { draw_count_ = count; }
  void skip_draws(std::uint64_t count, std::size_t) override { draw_count_ += count; }
  [[nodiscard]] std::vector<std::uint64_t> position() const override { return {draw_count()}; }
  void seek(std::span<const std::uint64_t> position) override { set_draw_count(position[0]); }

 private:
  template <class StepsOf>
  void fill(const RowGroups& groups, std::span<std::byte* const> columns, std::size_t thread_count,
            const StepsOf& steps_of) const;
  void prefetch(const StepPlace& place) const noexcept;
  void write(std::size_t window, const StepPlace& place, std::span<std::byte* const> columns) const noexcept;

  EpisodeIndex index_;
  std::vector<StepArray> arrays_;
  std::vector<std::size_t> step_sizes_;           // bytes of a step of each array
  std::vector<std::vector<std::byte>> paddings_;  // of each array, as many as a window has steps
  std::size_t context_length_;
  std::size_t timestep_limit_;
  std::vector<Column> columns_;
  std::uint64_t seed_;
  std::uint64_t key_;
  std::atomic<std::uint64_t> draw_count_ = 0;
};

// (row - mean) / scale for each row, in double precision, rounded once; `out` has room for all. Throws
// std::invalid_argument unless mean and scale are as long as a row.
void normalize_rows(std::span<const float> rows, std::span<const float> mean, std::span<const float> scale,
                    std::span<float> out);

// sum over k of discount^k * reward[t + k] to the end of t's episode, divided by `scale`: sums from the end in double
// precision, rounded once. Rows of no episode are left alone. Throws std::invalid_argument if an episode leaves the
// array.
void returns_to_go(std::span<const float> reward, std::span<const Episode> episodes, double discount, double scale,
                   std::span<float> out);

}  // namespace trajmill
