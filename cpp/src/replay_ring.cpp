// Which rows there are, where they lie, and which of them a draw takes.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "replay_parts.hpp"
#include "trajmill/addressed_draws.hpp"
#include "trajmill/permutation.hpp"
#include "trajmill/philox.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;

std::shared_ptr<std::byte[]> allocate(std::size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(memory), [size](std::byte* begin) { munmap(begin, size); }};
}

}  // namespace

ReplayBuffer::ReplayBuffer(ReplaySettings settings, std::span<std::byte> memory)
    : settings_(std::move(settings)),
      layout_(layout(settings_)),
      key_(derive_key(settings_.seed, Domain::replay_indexes)) {
  make_columns();
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

void ReplayBuffer::require_rows(std::span<const std::int64_t> slots) const {
  const std::size_t size = size_now(), capacity = settings_.capacity, oldest = state_->first % capacity;
  for (const std::int64_t slot : slots) {
    const auto place = static_cast<std::size_t>(slot);  // a negative number becomes too large
    if (place >= capacity || age_of(place, oldest, capacity) >= size) {
      throw std::out_of_range(message("indexes must be slots that hold a row, got ", slot, " where ", size, " of ",
                                      capacity, " slots are taken, from slot ", oldest, " on"));
    }
  }
}

// --- shared columns: entries of the side store ---

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

// --- adding ---

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
  if (tree_) prioritize(slot, count);
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

// --- drawing ---

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
  std::uint64_t memory[kBlockRows];
  const std::span words(memory, slots.size());
  draw_words(key_, draw, begin, words);
  if (tree_) return draw_by_priority(words, begin, batch_size, slots);
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = all[scaled_below(size, words[i])];
}

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

// --- files ---

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

void ReplayBuffer::require_sound(bool holds) {
  require(holds, "the memory does not hold a replay buffer of these settings");
}

void ReplayBuffer::restore() {
  const std::size_t environments = settings_.environment_count;
  state_->added = std::max(state_->added, state_->first);  // the end of an interrupted clear()
  const std::size_t size = size_now();
  require_sound(size <= settings_.capacity && state_->first % environments == 0 && size % environments == 0);
  restore_entries();
  restore_priorities();
}

// Finds out which entries of the side store are in use.
void ReplayBuffer::restore_entries() {
  if (layout_.entry_size == 0) return;
  const std::size_t capacity = settings_.capacity;
  std::vector<bool> is_used;
  for (std::uint64_t number = state_->first; number < state_->added; ++number) {
    const auto place = static_cast<std::size_t>(entry_of(number % capacity));
    const bool has_successor = number + settings_.environment_count < state_->added;
    require_sound(place <= capacity && (place > 0 || has_successor));
    if (place == 0) continue;
    if (place > is_used.size()) is_used.resize(place, false);
    require_sound(!is_used[place - 1]);
    is_used[place - 1] = true;
  }
  entry_count_ = is_used.size();
  free_entries_.clear();
  for (std::size_t place = entry_count_; place > 0; --place) {
    if (!is_used[place - 1]) free_entries_.push_back(static_cast<std::int64_t>(place));
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
