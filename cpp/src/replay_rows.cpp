// What a row looks like in memory, and how rows are copied into a batch.
#include <algorithm>
#include <cstring>
#include <limits>
#include <shared_mutex>
#include <stdexcept>

#include "replay_parts.hpp"
#include "row_groups.hpp"
#include "trajmill/addressed_draws.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kRowsPerTask = 64 * kBlockRows;
constexpr std::size_t kFarthestPrefetch = 512;  // bytes from the begin of a row

}  // namespace

ReplayLayout ReplayBuffer::layout(const ReplaySettings& settings) {
  require(settings.capacity >= 1, "capacity must be at least 1 row, got 0");
  require(settings.environment_count >= 1 && settings.environment_count <= std::numeric_limits<std::uint32_t>::max(),
          "environment_count must be at least 1 and below 2^32, got ", settings.environment_count);
  require(settings.capacity % settings.environment_count == 0, "capacity must be a multiple of environment_count ",
          settings.environment_count, ", got ", settings.capacity);
  require(!settings.columns.empty(), "the schema must have at least one column");
  require_sizes(settings.columns);
  require(settings.n_step >= 1, "n_step must be at least 1, got 0");
  require(settings.discount >= 0.0 && settings.discount <= 1.0, "discount must be in [0, 1], got ", settings.discount);
  if (settings.alpha) {
    require(*settings.alpha >= 0.0 && *settings.alpha <= 10.0, "alpha must be in [0, 10], got ", *settings.alpha);
  }
  const auto& columns = settings.columns;
  ReplayLayout layout{};
  layout.offsets.resize(columns.size());
  std::vector<bool> is_shared(columns.size(), false);
  for (const auto& [name, of] : settings.shared) {
    const std::size_t to = find_column(columns, name), from = find_column(columns, of);
    require(to < columns.size() && from < columns.size(), "shared must name two columns of the schema, got '", name,
            "' and '", of, "'");
    require(to != from && columns[to].type == columns[from].type && columns[to].shape == columns[from].shape, "'", name,
            "' cannot be shared with '", of, "': their dtype and shape must be equal");
    require(!is_shared[to], "shared names '", name, "' twice");
    is_shared[to] = true;
  }
  for (const auto& [name, of] : settings.shared) {
    require(!is_shared[find_column(columns, of)], "'", of, "' is itself shared, so '", name, "' cannot be");
  }
  std::size_t row_size = 0;
  if (!settings.shared.empty()) {
    layout.entry_offset = row_size;
    row_size += sizeof(std::int64_t);
  }
  for (const std::size_t element_size : {8u, 4u, 2u, 1u}) {  // so that every column is aligned without gaps
    for (std::size_t c = 0; c < columns.size(); ++c) {
      if (size_of(columns[c].type) != element_size) continue;
      std::size_t& end = is_shared[c] ? layout.entry_size : row_size;
      layout.offsets[c] = end;
      end += columns[c].byte_count();
    }
  }
  require(row_size > 0, "the columns of the schema must not all be empty");
  layout.row_stride = round_up(row_size, 8);
  const std::size_t aligned = round_up(row_size, kCacheLine);
  if (aligned <= row_size + row_size / 4) layout.row_stride = aligned;  // 192 for 168 bytes: drawn a fifth faster
  layout.entry_size = round_up(layout.entry_size, 8);
  require(settings.capacity < (std::size_t{1} << 62) / (layout.row_stride + layout.entry_size + 3 * sizeof(double)),
          "a capacity of ", settings.capacity, " rows of ", row_size, " bytes is more than memory can address");
  layout.rows = kPage;
  layout.weights = layout.rows + round_up(settings.capacity * layout.row_stride, kPage);
  layout.entries =
      layout.weights + (settings.alpha ? round_up(SumTree::padded(settings.capacity) * sizeof(double), kPage) : 0);
  layout.environments = layout.entries + round_up(settings.capacity * layout.entry_size, kPage);
  layout.checks = layout.environments +
                  (settings.environment_count > 1 ? round_up(settings.capacity * sizeof(std::uint32_t), kPage) : 0);
  layout.byte_count =
      layout.checks + (settings.is_checked ? round_up(settings.capacity * sizeof(std::uint64_t), kPage) : 0);
  return layout;
}

// Decides how each column of a batch is made.
void ReplayBuffer::make_columns() {
  const auto& columns = settings_.columns;
  const bool has_steps = settings_.n_step > 1;
  reward_ = find_column(columns, "reward");
  terminal_ = find_column(columns, "terminal");
  truncated_ = find_column(columns, "truncated");
  make_links();
  for (std::size_t c = 0; c < columns.size(); ++c) {
    using enum Piece::Source;
    const std::size_t size = columns[c].byte_count();
    Piece piece{first, layout_.offsets[c], size, 0, gather_for(size), scatter_for(size)};
    for (const auto& [name, of] : settings_.shared) {
      if (name == columns[c].name) piece.source = next, piece.shared_offset = layout_.offsets[find_column(columns, of)];
    }
    if (has_steps && piece.source == first) {
      if (c == reward_) piece.source = reward;
      const bool leads_on = std::ranges::count(links_, c, &Link::to) > 0 || columns[c].name == "next_observation";
      if (leads_on || c == terminal_ || c == truncated_) piece.source = last;
    }
    pieces_.push_back(piece);
  }
  batch_columns_ = columns;
  const auto add_column = [&](const char* name, DataType type) {
    require(find_column(columns, name) == columns.size(), "the schema has a column '", name,
            "', which is a name for what the buffer itself adds");
    batch_columns_.push_back({name, type, {}});
  };
  require(settings_.environment_count == 1 || find_column(columns, "environments") == columns.size(),
          "the schema has a column 'environments', by which add() tells the rows of several environments apart; give "
          "it another name");
  if (has_steps) {
    add_column("discount", DataType::f4);
    pieces_.push_back({Piece::Source::discount, 0, sizeof(float), 0, nullptr, nullptr});
  }
  if (settings_.alpha) {
    add_column("indexes", DataType::i8);
    add_column("weights", DataType::f4);
  }
  require_n_step_columns();
  prefetched_bytes_ = layout_.row_stride;
  if (settings_.environment_count == 1) {
    prefetched_bytes_ *= settings_.n_step + (settings_.shared.empty() ? 0 : 1);
  }
  prefetched_bytes_ = std::min(prefetched_bytes_, std::max(kFarthestPrefetch, layout_.row_stride));
}

// Into the second cache: there may be more such requests under way than for the first, and draws are twice as fast.
// Always inline: a function that only prefetches has no effect as compilers see it, and calls of it are dropped.
__attribute__((always_inline)) inline void ReplayBuffer::prefetch(std::span<const std::int64_t> slots) const noexcept {
  for (const std::int64_t slot : slots) {
    const std::byte* const begin = row(static_cast<std::size_t>(slot));
    for (std::size_t at = 0; at < prefetched_bytes_; at += kCacheLine) __builtin_prefetch(begin + at, 0, 2);
    if (layout_.row_stride % kCacheLine != 0) __builtin_prefetch(begin + prefetched_bytes_ - 1, 0, 2);
  }
}

ReplayBuffer::Block::Block(const ReplayBuffer& buffer, std::span<const std::int64_t> slots, bool as_added) noexcept
    : buffer_(buffer), slots_(slots), capacity_(buffer.settings_.capacity), as_added_(as_added) {
  for (std::size_t i = 0; i < slots.size(); ++i) first_[i] = buffer.row(static_cast<std::size_t>(slots[i]));
  if (buffer.settings_.n_step > 1 || buffer.layout_.entry_size > 0) walk();
}

void ReplayBuffer::Block::copy(const Piece& piece, const Column& column, std::size_t begin, std::size_t count,
                               std::byte* out) const noexcept {
  const std::byte* sources[kGroupRows];
  switch (as_added_ && piece.source != Piece::Source::next ? Piece::Source::first : piece.source) {
    case Piece::Source::first:
      for (std::size_t i = 0; i < count; ++i) sources[i] = first_[begin + i] + piece.offset;
      return piece.gather(out, sources, count, piece.size);
    case Piece::Source::last:
      for (std::size_t i = 0; i < count; ++i) sources[i] = last_[begin + i] + piece.offset;
      return piece.gather(out, sources, count, piece.size);
    case Piece::Source::next:
      for (std::size_t i = 0; i < count; ++i) {
        sources[i] = next_[begin + i] + (reference_[begin + i] == 0 ? piece.shared_offset : piece.offset);
      }
      return piece.gather(out, sources, count, piece.size);
    case Piece::Source::reward: return copy_rewards(piece, column.type, begin, count, out);
    case Piece::Source::discount: return copy_discounts(begin, count, out);
  }
}

// Rows `first_row` on of the batch, from at most kBlockRows slots; on the way those of `next` are prefetched.
void ReplayBuffer::copy_out(std::span<const std::int64_t> slots, std::span<const std::int64_t> next,
                            std::size_t first_row, std::span<std::byte* const> columns, bool as_added) const noexcept {
  const Block block(*this, slots, as_added);
  const std::size_t column_count = gathered_columns(as_added).size();
  for (std::size_t begin = 0; begin < slots.size(); begin += kGroupRows) {
    const std::size_t count = std::min(kGroupRows, slots.size() - begin);
    if (begin < next.size()) prefetch(next.subspan(begin, std::min(kGroupRows, next.size() - begin)));
    for (std::size_t c = 0; c < column_count; ++c) {
      block.copy(pieces_[c], batch_columns_[c], begin, count, columns[c] + (first_row + begin) * pieces_[c].size);
    }
  }
}

// Rows [begin, end) of a batch: `slots_of(row, slots)` tells where a block of them is, one block ahead of the copying.
template <class SlotsOf>
void ReplayBuffer::copy_run(std::size_t begin, std::size_t end, std::span<std::byte* const> columns,
                            const SlotsOf& slots_of, bool as_added) const {
  std::int64_t memory[2][kBlockRows];
  const auto find = [&](std::size_t from, std::size_t turn) {
    const std::span<std::int64_t> slots(memory[turn], from < end ? std::min(kBlockRows, end - from) : 0);
    if (!slots.empty()) slots_of(from, slots);
    return slots;
  };
  std::span<std::int64_t> slots = find(begin, 0);
  prefetch(slots);
  for (std::size_t from = begin, turn = 1; from < end; from += kBlockRows, turn = 1 - turn) {
    const std::span<std::int64_t> next = find(from + kBlockRows, turn);
    copy_out(slots, next, from, columns, as_added);
    slots = next;
  }
}

template <class SlotsOf>
void ReplayBuffer::copy_rows(const RowGroups& groups, std::span<std::byte* const> columns, std::size_t thread_count,
                             const SlotsOf& slots_of, bool as_added) const {
  for_each_run(groups, kRowsPerTask, thread_count,
               [&](std::size_t begin, std::size_t end) { copy_run(begin, end, columns, slots_of, as_added); });
}

void ReplayBuffer::sample(std::size_t batch_size, const DrawOptions& options, std::span<std::byte* const> columns,
                          std::size_t thread_count) {
  require_draw(batch_size, thread_count);
  const std::shared_lock lock(mutex_);
  require_open();
  const std::size_t size = size_now();
  require(size > 0, "the buffer is empty; add transitions before drawing");
  require(options.replace || !tree_, "a prioritised buffer draws with replacement; drop replace=False");
  require(options.replace || batch_size <= size, "without replacement a batch has at most the ", size,
          " rows of the buffer, got ", batch_size);
  require(!tree_ || tree_->total() > 0.0, "every priority is zero, so there is nothing to draw");
  const double beta = options.beta ? checked_beta(*options.beta) : beta_.load();
  std::vector<double> weights(tree_ ? batch_size : 0);
  const std::uint64_t number = next_draw();
  copy_rows(RowGroups::whole(batch_size), columns, thread_count, [&](std::size_t from, std::span<std::int64_t> slots) {
    draw(number, options, from, batch_size, slots);
    if (!tree_) return;
    std::memcpy(columns[pieces_.size()] + from * sizeof(slots[0]), slots.data(), slots.size_bytes());
    for (std::size_t i = 0; i < slots.size(); ++i)
      weights[from + i] = tree_->weight(static_cast<std::size_t>(slots[i]));
  });
  if (tree_) weigh(weights, beta, columns[pieces_.size() + 1]);
}

void ReplayBuffer::choose(std::span<const std::uint32_t> words, const RowGroups& groups,
                          std::span<std::byte* const> columns, std::size_t thread_count) {
  const std::shared_lock lock(mutex_);
  require_open();
  require(!tree_, "a prioritised buffer draws rows by priority and cannot be asked for them by number");
  const std::size_t size = size_now();
  require_choice(size);
  const Slots all(*this);
  copy_rows(groups, columns, thread_count, [&](std::size_t from, std::span<std::int64_t> slots) {
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[chosen_row(size, words[from + i])];
  });
}

void ReplayBuffer::gather(std::span<const std::int64_t> slots, std::span<std::byte* const> columns,
                          std::size_t thread_count, bool as_added) {
  const std::shared_lock lock(mutex_);
  require_open();
  require_rows(slots);
  copy_rows(
      RowGroups::whole(slots.size()), columns, thread_count,
      [&](std::size_t from, std::span<std::int64_t> block) {
        std::copy_n(slots.begin() + static_cast<std::ptrdiff_t>(from), block.size(), block.begin());
      },
      as_added);
}

std::span<const Column> ReplayBuffer::gathered_columns(bool as_added) const noexcept {
  return std::span(batch_columns_).first(as_added ? settings_.columns.size() : pieces_.size());
}

}  // namespace trajmill
