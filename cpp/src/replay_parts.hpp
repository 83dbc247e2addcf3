// What the files of the replay buffer share. Internal to the core.
//
// replay_rows.cpp: what a row looks like and how rows are copied into a batch. replay_ring.cpp: which rows there are,
// where they lie and which of them a draw takes. replay_n_step.cpp: rows that follow one another.
// replay_priorities.cpp: draws in proportion to priorities.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "row_copy.hpp"
#include "trajmill/error.hpp"
#include "trajmill/replay_buffer.hpp"

namespace trajmill {

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kBlockRows = 64;  // drawn and prefetched together while the block before is copied

[[nodiscard]] constexpr std::size_t round_up(std::size_t size, std::size_t unit) noexcept {
  return (size + unit - 1) / unit * unit;
}

// The number of the column of that name; none: the column count.
[[nodiscard]] inline std::size_t find_column(const std::vector<Column>& columns, const std::string& name) {
  return static_cast<std::size_t>(std::ranges::find(columns, name, &Column::name) - columns.begin());
}

// How many rows are older than the one in `slot`, where the oldest is in slot `oldest`.
[[nodiscard]] constexpr std::size_t age_of(std::size_t slot, std::size_t oldest, std::size_t capacity) noexcept {
  return slot >= oldest ? slot - oldest : slot + capacity - oldest;
}

// Of a buffer's state: the value is there as a whole or not at all, and after everything that was stored before it.
template <class T>
void store(T& target, T value) noexcept {
  std::atomic_ref(target).store(value, std::memory_order_release);
}

// Rows [first, added) exist.
struct ReplayBuffer::Record {
  std::uint64_t first;      // number of the oldest row
  std::uint64_t added;      // number of the next row, at most 2^62
  double largest_priority;  // 0 stands for the 1 it starts with
  std::uint64_t check;      // of the three

  [[nodiscard]] std::uint64_t sum() const noexcept;
};

// What of a buffer is not rows; it lies in the buffer's memory, so that it survives with it. One of two records holds;
// the other one is written as a whole before it takes over. So whenever the process dies a valid buffer is left behind,
// and a word that was changed by anything else is noticed. All zero: no buffer yet.
struct ReplayBuffer::State {
  static constexpr std::uint64_t kHolds[2] = {0x5AA5'C33C'0FF0'9669, ~std::uint64_t{0x5AA5'C33C'0FF0'9669}};
  static constexpr std::uint32_t kDrawBits = 48;

  std::uint64_t which;  // kHolds of the record that holds
  std::uint64_t draws;  // draws made, and 16 bits that check them
  Record records[2];
  WeightCheck weights;  // where settings().is_checked

  [[nodiscard]] static std::uint64_t checked(std::uint64_t draw_count) noexcept;
};

inline const ReplayBuffer::Record& ReplayBuffer::now() const noexcept {
  return state_->records[state_->which == State::kHolds[1] ? 1 : 0];
}

inline std::size_t ReplayBuffer::size_now() const noexcept { return now().added - now().first; }

// Where the successor of the row in `slot` is, if it has one. None: with successors_ no slot at all, else any.
inline std::size_t ReplayBuffer::successor(std::size_t slot) const noexcept {
  if (successors_) return reinterpret_cast<const std::size_t*>(successors_.get())[slot] - 1;
  const std::size_t next = slot + settings_.environment_count;
  return next < settings_.capacity ? next : next - settings_.capacity;
}

// Column `to` says where a row led to, as column `of` of the row after it says where that one began.
struct ReplayBuffer::Link {
  std::size_t to, of;
  bool is_shared;
};

// How a batch column is made.
struct ReplayBuffer::Piece {
  enum class Source { first, last, next, reward, discount };
  Source source;
  std::size_t offset;         // in a row; of shared columns: in an entry
  std::size_t size;           // bytes
  std::size_t shared_offset;  // of shared columns: in the successor
  Gather gather;
  Scatter scatter;
};

// Where the index-th row is: from slot 0 on if all slots are taken, else from the oldest row on.
class ReplayBuffer::Slots {
 public:
  explicit Slots(const ReplayBuffer& buffer) noexcept
      : capacity_(buffer.settings_.capacity),
        begin_(buffer.size_now() == capacity_ ? 0 : buffer.now().first % capacity_) {}

  std::int64_t operator[](std::size_t index) const noexcept {
    const std::size_t slot = begin_ + index;
    return static_cast<std::int64_t>(slot < capacity_ ? slot : slot - capacity_);
  }

 private:
  std::size_t capacity_, begin_;
};

// At most kBlockRows rows on their way out: the rows that each one's n steps go through.
class ReplayBuffer::Block {
 public:
  Block(const ReplayBuffer& buffer, std::span<const std::int64_t> slots, bool as_added) noexcept;

  // Rows [begin, begin + count) of the block, count <= kGroupRows, to `out`.
  void copy(const Piece& piece, const Column& column, std::size_t begin, std::size_t count,
            std::byte* out) const noexcept;

 private:
  // In replay_n_step.cpp:
  void walk() noexcept;  // finds the rows that the steps go through
  template <class Number>
  void sum_rewards(const Piece& piece, std::size_t begin, std::size_t count, std::byte* out) const noexcept;
  void copy_rewards(const Piece& piece, DataType type, std::size_t begin, std::size_t count,
                    std::byte* out) const noexcept;
  void copy_discounts(std::size_t begin, std::size_t count, std::byte* out) const noexcept;

  const ReplayBuffer& buffer_;
  std::span<const std::int64_t> slots_;
  std::size_t capacity_;
  bool as_added_;  // one step each
  const std::byte* first_[kBlockRows];
  const std::byte* last_[kBlockRows];
  const std::byte* next_[kBlockRows];   // where the shared columns are:
  std::int64_t reference_[kBlockRows];  // 0: in a row, else in an entry
  std::size_t steps_[kBlockRows];       // rows that the n steps go through, at least 1
};

}  // namespace trajmill
