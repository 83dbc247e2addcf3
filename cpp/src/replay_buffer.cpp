#include "trajmill/replay_buffer.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <utility>

#include "row_copy.hpp"
#include "trajmill/addressed_draws.hpp"
#include "trajmill/error.hpp"
#include "trajmill/permutation.hpp"
#include "trajmill/philox.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kBlockRows = 64;  // drawn and prefetched together while the block before is copied
constexpr std::size_t kRowsPerTask = 64 * kBlockRows;
constexpr std::size_t kFarthestPrefetch = 512;  // bytes from the begin of a row

constexpr std::size_t round_up(std::size_t size, std::size_t unit) { return (size + unit - 1) / unit * unit; }

std::size_t find_column(const std::vector<Column>& columns, const std::string& name) {
  const auto found = std::ranges::find(columns, name, &Column::name);
  return static_cast<std::size_t>(found - columns.begin());
}

std::shared_ptr<std::byte[]> allocate(std::size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(memory), [size](std::byte* begin) { munmap(begin, size); }};
}

// How much a priority counts; nothing but zero counts for nothing, however small.
double weight_of(double priority, double alpha) {
  return priority == 0.0 ? 0.0 : std::max(std::pow(priority, alpha), std::numeric_limits<double>::min());
}

}  // namespace

// What of a buffer is not rows; it lies in the buffer's memory, so that it survives with it. Each store is atomic and
// leaves a valid buffer behind: rows [first, added) exist.
struct ReplayBuffer::State {
  std::uint64_t first;  // number of the oldest row
  std::uint64_t added;  // number of the next row
  std::uint64_t draw_count;
  double largest_priority;  // 0 stands for the 1 it starts with
};

struct ReplayBuffer::Piece {
  enum class Source { first, last, next, reward, discount };
  Source source;
  std::size_t offset;         // in a row; of shared columns: in an entry
  std::size_t size;           // bytes
  std::size_t shared_offset;  // of shared columns: in the successor
  Gather gather;
  Scatter scatter;
};

namespace {

template <class T>
void store(T& target, T value) {
  std::atomic_ref(target).store(value, std::memory_order_release);
}

// The message is put together only where it is needed: some checks are made for every number.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) throw std::invalid_argument(message(parts...));
}

double checked_beta(double beta) {
  require(beta >= 0.0 && beta <= 10.0, "beta must be in [0, 10], got ", beta);
  return beta;
}

}  // namespace

ReplayLayout ReplayBuffer::layout(const ReplaySettings& settings) {
  require(settings.capacity >= 1, "capacity must be at least 1 row, got 0");
  require(settings.environment_count >= 1, "environment_count must be at least 1, got 0");
  require(settings.capacity % settings.environment_count == 0, "capacity must be a multiple of environment_count ",
          settings.environment_count, ", got ", settings.capacity);
  require(!settings.columns.empty(), "the schema must have at least one column");
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
  require(settings.capacity < (std::size_t{1} << 62) / (layout.row_stride + layout.entry_size + sizeof(double)),
          "a capacity of ", settings.capacity, " rows of ", row_size, " bytes is more than memory can address");
  layout.rows = kPage;
  layout.weights = layout.rows + round_up(settings.capacity * layout.row_stride, kPage);
  layout.entries =
      layout.weights + (settings.alpha ? round_up(SumTree::padded(settings.capacity) * sizeof(double), kPage) : 0);
  layout.byte_count = layout.entries + round_up(settings.capacity * layout.entry_size, kPage);
  return layout;
}

ReplayBuffer::ReplayBuffer(ReplaySettings settings, std::span<std::byte> memory)
    : settings_(std::move(settings)),
      layout_(layout(settings_)),
      key_(derive_key(settings_.seed, Domain::replay_indexes)) {
  const auto& columns = settings_.columns;
  const bool has_steps = settings_.n_step > 1;
  observation_ = find_column(columns, "observation");
  next_observation_ = find_column(columns, "next_observation");
  reward_ = find_column(columns, "reward");
  terminal_ = find_column(columns, "terminal");
  truncated_ = find_column(columns, "truncated");
  if (has_steps) {
    require(
        reward_ < columns.size() && (columns[reward_].type == DataType::f4 || columns[reward_].type == DataType::f8),
        "n_step > 1 needs a column 'reward' of float32 or float64");
    require(terminal_ < columns.size(), "n_step > 1 needs a column 'terminal'");
    for (const std::size_t flag : {terminal_, truncated_}) {
      require(flag == columns.size() || columns[flag].byte_count() == 1,
              "n_step > 1 needs one byte, bool or uint8, in '", flag < columns.size() ? columns[flag].name : "", "'");
    }
  }
  for (std::size_t c = 0; c < columns.size(); ++c) {
    using enum Piece::Source;
    const std::size_t size = columns[c].byte_count();
    Piece piece{first, layout_.offsets[c], size, 0, gather_for(size), scatter_for(size)};
    for (const auto& [name, of] : settings_.shared) {
      if (name == columns[c].name) piece.source = next, piece.shared_offset = layout_.offsets[find_column(columns, of)];
    }
    if (has_steps && piece.source == first) {
      if (c == reward_) piece.source = reward;
      if (c == next_observation_ || c == terminal_ || c == truncated_) piece.source = last;
    }
    pieces_.push_back(piece);
  }
  batch_columns_ = columns;
  const auto add_column = [&](const char* name, DataType type) {
    require(find_column(columns, name) == columns.size(), "the schema has a column '", name,
            "', which is a name for what the buffer itself adds");
    batch_columns_.push_back({name, type, {}});
  };
  if (has_steps) {
    add_column("discount", DataType::f4);
    pieces_.push_back({Piece::Source::discount, 0, sizeof(float), 0, nullptr, nullptr});
  }
  if (settings_.alpha) {
    add_column("indexes", DataType::i8);
    add_column("weights", DataType::f4);
  }
  prefetched_bytes_ = layout_.row_stride;
  if (settings_.environment_count == 1) {
    prefetched_bytes_ *= settings_.n_step + (settings_.shared.empty() ? 0 : 1);
  }
  prefetched_bytes_ = std::min(prefetched_bytes_, std::max(kFarthestPrefetch, layout_.row_stride));

  if (memory.empty()) {
    owned_ = allocate(layout_.byte_count + kHugePage);
    std::byte* begin = owned_.get();
    begin += round_up(reinterpret_cast<std::uintptr_t>(begin) + layout_.rows, kHugePage) - layout_.rows -
             reinterpret_cast<std::uintptr_t>(begin);  // rows begin at a huge page
    memory = {begin, layout_.byte_count};
    if (layout_.entries - layout_.rows >= kHugePage) {
      madvise(begin + layout_.rows, layout_.entries - layout_.rows, MADV_HUGEPAGE);
    }
  }
  require(memory.size() == layout_.byte_count && reinterpret_cast<std::uintptr_t>(memory.data()) % kPage == 0,
          "a buffer of these settings needs ", layout_.byte_count, " bytes at a page boundary, got ", memory.size());
  memory_ = memory;
  state_ = reinterpret_cast<State*>(memory_.data());
  rows_ = memory_.data() + layout_.rows;
  entries_ = memory_.data() + layout_.entries;
  restore();
}

ReplayBuffer::~ReplayBuffer() = default;

void ReplayBuffer::require_open() const { require(state_ != nullptr, "the buffer is closed"); }

std::size_t ReplayBuffer::size_now() const noexcept { return state_->added - state_->first; }

std::size_t ReplayBuffer::size() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return size_now();
}

std::uint64_t ReplayBuffer::row_count() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return state_->added;
}

std::uint64_t ReplayBuffer::draw_count() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return std::atomic_ref(state_->draw_count).load();
}

void ReplayBuffer::set_draw_count(std::uint64_t count) {
  const std::scoped_lock lock(mutex_);
  require_open();
  store(state_->draw_count, count);
}

double ReplayBuffer::largest_priority() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return state_->largest_priority == 0.0 ? 1.0 : state_->largest_priority;
}

// --- slots ----------------------------------------------------------------------------------------------------------

// Where the index-th row is: from slot 0 on if all slots are taken, else from the oldest row on.
class ReplayBuffer::Slots {
 public:
  explicit Slots(const ReplayBuffer& buffer) noexcept
      : capacity_(buffer.settings_.capacity),
        begin_(buffer.size_now() == capacity_ ? 0 : buffer.state_->first % capacity_) {}

  std::int64_t operator[](std::size_t index) const noexcept {
    const std::size_t slot = begin_ + index;
    return static_cast<std::int64_t>(slot < capacity_ ? slot : slot - capacity_);
  }

 private:
  std::size_t capacity_, begin_;
};

void ReplayBuffer::require_rows(std::span<const std::int64_t> slots) const {
  const std::size_t size = size_now(), capacity = settings_.capacity, oldest = state_->first % capacity;
  for (const std::int64_t slot : slots) {
    const auto place = static_cast<std::size_t>(slot);  // a negative number becomes too large
    const std::size_t age = place >= oldest ? place - oldest : place + capacity - oldest;
    if (place >= capacity || age >= size) {
      throw std::out_of_range(message("indexes must be slots that hold a row, got ", slot, " where ", size, " of ",
                                      capacity, " slots are taken, from slot ", oldest, " on"));
    }
  }
}

// --- shared columns: entries of the side store
// ------------------------------------------------------------------------

// 0: the successor has the shared columns; otherwise 1 + the number of the entry that does.
std::int64_t& ReplayBuffer::entry_of(std::size_t slot) const noexcept {
  return *reinterpret_cast<std::int64_t*>(row(slot) + layout_.entry_offset);
}

std::byte* ReplayBuffer::entry(std::int64_t number) const noexcept {
  return entries_ + static_cast<std::size_t>(number - 1) * layout_.entry_size;
}

std::int64_t ReplayBuffer::take_entry() {
  if (free_entries_.empty()) return static_cast<std::int64_t>(++entry_count_);
  const std::int64_t number = free_entries_.back();
  free_entries_.pop_back();
  return number;
}

// Fills the shared columns of the new rows, which no one sees yet.
void ReplayBuffer::share_rows(std::uint64_t number, std::size_t count, std::span<const std::byte* const> columns) {
  struct Pair {
    const std::byte *next, *observation;
    std::size_t size, offset;
  };
  std::vector<Pair> pairs;
  for (const auto& [name, of] : settings_.shared) {
    const std::size_t to = find_column(settings_.columns, name), from = find_column(settings_.columns, of);
    pairs.push_back({columns[to], columns[from], settings_.columns[to].byte_count(), layout_.offsets[to]});
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t successor = i + settings_.environment_count;
    const bool is_repeated =
        successor < count &&
        std::ranges::all_of(
            pairs,
            [&](const Pair& pair) {
              return std::memcmp(pair.next + i * pair.size, pair.observation + successor * pair.size, pair.size) == 0;
            });
    std::int64_t& reference = entry_of((number + i) % settings_.capacity);
    reference = is_repeated ? 0 : take_entry();
    if (is_repeated) continue;
    for (const Pair& pair : pairs) {
      std::memcpy(entry(reference) + pair.offset, pair.next + i * pair.size, pair.size);
    }
  }
}

// --- adding
// -----------------------------------------------------------------------------------------------------------

// Takes the rows before `first_kept` out.
void ReplayBuffer::evict(std::uint64_t first_kept) {
  const std::uint64_t first = state_->first;
  if (first_kept <= first) return;
  store(state_->first, first_kept);
  if (layout_.entry_size == 0) return;
  for (std::uint64_t number = first; number < first_kept; ++number) {
    const std::int64_t reference = entry_of(number % settings_.capacity);
    if (reference != 0) free_entries_.push_back(reference);
  }
}

// Copies rows [from, from + count) of `columns` into consecutive slots.
void ReplayBuffer::store_rows(std::uint64_t number, std::size_t count, std::size_t from,
                              std::span<const std::byte* const> columns) {
  std::byte* const begin = row(number % settings_.capacity);
  for (std::size_t c = 0; c < settings_.columns.size(); ++c) {
    if (pieces_[c].source == Piece::Source::next) continue;
    const Piece& piece = pieces_[c];
    piece.scatter(begin + piece.offset, layout_.row_stride, columns[c] + from * piece.size, count, piece.size);
  }
}

std::size_t ReplayBuffer::add(std::size_t count, std::span<const std::byte* const> columns) {
  const std::size_t capacity = settings_.capacity, environments = settings_.environment_count;
  require(count % environments == 0, "rows are added for all ", environments,
          " environments together, so their number must be a multiple of ", environments, ", got ", count);
  require(count <= capacity, "a batch of ", count, " rows does not fit into a buffer of ", capacity,
          " rows; add the last ", capacity, " only");
  const std::scoped_lock lock(mutex_);
  require_open();
  const std::uint64_t number = state_->added;
  const std::size_t slot = number % capacity;
  if (count == 0) return slot;
  evict(number + count > capacity ? number + count - capacity : 0);
  constexpr std::size_t kRowsTogether = 64;  // stay in the first cache while their columns are put together
  for (std::size_t done = 0; done < count;) {
    const std::size_t to_end = capacity - (number + done) % capacity;
    const std::size_t run = std::min({count - done, to_end, kRowsTogether});
    store_rows(number + done, run, done, columns);
    done += run;
  }
  if (layout_.entry_size > 0) share_rows(number, count, columns);
  if (tree_) {
    const double priority = state_->largest_priority == 0.0 ? 1.0 : state_->largest_priority;
    const double weight = weight_of(priority, *settings_.alpha);
    const std::size_t to_end = std::min(count, capacity - slot);
    tree_->fill(slot, slot + to_end, weight);
    tree_->fill(0, count - to_end, weight);
  }
  store(state_->added, number + count);  // now the rows are there
  if (layout_.entry_size > 0) {
    for (std::uint64_t i = number - std::min<std::uint64_t>(environments, number - state_->first); i < number; ++i) {
      const std::size_t before = i % capacity;
      std::int64_t& reference = entry_of(before);
      if (!continues(before, (i + environments) % capacity)) continue;
      free_entries_.push_back(std::exchange(reference, 0));
    }
  }
  return slot;
}

void ReplayBuffer::clear() {
  const std::scoped_lock lock(mutex_);
  require_open();
  const std::uint64_t next_round = round_up(state_->added, settings_.capacity);
  evict(next_round);
  store(state_->added, next_round);
  restore();
}

// --- drawing
// ----------------------------------------------------------------------------------------------------------

// Slots of the rows begin, begin + 1, ... of a batch; `begin` is even.
void ReplayBuffer::draw(std::uint64_t draw, const DrawOptions& options, std::size_t begin, std::size_t batch_size,
                        std::span<std::int64_t> slots) const {
  const std::size_t size = size_now();
  const Slots all(*this);
  if (!options.replace) {
    const Permutation order(size, derive_key(settings_.seed, Domain::replay_order, {size, draw}));
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[order(begin + i)];
    return;
  }
  std::uint64_t words[kBlockRows];
  draw_words(key_, draw, begin, {words, slots.size()});
  if (!tree_) {
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[scaled_below(size, words[i])];
    return;
  }
  double targets[kBlockRows];
  const double part = tree_->total() / static_cast<double>(batch_size);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    targets[i] = part * (static_cast<double>(begin + i) + static_cast<double>(words[i] >> 11) * 0x1p-53);
  }
  tree_->find({targets, slots.size()}, slots.data());
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

bool ReplayBuffer::has_end(const std::byte* row) const noexcept {
  const auto is_set = [&](std::size_t flag) {
    return flag < settings_.columns.size() && row[layout_.offsets[flag]] != std::byte{0};
  };
  return is_set(terminal_) || is_set(truncated_);
}

// Whether the row in `successor` begins where the one in `slot` led to.
bool ReplayBuffer::continues(std::size_t slot, std::size_t successor) const noexcept {
  if (layout_.entry_size > 0) {
    const std::int64_t reference = entry_of(slot);
    if (reference == 0) return true;
    return std::ranges::all_of(pieces_, [&](const Piece& piece) {
      return piece.source != Piece::Source::next ||
             std::memcmp(entry(reference) + piece.offset, row(successor) + piece.shared_offset, piece.size) == 0;
    });
  }
  const std::size_t none = settings_.columns.size();
  if (observation_ == none || next_observation_ == none) return true;
  if (pieces_[observation_].size != pieces_[next_observation_].size) return true;
  return std::memcmp(row(slot) + pieces_[next_observation_].offset, row(successor) + pieces_[observation_].offset,
                     pieces_[observation_].size) == 0;
}

// At most kBlockRows rows on their way out: the rows that each one's n steps go through.
class ReplayBuffer::Block {
 public:
  Block(const ReplayBuffer& buffer, std::span<const std::int64_t> slots) noexcept
      : buffer_(buffer), slots_(slots), capacity_(buffer.settings_.capacity) {
    for (std::size_t i = 0; i < slots.size(); ++i) first_[i] = buffer.row(static_cast<std::size_t>(slots[i]));
    if (buffer.settings_.n_step == 1 && buffer.layout_.entry_size == 0) return;
    for (std::size_t i = 0; i < slots.size(); ++i) walk(i);
  }

  // Rows [begin, begin + count) of the block, count <= kGroupRows, to `out`.
  void copy(const Piece& piece, const Column& column, std::size_t begin, std::size_t count,
            std::byte* out) const noexcept {
    const std::byte* sources[kGroupRows];
    switch (piece.source) {
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
      case Piece::Source::reward:
        return column.type == DataType::f4 ? sum_rewards<float>(piece, begin, count, out)
                                           : sum_rewards<double>(piece, begin, count, out);
      case Piece::Source::discount: return copy_discounts(begin, count, out);
    }
  }

 private:
  [[nodiscard]] std::size_t after(std::size_t slot) const noexcept {
    const std::size_t next = slot + buffer_.settings_.environment_count;
    return next < capacity_ ? next : next - capacity_;
  }

  void walk(std::size_t i) noexcept {
    auto slot = static_cast<std::size_t>(slots_[i]);
    const State& state = *buffer_.state_;
    const std::size_t oldest = state.first % capacity_;
    const std::size_t age = slot >= oldest ? slot - oldest : slot + capacity_ - oldest;
    const std::size_t successor_count = (state.added - state.first - age - 1) / buffer_.settings_.environment_count;
    const std::size_t most = std::min(buffer_.settings_.n_step - 1, successor_count);
    std::size_t steps = 1;
    for (; steps <= most && !buffer_.has_end(buffer_.row(slot)); ++steps) {
      const std::size_t next = after(slot);
      if (!buffer_.continues(slot, next)) break;
      slot = next;
    }
    steps_[i] = steps;
    last_[i] = buffer_.row(slot);
    if (buffer_.layout_.entry_size == 0) return;
    reference_[i] = buffer_.entry_of(slot);
    next_[i] = reference_[i] == 0 ? buffer_.row(after(slot)) : buffer_.entry(reference_[i]);
  }

  template <class Number>
  void sum_rewards(const Piece& piece, std::size_t begin, std::size_t count, std::byte* out) const noexcept {
    for (std::size_t i = begin; i < begin + count; ++i) {
      for (std::size_t at = 0; at < piece.size; at += sizeof(Number)) {
        double sum = 0.0, factor = 1.0;
        auto slot = static_cast<std::size_t>(slots_[i]);
        for (std::size_t step = 0; step < steps_[i]; ++step, slot = after(slot)) {
          Number reward;
          std::memcpy(&reward, buffer_.row(slot) + piece.offset + at, sizeof(Number));
          sum += factor * static_cast<double>(reward);
          factor *= buffer_.settings_.discount;
        }
        const auto result = static_cast<Number>(sum);
        std::memcpy(out + (i - begin) * piece.size + at, &result, sizeof(Number));
      }
    }
  }

  void copy_discounts(std::size_t begin, std::size_t count, std::byte* out) const noexcept {
    for (std::size_t i = begin; i < begin + count; ++i) {
      double factor = 1.0;
      for (std::size_t step = 0; step < steps_[i]; ++step) factor *= buffer_.settings_.discount;
      const auto discount = static_cast<float>(factor);
      std::memcpy(out + (i - begin) * sizeof(float), &discount, sizeof(float));
    }
  }

  const ReplayBuffer& buffer_;
  std::span<const std::int64_t> slots_;
  std::size_t capacity_;
  const std::byte* first_[kBlockRows];
  const std::byte* last_[kBlockRows];
  const std::byte* next_[kBlockRows];   // where the shared columns are:
  std::int64_t reference_[kBlockRows];  // 0: in a row, else in an entry
  std::size_t steps_[kBlockRows];       // rows that the n steps go through, at least 1
};

// Rows `first_row` on of the batch, from at most kBlockRows slots; on the way those of `next` are prefetched.
void ReplayBuffer::copy_out(std::span<const std::int64_t> slots, std::span<const std::int64_t> next,
                            std::size_t first_row, std::span<std::byte* const> columns) const noexcept {
  const Block block(*this, slots);
  for (std::size_t begin = 0; begin < slots.size(); begin += kGroupRows) {
    const std::size_t count = std::min(kGroupRows, slots.size() - begin);
    if (begin < next.size()) prefetch(next.subspan(begin, std::min(kGroupRows, next.size() - begin)));
    for (std::size_t c = 0; c < pieces_.size(); ++c) {
      block.copy(pieces_[c], batch_columns_[c], begin, count, columns[c] + (first_row + begin) * pieces_[c].size);
    }
  }
}

// Rows [begin, end) of a batch: `slots_of(row, slots)` tells where a block of them is, one block ahead of the copying.
template <class SlotsOf>
void ReplayBuffer::copy_rows(std::size_t begin, std::size_t end, std::span<std::byte* const> columns,
                             const SlotsOf& slots_of) const {
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
    copy_out(slots, next, from, columns);
    slots = next;
  }
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
  const std::uint64_t number = std::atomic_ref(state_->draw_count).fetch_add(1);
  std::byte* const indexes = tree_ ? columns[pieces_.size()] : nullptr;

  parallel_for(batch_size, kRowsPerTask, {thread_count, {}},
               [&](std::size_t begin, std::size_t end, const std::atomic<bool>&) {
                 copy_rows(begin, end, columns, [&](std::size_t from, std::span<std::int64_t> slots) {
                   draw(number, options, from, batch_size, slots);
                   if (tree_) std::memcpy(indexes + from * sizeof(slots[0]), slots.data(), slots.size_bytes());
                 });
               });
  if (tree_) weigh(batch_size, beta, indexes, columns[pieces_.size() + 1]);
}

// Schaul et al. 2016, section 3.4: (N P(i))^-beta, divided by the largest of the batch.
void ReplayBuffer::weigh(std::size_t batch_size, double beta, const std::byte* indexes, std::byte* out) const {
  const auto weight = [&](std::size_t i) {
    std::int64_t slot;
    std::memcpy(&slot, indexes + i * sizeof(slot), sizeof(slot));
    return tree_->weight(static_cast<std::size_t>(slot));
  };
  double smallest = SumTree::kLargestWeight;
  for (std::size_t i = 0; i < batch_size; ++i) smallest = std::min(smallest, weight(i));
  const auto exponent = static_cast<float>(beta);
  for (std::size_t i = 0; i < batch_size; ++i) {
    const float correction = std::pow(static_cast<float>(smallest / weight(i)), exponent);
    std::memcpy(out + i * sizeof(float), &correction, sizeof(float));
  }
}

void ReplayBuffer::gather(std::span<const std::int64_t> slots, std::span<std::byte* const> columns,
                          std::size_t thread_count) {
  const std::shared_lock lock(mutex_);
  require_open();
  require_rows(slots);
  parallel_for(slots.size(), kRowsPerTask, {thread_count, {}},
               [&](std::size_t begin, std::size_t end, const std::atomic<bool>&) {
                 copy_rows(begin, end, columns, [&](std::size_t from, std::span<std::int64_t> block) {
                   std::copy_n(slots.begin() + static_cast<std::ptrdiff_t>(from), block.size(), block.begin());
                 });
               });
}

std::size_t ReplayBuffer::gathered_column_count() const noexcept { return pieces_.size(); }

std::vector<std::int64_t> ReplayBuffer::slots() const {
  const std::shared_lock lock(mutex_);
  require_open();
  const Slots all(*this);
  std::vector<std::int64_t> slots(size_now());
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[i];
  return slots;
}

void ReplayBuffer::epoch_slots(std::uint64_t epoch, std::size_t first, std::span<std::int64_t> slots) const {
  const std::shared_lock lock(mutex_);
  require_open();
  const std::size_t size = size_now();
  if (first > size || slots.size() > size - first) {
    throw std::out_of_range(message("an epoch has ", size, " rows, got rows ", first, " to ", first + slots.size()));
  }
  if (slots.empty()) return;
  const Permutation order(size, derive_key(settings_.seed, Domain::replay_order, {size, epoch, 1}));
  const Slots all(*this);
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[order(first + i)];
}

// --- priorities
// -------------------------------------------------------------------------------------------------------

void ReplayBuffer::update_priorities(std::span<const std::int64_t> slots, std::span<const double> priorities) {
  require(settings_.alpha.has_value(), "the buffer draws uniformly; make it with prioritized=True");
  require(slots.size() == priorities.size(), "there must be one priority for each of ", slots.size(), " indexes, got ",
          priorities.size());
  std::vector<double> weights(priorities.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < priorities.size(); ++i) {
    require(priorities[i] >= 0.0 && priorities[i] <= kLargestPriority, "priorities must be numbers from 0 to ",
            kLargestPriority, ", got ", priorities[i], " at ", i);
    weights[i] = weight_of(priorities[i], *settings_.alpha);
    largest = std::max(largest, priorities[i]);
  }
  const std::scoped_lock lock(mutex_);
  require_open();
  require_rows(slots);
  tree_->set(slots, weights);
  if (largest > std::max(1.0, state_->largest_priority)) store(state_->largest_priority, largest);
}

void ReplayBuffer::set_beta(double beta) { beta_ = checked_beta(beta); }

void ReplayBuffer::priority_weights(std::span<const std::int64_t> slots, std::span<double> weights) const {
  require(settings_.alpha.has_value(), "the buffer draws uniformly; make it with prioritized=True");
  const std::shared_lock lock(mutex_);
  require_open();
  require_rows(slots);
  for (std::size_t i = 0; i < slots.size(); ++i) weights[i] = tree_->weight(static_cast<std::size_t>(slots[i]));
}

// --- files
// ------------------------------------------------------------------------------------------------------------

std::vector<ReplayBuffer::Extent> ReplayBuffer::used_extents() const {
  require_open();
  const std::size_t capacity = settings_.capacity;
  const bool is_one_round = size_now() == 0 || state_->first / capacity == (state_->added - 1) / capacity;
  const std::size_t slot_count = size_now() == 0 ? 0 : is_one_round ? (state_->added - 1) % capacity + 1 : capacity;
  return {{0, kPage},
          {layout_.rows, slot_count * layout_.row_stride},
          {layout_.weights, settings_.alpha ? slot_count * sizeof(double) : 0},
          {layout_.entries, entry_count_ * layout_.entry_size}};
}

void ReplayBuffer::restore() {
  const std::size_t capacity = settings_.capacity, environments = settings_.environment_count;
  const auto check = [](bool holds) { require(holds, "the memory does not hold a replay buffer of these settings"); };
  state_->added = std::max(state_->added, state_->first);  // the end of an interrupted clear()
  const std::size_t size = size_now();
  check(size <= capacity && state_->first % environments == 0 && size % environments == 0);
  check(state_->largest_priority >= 0.0 && state_->largest_priority <= kLargestPriority);
  if (layout_.entry_size > 0) {
    std::vector<bool> is_used;
    for (std::uint64_t number = state_->first; number < state_->added; ++number) {
      const std::int64_t reference = entry_of(number % capacity);
      const auto place = static_cast<std::size_t>(reference);
      check(place <= capacity && (place > 0 || number + environments < state_->added));
      if (place > is_used.size()) is_used.resize(place, false);
      if (place > 0) check(!is_used[place - 1]), is_used[place - 1] = true;
    }
    entry_count_ = is_used.size();
    free_entries_.clear();
    for (std::size_t place = entry_count_; place > 0; --place) {
      if (!is_used[place - 1]) free_entries_.push_back(static_cast<std::int64_t>(place));
    }
  }
  if (settings_.alpha) {
    const std::span weights(reinterpret_cast<double*>(memory_.data() + layout_.weights), SumTree::padded(capacity));
    const std::size_t oldest = state_->first % capacity;
    for (std::size_t slot = 0; slot < weights.size(); ++slot) {
      const std::size_t age = slot >= oldest ? slot - oldest : slot + capacity - oldest;
      if (slot >= capacity || age >= size) {
        if (weights[slot] != 0.0) weights[slot] = 0.0;
      }
      check(weights[slot] >= 0.0 && weights[slot] <= SumTree::kLargestWeight);
    }
    tree_.emplace(weights);
  }
}

void ReplayBuffer::close() {
  const std::scoped_lock lock(mutex_);
  state_ = nullptr;
  rows_ = entries_ = nullptr;
  memory_ = {};
  tree_.reset();
  owned_.reset();
}

}  // namespace trajmill
