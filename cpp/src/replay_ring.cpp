// Which rows there are, where they lie, and which of them a draw takes.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <shared_mutex>
#include <stdexcept>
#include <utility>

#include "check_sum.hpp"
#include "replay_parts.hpp"
#include "trajmill/addressed_draws.hpp"
#include "trajmill/permutation.hpp"
#include "trajmill/philox.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::uint64_t kMostRows = std::uint64_t{1} << 62;  // ever added
constexpr std::uint64_t kMostDraws = (std::uint64_t{1} << 48) - 1;
constexpr const char* kUnsound =
    "the memory does not hold a replay buffer of these settings, or was changed by something else";

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
#ifdef MADV_HUGEPAGE  // Linux
    if (layout_.entries - layout_.rows >= kHugePage) {
      madvise(begin + layout_.rows, layout_.entries - layout_.rows, MADV_HUGEPAGE);
    }
#endif
  }
  require(memory.size() == layout_.byte_count && reinterpret_cast<std::uintptr_t>(memory.data()) % kPage == 0,
          "a buffer of these settings needs ", layout_.byte_count, " bytes at a page boundary, got ", memory.size());
  memory_ = memory;
  state_ = reinterpret_cast<State*>(memory_.data());
  rows_ = memory_.data() + layout_.rows;
  entries_ = memory_.data() + layout_.entries;
  if (settings_.environment_count > 1) {
    environments_ = reinterpret_cast<std::uint32_t*>(memory_.data() + layout_.environments);
  }
  if (settings_.is_checked) checks_ = reinterpret_cast<std::uint64_t*>(memory_.data() + layout_.checks);
  rebuild(kVersion, owned_ != nullptr);
}

ReplayBuffer::~ReplayBuffer() = default;

void ReplayBuffer::require_open() const { require(state_ != nullptr, closed_); }

// --- the state ---

std::uint64_t ReplayBuffer::Record::sum() const noexcept {
  std::uint64_t sum = 0x7472616A6D696C6C;
  for (const std::uint64_t word : {first, added, std::bit_cast<std::uint64_t>(largest_priority)}) {
    sum = mixed(sum, word);
  }
  return sum;
}

std::uint64_t ReplayBuffer::State::checked(std::uint64_t draw_count) noexcept {
  const std::uint64_t sum = (draw_count + 1) * 0x9E3779B97F4A7C15;
  return draw_count | (sum ^ sum >> 31) >> kDrawBits << kDrawBits;
}

// The record that does not hold is written and takes over at once.
void ReplayBuffer::publish(std::uint64_t first, std::uint64_t added, double largest_priority) noexcept {
  const std::size_t next = state_->which == State::kHolds[0] ? 1 : 0;
  Record& record = state_->records[next];
  record = {first, added, largest_priority, 0};
  record.check = record.sum();
  store(state_->which, State::kHolds[next]);
}

std::size_t ReplayBuffer::size() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return size_now();
}

std::uint64_t ReplayBuffer::row_count() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return now().added;
}

std::uint64_t ReplayBuffer::draw_count() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return std::atomic_ref(state_->draws).load() & kMostDraws;
}

void ReplayBuffer::set_draw_count(std::uint64_t count) {
  require(count <= kMostDraws, "draw_count must be below 2^48, got ", count);
  const std::shared_lock lock(mutex_);  // as draws, which count it
  require_open();
  store(state_->draws, State::checked(count));
}

// The number of a new draw; others may be made side by side.
std::uint64_t ReplayBuffer::next_draw() {
  const std::atomic_ref draws(state_->draws);
  std::uint64_t before = draws.load();
  do {
    require((before & kMostDraws) < kMostDraws, "the buffer has made the most draws there can be");
  } while (!draws.compare_exchange_weak(before, State::checked((before & kMostDraws) + 1)));
  return before & kMostDraws;
}

void ReplayBuffer::require_rows(std::span<const std::int64_t> slots) const {
  const std::size_t size = size_now(), capacity = settings_.capacity, oldest = now().first % capacity;
  for (const std::int64_t slot : slots) {
    const auto place = static_cast<std::size_t>(slot);  // a negative number becomes too large
    if (place >= capacity || age_of(place, oldest, capacity) >= size) {
      throw std::out_of_range(message("indexes must be slots that hold a row, got ", slot, " where ", size, " of ",
                                      capacity, " slots are taken, from slot ", oldest, " on"));
    }
  }
}

// --- what follows what ---

bool ReplayBuffer::has_successor(std::uint64_t number) const noexcept {
  return successors_ ? successor(number % settings_.capacity) < settings_.capacity
                     : number + settings_.environment_count < now().added;
}

// Finds the successors of all rows from their environments, and from now on writes them down.
void ReplayBuffer::follow_environments() {
  latest_.assign(settings_.environment_count, 0);
  successors_ = allocate(settings_.capacity * sizeof(std::size_t));
  for (std::uint64_t number = now().first; number < now().added; ++number) follow(number);
}

// Makes a row the successor of the last one of its environment; that one's slot, or the capacity if it is gone.
std::size_t ReplayBuffer::follow(std::uint64_t number) noexcept {
  const std::size_t capacity = settings_.capacity, slot = number % capacity;
  const auto successors = reinterpret_cast<std::size_t*>(successors_.get());
  successors[slot] = 0;
  const std::uint64_t latest = std::exchange(latest_[environments_[slot]], number + 1);
  if (latest <= now().first) return capacity;
  const std::size_t before = (latest - 1) % capacity;
  successors[before] = slot + 1;
  return before;
}

// Writes down whose the new rows are.
void ReplayBuffer::store_environments(std::uint64_t number, std::size_t count,
                                      std::span<const std::int64_t> environments) noexcept {
  continued_.clear();
  std::size_t slot = number % settings_.capacity, environment = 0;
  for (std::size_t i = 0; i < count; ++i) {
    environments_[slot] = static_cast<std::uint32_t>(environments.empty() ? environment : environments[i]);
    if (successors_) {
      const std::size_t before = follow(number + i);
      if (before < settings_.capacity) continued_.push_back(before);
    }
    if (++slot == settings_.capacity) slot = 0;
    if (++environment == settings_.environment_count) environment = 0;
  }
}

// Calls work(slot, successor) for every row whose successor is one of `count` new rows from `number` on.
template <class Work>
void ReplayBuffer::for_each_continued(std::uint64_t number, std::size_t count, const Work& work) const {
  if (successors_) {
    for (const std::size_t slot : continued_) work(slot, successor(slot));
    return;
  }
  const std::size_t environments = settings_.environment_count;
  const std::uint64_t first = number - std::min<std::uint64_t>(environments, number - now().first);
  for (std::uint64_t i = first; i + environments < number + count; ++i) {
    work(i % settings_.capacity, successor(i % settings_.capacity));
  }
}

// --- shared columns: entries of the side store ---

std::int64_t ReplayBuffer::take_entry() noexcept {
  if (free_entries_.empty()) return static_cast<std::int64_t>(++entry_count_);
  const std::int64_t number = free_entries_.back();
  free_entries_.pop_back();
  return number;
}

// Fills the shared columns of the new rows, which no one sees yet.
void ReplayBuffer::share_rows(std::uint64_t number, std::size_t count,
                              std::span<const std::byte* const> columns) noexcept {
  const auto of_row = [&](std::size_t column, std::size_t i) { return columns[column] + i * pieces_[column].size; };
  const std::size_t capacity = settings_.capacity, begin = number % capacity;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t slot = (number + i) % capacity, next = successor(slot);
    const std::size_t after = !successors_      ? i + settings_.environment_count
                              : next < capacity ? age_of(next, begin, capacity)
                                                : count;
    const bool repeats =
        after < count && std::ranges::all_of(
                             links_,
                             [&](const Link& link) {
                               return !link.is_shared || std::memcmp(of_row(link.to, i), of_row(link.of, after),
                                                                     pieces_[link.to].size) == 0;
                             });
    std::int64_t& reference = entry_of(slot);
    reference = repeats ? 0 : take_entry();
    if (repeats) continue;
    for (const Link& link : links_) {
      if (!link.is_shared) continue;
      std::memcpy(entry(reference) + pieces_[link.to].offset, of_row(link.to, i), pieces_[link.to].size);
    }
  }
}

// --- adding ---

// All memory that adding `count` rows can need, so that nothing can fail once rows have begun to change.
void ReplayBuffer::make_room(std::size_t count) {
  if (tree_) tree_->make_room(count);
  if (successors_) continued_.reserve(count);
  if (layout_.entry_size == 0) return;
  const std::size_t needed = free_entries_.size() + count + settings_.environment_count;
  if (needed > free_entries_.capacity()) free_entries_.reserve(std::max(needed, 2 * free_entries_.capacity()));
}

// Takes the rows before `first_kept` out.
void ReplayBuffer::evict(std::uint64_t first_kept) noexcept {
  const auto [first, added, largest_priority, check] = now();
  if (first_kept <= first) return;
  publish(first_kept, added, largest_priority);
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

std::size_t ReplayBuffer::add(std::size_t count, std::span<const std::byte* const> columns,
                              std::span<const std::int64_t> environments) {
  const std::size_t capacity = settings_.capacity, environment_count = settings_.environment_count;
  require(!environments.empty() || count % environment_count == 0, "rows are added for all ", environment_count,
          " environments together, so their number must be a multiple of ", environment_count, ", got ", count,
          "; for rows of some of them say whose they are, such as environments=[0, 1]");
  require(environments.empty() || environments.size() == count, "there must be one of environments for each of ", count,
          " rows, got ", environments.size());
  for (std::size_t i = 0; i < environments.size(); ++i) {
    require(environments[i] >= 0 && static_cast<std::size_t>(environments[i]) < environment_count,
            "environments must be in [0, ", environment_count, "), got ", environments[i], " at ", i);
  }
  require(count <= capacity, "a batch of ", count, " rows does not fit into a buffer of ", capacity,
          " rows; add the last ", capacity, " only");
  const std::scoped_lock lock(mutex_);
  require_open();
  const std::uint64_t number = now().added;
  const std::size_t slot = number % capacity;
  if (count == 0) return slot;
  require(number <= kMostRows - count, "the buffer has been given the most rows there can be");
  bool is_together = number % environment_count == 0 && count % environment_count == 0;
  for (std::size_t i = 0; i < environments.size(); ++i) {
    is_together = is_together && static_cast<std::size_t>(environments[i]) == i % environment_count;
  }
  if (!is_together && !successors_) follow_environments();
  make_room(count);
  evict(number + count > capacity ? number + count - capacity : 0);
  constexpr std::size_t kRowsTogether = 64;  // stay in the first cache while their columns are put together
  for (std::size_t done = 0; done < count;) {
    const std::size_t to_end = capacity - (number + done) % capacity;
    const std::size_t run = std::min({count - done, to_end, kRowsTogether});
    store_rows(number + done, run, done, columns);
    done += run;
  }
  if (environments_ != nullptr) store_environments(number, count, environments);
  if (layout_.entry_size > 0) share_rows(number, count, columns);
  if (checks_ != nullptr) {
    for (std::uint64_t i = number; i < number + count; ++i) checks_[i % capacity] = row_check(i);
  }
  if (tree_) prioritize(slot, count);
  publish(now().first, number + count, now().largest_priority);  // now the rows are there
  if (layout_.entry_size > 0) {
    for_each_continued(number, count, [&](std::size_t row, std::size_t next) {
      if (entry_of(row) == 0 || !is_repeated(row, next)) return;
      free_entries_.push_back(std::exchange(entry_of(row), 0));
    });
  }
  if (settings_.n_step > 1) {
    for_each_continued(number, count, [&](std::size_t before, std::size_t next) {
      if (!has_end(row(before)) && !continues(before, next)) ++break_count_;
    });
  }
  return slot;
}

std::size_t ReplayBuffer::break_count() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return break_count_;
}

void ReplayBuffer::clear() {
  const std::scoped_lock lock(mutex_);
  require_open();
  const std::size_t slot_count = used_slot_count();
  if (tree_) tree_->make_room(slot_count);
  const std::uint64_t next_round = round_up(now().added, settings_.capacity);
  publish(next_round, next_round, now().largest_priority);
  free_entries_.clear();
  entry_count_ = 0;
  successors_.reset();
  if (tree_) tree_->fill(0, slot_count, 0.0);
}

// --- checks ---

// Of a row as it was added, its number and its environment.
std::uint64_t ReplayBuffer::row_check(std::uint64_t number) const noexcept {
  const std::size_t slot = number % settings_.capacity;
  const std::size_t begin = layout_.entry_size > 0 ? sizeof(std::int64_t) : 0;  // behind where its entry is
  std::uint64_t sum = mixed(mixed(number, environments_ != nullptr ? environments_[slot] : 0), row(slot) + begin,
                            layout_.row_stride - begin);
  for (const Link& link : links_) {
    if (!link.is_shared) continue;
    const std::int64_t reference = entry_of(slot);
    const std::byte* const shared =
        reference == 0 ? row(successor(slot)) + pieces_[link.of].offset : entry(reference) + pieces_[link.to].offset;
    sum = mixed(sum, shared, pieces_[link.to].size);
  }
  return sum;
}

std::vector<std::int64_t> ReplayBuffer::changed_slots(std::uint64_t first, std::uint64_t last) const {
  require(settings_.is_checked, "the rows of this buffer have no checks");
  const std::shared_lock lock(mutex_);
  require_open();
  std::vector<std::int64_t> slots;
  for (std::uint64_t number = std::max(first, now().first); number < std::min(last, now().added); ++number) {
    const std::size_t slot = number % settings_.capacity;
    if (checks_[slot] != row_check(number)) slots.push_back(static_cast<std::int64_t>(slot));
  }
  return slots;
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

// The slots from the first one on that hold a row, or did since the buffer was made or cleared.
std::size_t ReplayBuffer::used_slot_count() const noexcept {
  if (size_now() == 0) return 0;
  const std::size_t capacity = settings_.capacity;
  const bool is_one_round = now().first / capacity == (now().added - 1) / capacity;
  return is_one_round ? (now().added - 1) % capacity + 1 : capacity;
}

std::vector<ReplayBuffer::Extent> ReplayBuffer::used_extents() const {
  require_open();
  const std::size_t slot_count = used_slot_count();
  return {{0, kPage},
          {layout_.rows, slot_count * layout_.row_stride},
          {layout_.weights, settings_.alpha ? slot_count * sizeof(double) : 0},
          {layout_.entries, entry_count_ * layout_.entry_size},
          {layout_.environments, environments_ != nullptr ? slot_count * sizeof(std::uint32_t) : 0}};
}

void ReplayBuffer::require_sound(bool holds) { require(holds, kUnsound); }

void ReplayBuffer::restore(std::uint32_t version) {
  const std::scoped_lock lock(mutex_);
  require_open();
  try {
    rebuild(version, false);
  } catch (...) {
    give_up(kUnsound);
    throw;
  }
}

// Memory that `is_new` holds zeros, and takes none of the machine's where nothing was written: it is not looked at.
void ReplayBuffer::rebuild(std::uint32_t version, bool is_new) {
  if (version == 1) {
    std::uint64_t former[4];
    std::memcpy(former, state_, sizeof(former));
    *state_ = {};
    state_->draws = State::checked(std::min(former[2], kMostDraws));
    publish(former[0], std::max(former[0], former[1]), std::bit_cast<double>(former[3]));
  }
  const std::span words(reinterpret_cast<const std::uint64_t*>(state_), sizeof(State) / sizeof(std::uint64_t));
  if (std::ranges::all_of(words, [](std::uint64_t word) { return word == 0; })) {
    state_->draws = State::checked(0);
    publish(0, 0, 0.0);
  }
  require_sound(std::ranges::count(State::kHolds, state_->which) == 1 && now().check == now().sum() &&
                state_->draws == State::checked(state_->draws & kMostDraws));
  require_sound(now().first <= now().added && now().added <= kMostRows && size_now() <= settings_.capacity);
  restore_environments(version);
  restore_entries();
  restore_priorities(is_new);
}

// Finds out what follows what.
void ReplayBuffer::restore_environments(std::uint32_t version) {
  successors_.reset();
  if (environments_ == nullptr) return;
  const std::size_t environments = settings_.environment_count;
  bool is_together = now().first % environments == 0 && now().added % environments == 0;
  require_sound(version == kVersion || is_together);
  for (std::uint64_t number = now().first; number < now().added; ++number) {
    std::uint32_t& environment = environments_[number % settings_.capacity];
    if (version != kVersion) environment = static_cast<std::uint32_t>(number % environments);
    require_sound(environment < environments);
    is_together = is_together && environment == number % environments;
  }
  if (!is_together) follow_environments();
}

// Finds out which entries of the side store are in use.
void ReplayBuffer::restore_entries() {
  if (layout_.entry_size == 0) return;
  const std::size_t capacity = settings_.capacity;
  std::vector<bool> is_used;
  for (std::uint64_t number = now().first; number < now().added; ++number) {
    const auto place = static_cast<std::size_t>(entry_of(number % capacity));
    require_sound(place <= capacity && (place > 0 || has_successor(number)));
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

void ReplayBuffer::close(std::string reason) {
  mutex_.discard();
  const std::scoped_lock lock(mutex_);
  give_up(std::move(reason));
}

void ReplayBuffer::give_up(std::string reason) noexcept {
  closed_ = std::move(reason);
  state_ = nullptr;
  rows_ = entries_ = nullptr;
  environments_ = nullptr;
  checks_ = nullptr;
  successors_.reset();
  memory_ = {};
  tree_.reset();
  owned_.reset();
}

}  // namespace trajmill
