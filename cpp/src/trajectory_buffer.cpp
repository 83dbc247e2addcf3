#include "trajmill/trajectory_buffer.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "row_groups.hpp"
#include "trajmill/addressed_draws.hpp"
#include "trajmill/error.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kBlock = 16;   // windows that are asked for before they are copied, even; best of 4 to 32
constexpr std::size_t kGrain = 256;  // windows of a task
constexpr std::size_t kCacheLine = 64;

void require_rows(const std::string& name, std::size_t row_count, std::span<const Episode> episodes) {
  for (const Episode& episode : episodes) {
    if (episode.first_row > row_count || episode.length > row_count - episode.first_row) {
      throw std::invalid_argument(message("'", name, "' has ", row_count, " rows, an episode of ", episode.length,
                                          " begins at row ", episode.first_row));
    }
  }
}

}  // namespace

TrajectoryBuffer::TrajectoryBuffer(std::span<const Episode> episodes, std::vector<StepArray> arrays,
                                   std::size_t context_length, std::size_t timestep_limit, std::uint64_t seed)
    : index_(episodes),
      arrays_(std::move(arrays)),
      context_length_(context_length),
      timestep_limit_(timestep_limit),
      seed_(seed),
      key_(derive_key(seed, Domain::replay_windows)) {
  if (context_length == 0) throw std::invalid_argument("context_length must be >= 1, got 0");
  if (timestep_limit == 0) throw std::invalid_argument("timestep_limit must be >= 1, got 0");
  for (const StepArray& array : arrays_) {
    require_rows(array.column.name, array.row_count, episodes);
    require_sizes({&array.column, 1}, context_length);
    const std::size_t step_size = array.column.byte_count();
    step_sizes_.push_back(step_size);
    std::vector<std::byte>& padding = paddings_.emplace_back(context_length * step_size);
    for (std::size_t k = 0; k < context_length; ++k) {
      std::ranges::copy(array.padding, padding.begin() + static_cast<std::ptrdiff_t>(k * step_size));
    }
    Column column = array.column;
    column.shape.insert(column.shape.begin(), context_length);
    columns_.push_back(std::move(column));
  }
  columns_.push_back({"timestep", DataType::i8, {context_length}});
  columns_.push_back({"mask", DataType::boolean, {context_length}});
  require_sizes(columns_);
}

void TrajectoryBuffer::sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) {
  const std::uint64_t draw = draw_count_++;
  fill(RowGroups::whole(batch_size), columns, thread_count,
       [&](std::size_t first_window, std::span<std::uint64_t> steps) {
         draw_below(step_count(), key_, draw, first_window, steps);
       });
}

void TrajectoryBuffer::choose(std::span<const std::uint32_t> words, const RowGroups& groups,
                              std::span<std::byte* const> columns, std::size_t thread_count) {
  require_choice(step_count());
  fill(groups, columns, thread_count, [&](std::size_t first_window, std::span<std::uint64_t> steps) {
    for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = chosen_row(step_count(), words[first_window + i]);
  });
}

void TrajectoryBuffer::windows(std::span<const std::uint64_t> steps, std::span<std::byte* const> columns,
                               std::size_t thread_count) const {
  for (const std::uint64_t step : steps) {
    if (step >= step_count()) throw std::out_of_range(message("steps must be below ", step_count(), ", got ", step));
  }
  fill(RowGroups::whole(steps.size()), columns, thread_count,
       [&](std::size_t first_window, std::span<std::uint64_t> some) {
         std::ranges::copy(steps.subspan(first_window, some.size()), some.begin());
       });
}

template <class StepsOf>
void TrajectoryBuffer::fill(const RowGroups& groups, std::span<std::byte* const> columns, std::size_t thread_count,
                            const StepsOf& steps_of) const {
  for_each_run(groups, kGrain, thread_count, [&](std::size_t begin, std::size_t end) {
    std::array<std::uint64_t, kBlock> steps;
    std::array<StepPlace, kBlock> places;
    for (; begin < end; begin += kBlock) {
      const std::size_t count = std::min(kBlock, end - begin);
      steps_of(begin, {steps.data(), count});
      for (std::size_t k = 0; k < count; ++k) {
        places[k] = index_.find(steps[k]);
        prefetch(places[k]);
      }
      for (std::size_t k = 0; k < count; ++k) write(begin + k, places[k], columns);
    }
  });
}

// Into the second cache, which takes more requests at a time than the first. Always inline: to a compiler a function
// that only prefetches has no effect, and calls of it are dropped.
__attribute__((always_inline)) inline void TrajectoryBuffer::prefetch(const StepPlace& place) const noexcept {
  const std::size_t kept = std::min(place.remaining, context_length_);
  for (std::size_t a = 0; a < arrays_.size(); ++a) {
    const std::byte* const from = arrays_[a].steps + place.row * step_sizes_[a];
    for (std::size_t at = 0; at < kept * step_sizes_[a]; at += kCacheLine) __builtin_prefetch(from + at, 0, 2);
  }
}

void TrajectoryBuffer::write(std::size_t window, const StepPlace& place,
                             std::span<std::byte* const> columns) const noexcept {
  const std::size_t kept = std::min(place.remaining, context_length_);
  const std::size_t missing = context_length_ - kept;
  for (std::size_t a = 0; a < arrays_.size(); ++a) {
    const std::size_t size = step_sizes_[a];
    std::byte* const to = columns[a] + window * context_length_ * size;
    std::memcpy(to, paddings_[a].data(), missing * size);
    std::memcpy(to + missing * size, arrays_[a].steps + place.row * size, kept * size);
  }
  auto* const timestep = reinterpret_cast<std::int64_t*>(columns[arrays_.size()]) + window * context_length_;
  std::fill_n(timestep, missing, 0);
  for (std::size_t k = 0; k < kept; ++k) {
    timestep[missing + k] = static_cast<std::int64_t>(std::min(place.timestep + k, timestep_limit_ - 1));
  }
  std::byte* const mask = columns[arrays_.size() + 1] + window * context_length_;
  std::memset(mask, 0, missing);
  std::memset(mask + missing, 1, kept);
}

void normalize_rows(std::span<const float> rows, std::span<const float> mean, std::span<const float> scale,
                    std::span<float> out) {
  const std::size_t width = mean.size();
  if (width == 0 || scale.size() != width || rows.size() % width != 0) {
    throw std::invalid_argument(
        message("mean and scale must have as many numbers as a row, got ", width, " and ", scale.size()));
  }
  for (std::size_t start = 0; start < rows.size(); start += width) {
    for (std::size_t k = 0; k < width; ++k) {
      out[start + k] = static_cast<float>((double{rows[start + k]} - double{mean[k]}) / double{scale[k]});
    }
  }
}

void returns_to_go(std::span<const float> reward, std::span<const Episode> episodes, double discount, double scale,
                   std::span<float> out) {
  require_rows("reward", reward.size(), episodes);
  for (const Episode& episode : episodes) {
    double sum = 0.0;
    for (std::size_t row = episode.first_row + episode.length; row-- > episode.first_row;) {
      sum = double{reward[row]} + discount * sum;
      out[row] = static_cast<float>(sum / scale);
    }
  }
}

}  // namespace trajmill
