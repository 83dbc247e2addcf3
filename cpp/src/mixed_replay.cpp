#include "trajmill/mixed_replay.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "trajmill/error.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kMostSources = 1 + std::size_t{std::numeric_limits<std::uint8_t>::max()};

std::string shape_text(const Column& column) {
  static constexpr const char* kNames[] = {"bool",  "uint8", "uint16", "uint32",  "uint64",  "int8",
                                           "int16", "int32", "int64",  "float16", "float32", "float64"};
  std::string text = message(kNames[static_cast<std::size_t>(column.type)], " (");
  for (std::size_t axis = 0; axis < column.shape.size(); ++axis) {
    append(text, message(axis == 0 ? "" : ", ", column.shape[axis]));
  }
  return text + ")";
}

// A flag that is up for as long as this lives.
class Raised {
 public:
  explicit Raised(bool& flag) : flag_(flag) { flag_ = true; }
  ~Raised() { flag_ = false; }
  Raised(const Raised&) = delete;
  Raised& operator=(const Raised&) = delete;

 private:
  bool& flag_;
};

}  // namespace

double LinearWeight::operator()(std::uint64_t draw) const noexcept {
  if (draw >= step_count) return end;
  return start + (end - start) * (static_cast<double>(draw) / static_cast<double>(step_count));
}

MixedReplay::MixedReplay(std::vector<MixedSource> sources, const std::vector<MixedColumn>& columns)
    : shares_(sources.size()) {
  if (sources.empty() || sources.size() > kMostSources) {
    throw std::invalid_argument(message("a mixture needs 1 to ", kMostSources, " sources, got ", sources.size()));
  }
  for (const auto& [column, fill] : columns) {
    if (column.name == "source") {
      throw std::invalid_argument("the column 'source' is the mixture's own; leave it out with columns=");
    }
    columns_.push_back(column);
    fills_.push_back(fill);
    row_sizes_.push_back(column.byte_count());
  }
  for (MixedSource& source : sources) parts_.push_back(part_of(std::move(source)));
  columns_.push_back({"source", DataType::u1, {}});
  require_sizes(columns_);
}

MixedReplay::Part MixedReplay::part_of(MixedSource mixed) const {
  Part part{std::move(mixed), {}, {}, {}, {}};
  const std::vector<Column>& theirs = part.mixed.source->batch_columns();
  part.targets.assign(theirs.size(), kDropped);
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    const auto found = std::ranges::find(theirs, columns_[c].name, &Column::name);
    if (found == theirs.end()) {
      if (fills_[c].empty()) {
        throw std::invalid_argument(message("source '", part.mixed.name, "' lacks the column '", columns_[c].name,
                                            "', ", shape_text(columns_[c]),
                                            "; give it a value with fill= or leave it out with "
                                            "columns="));
      }
      part.filled.push_back(c);
    } else if (*found != columns_[c]) {
      throw std::invalid_argument(message("source '", part.mixed.name, "' must have the column '", columns_[c].name,
                                          "' as ", shape_text(columns_[c]), " a row, got ", shape_text(*found)));
    } else {
      part.targets[static_cast<std::size_t>(found - theirs.begin())] = c;
    }
  }
  part.dropped.resize(theirs.size());
  part.pointers.resize(theirs.size());
  return part;
}

std::vector<double> MixedReplay::weights() const {
  std::vector<double> weights;
  for (const Part& part : parts_) {
    const double weight = part.mixed.weight(draw_count_);
    if (!(weight >= 0) || std::isinf(weight)) {
      throw std::invalid_argument(message("the weight of source '", part.mixed.name, "' must be finite and >= 0, got ",
                                          weight, " at draw ", draw_count_));
    }
    weights.push_back(weight);
  }
  const double whole = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (whole == 0 || std::isinf(whole)) {
    throw std::invalid_argument(
        message("weights must have a finite sum > 0, which is ", whole, " at draw ", draw_count_));
  }
  return weights;
}

void MixedReplay::require_idle() const {
  if (drawing_) throw std::logic_error("a function of a mixture must neither draw from that mixture nor change it");
}

// One draw of `row_count` rows: make(k, row, count) makes the rows [row, row + count) of source k, for all that have
// any.
template <class Make>
void MixedReplay::make_draw(std::size_t row_count, const Make& make) {
  const std::scoped_lock lock(mutex_);
  require_idle();
  const Raised drawing(drawing_);
  Shares shares = shares_;
  std::vector<std::size_t> counts(parts_.size());
  shares.split(row_count, weights(), counts);
  std::size_t row = 0;
  for (std::size_t k = 0; k < parts_.size(); ++k) {
    if (counts[k] > 0) make(k, row, counts[k]);
    row += counts[k];
  }
  shares_ = std::move(shares);
  ++draw_count_;
}

void MixedReplay::sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) {
  make_draw(batch_size, [&](std::size_t k, std::size_t row, std::size_t count) {
    parts_[k].mixed.source->sample(count, pointers_of(parts_[k], row, count, columns), thread_count);
    finish(k, {1, batch_size, row, row + count}, columns);
  });
}

void MixedReplay::choose(std::span<const std::uint32_t> words, const RowGroups& groups,
                         std::span<std::byte* const> columns, std::size_t thread_count) {
  make_draw(groups.size(), [&](std::size_t k, std::size_t row, std::size_t count) {
    const std::size_t begin = groups.begin + row;
    const RowGroups own{groups.count, groups.stride, begin, begin + count};
    const auto pointers = pointers_of(parts_[k], 0, groups.count * groups.stride, columns);
    parts_[k].mixed.source->choose(words, own, pointers, thread_count);
    finish(k, own, columns);
  });
}

void MixedReplay::restart_choices() {
  const std::scoped_lock lock(mutex_);
  require_idle();
  for (const Part& part : parts_) part.mixed.source->restart_choices();
  draw_count_ = 0;
  shares_ = Shares(parts_.size());
}

void MixedReplay::skip_choices(std::uint64_t count, std::size_t group_size) {
  for (; count > 0; --count) {
    make_draw(group_size, [&](std::size_t k, std::size_t, std::size_t row_count) {
      parts_[k].mixed.source->skip_choices(1, row_count);
    });
  }
}

void MixedReplay::skip_draws(std::uint64_t count, std::size_t batch_size) {
  for (; count > 0; --count) {
    make_draw(batch_size, [&](std::size_t k, std::size_t, std::size_t row_count) {
      parts_[k].mixed.source->skip_draws(1, row_count);
    });
  }
}

// Where each column of a source goes, from row `first_row` of the mixture's batch on; what is dropped gets room for
// `row_count` rows.
std::span<std::byte* const> MixedReplay::pointers_of(Part& part, std::size_t first_row, std::size_t row_count,
                                                     std::span<std::byte* const> columns) const {
  const std::vector<Column>& theirs = part.mixed.source->batch_columns();
  for (std::size_t c = 0; c < theirs.size(); ++c) {
    const std::size_t target = part.targets[c];
    if (target == kDropped) {
      part.dropped[c].resize(std::max(part.dropped[c].size(), row_count * theirs[c].byte_count()));
      part.pointers[c] = part.dropped[c].data();
    } else {
      part.pointers[c] = columns[target] + first_row * row_sizes_[target];
    }
  }
  return part.pointers;
}

// What the rows of source `number` need beyond its own columns: fills, its number, and its transform.
void MixedReplay::finish(std::size_t number, const RowGroups& groups, std::span<std::byte* const> columns) const {
  const Part& part = parts_[number];
  for (std::size_t group = 0; group < groups.count; ++group) {
    const std::size_t first_row = group * groups.stride + groups.begin;
    const auto target = [&](std::size_t c) { return columns[c] + first_row * row_sizes_[c]; };
    for (const std::size_t c : part.filled) {
      for (std::size_t k = 0; k < groups.size(); ++k) std::ranges::copy(fills_[c], target(c) + k * row_sizes_[c]);
    }
    std::memset(columns[row_sizes_.size()] + first_row, static_cast<int>(number), groups.size());
    if (!part.mixed.transform) continue;
    std::vector<std::byte*> rows;
    for (std::size_t c = 0; c < row_sizes_.size(); ++c) rows.push_back(target(c));
    part.mixed.transform(groups.size(), rows);
  }
}

MixedReplay::State MixedReplay::state() const {
  const std::scoped_lock lock(mutex_);
  return {draw_count_, shares_.credit()};
}

void MixedReplay::set_state(const State& state) {
  const std::scoped_lock lock(mutex_);
  require_idle();
  shares_.set_credit(state.credit);
  draw_count_ = state.draw_count;
}

std::vector<std::uint64_t> MixedReplay::position() const {
  const State now = state();
  std::vector<std::uint64_t> position{now.draw_count};
  for (std::size_t number = 0; number < parts_.size(); ++number) {
    const std::vector<std::uint64_t> own = parts_[number].mixed.source->position();
    position.push_back(std::bit_cast<std::uint64_t>(now.credit[number]));
    position.push_back(own.size());
    position.insert(position.end(), own.begin(), own.end());
  }
  return position;
}

void MixedReplay::seek(std::span<const std::uint64_t> position) {
  State then{position[0], {}};
  std::size_t next = 1;
  for (const Part& part : parts_) {
    then.credit.push_back(std::bit_cast<double>(position[next]));
    const std::size_t size = position[next + 1];
    if (size > 0) part.mixed.source->seek(position.subspan(next + 2, size));
    next += 2 + size;
  }
  set_state(then);
}

}  // namespace trajmill
