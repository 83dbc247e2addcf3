// Rows that follow one another: sums of rewards over n steps, and where steps end.
#include <algorithm>
#include <cstring>

#include "replay_parts.hpp"

namespace trajmill {

void ReplayBuffer::require_n_step_columns() const {
  if (settings_.n_step == 1) return;
  const auto& columns = settings_.columns;
  require(reward_ < columns.size() && (columns[reward_].type == DataType::f4 || columns[reward_].type == DataType::f8),
          "n_step > 1 needs a column 'reward' of float32 or float64");
  require(terminal_ < columns.size(), "n_step > 1 needs a column 'terminal'");
  for (const std::size_t flag : {terminal_, truncated_}) {
    require(flag == columns.size() || columns[flag].byte_count() == 1, "n_step > 1 needs one byte, bool or uint8, in '",
            flag < columns.size() ? columns[flag].name : "", "'");
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

std::size_t ReplayBuffer::Block::after(std::size_t slot) const noexcept {
  const std::size_t next = slot + buffer_.settings_.environment_count;
  return next < capacity_ ? next : next - capacity_;
}

void ReplayBuffer::Block::walk() noexcept {
  const State& state = *buffer_.state_;
  const std::size_t oldest = state.first % capacity_;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    auto slot = static_cast<std::size_t>(slots_[i]);
    const std::size_t younger_count = state.added - state.first - age_of(slot, oldest, capacity_) - 1;
    const std::size_t successor_count = younger_count / buffer_.settings_.environment_count;
    const std::size_t most = std::min(buffer_.settings_.n_step - 1, successor_count);
    std::size_t steps = 1;
    for (; steps <= most && !buffer_.has_end(buffer_.row(slot)); ++steps) {
      const std::size_t next = after(slot);
      if (!buffer_.continues(slot, next)) break;
      slot = next;
    }
    steps_[i] = steps;
    last_[i] = buffer_.row(slot);
    if (buffer_.layout_.entry_size == 0) continue;
    reference_[i] = buffer_.entry_of(slot);
    next_[i] = reference_[i] == 0 ? buffer_.row(after(slot)) : buffer_.entry(reference_[i]);
  }
}

template <class Number>
void ReplayBuffer::Block::sum_rewards(const Piece& piece, std::size_t begin, std::size_t count,
                                      std::byte* out) const noexcept {
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

void ReplayBuffer::Block::copy_rewards(const Piece& piece, DataType type, std::size_t begin, std::size_t count,
                                       std::byte* out) const noexcept {
  type == DataType::f4 ? sum_rewards<float>(piece, begin, count, out) : sum_rewards<double>(piece, begin, count, out);
}

void ReplayBuffer::Block::copy_discounts(std::size_t begin, std::size_t count, std::byte* out) const noexcept {
  for (std::size_t i = begin; i < begin + count; ++i) {
    double factor = 1.0;
    for (std::size_t step = 0; step < steps_[i]; ++step) factor *= buffer_.settings_.discount;
    const auto discount = static_cast<float>(factor);
    std::memcpy(out + (i - begin) * sizeof(float), &discount, sizeof(float));
  }
}

}  // namespace trajmill
