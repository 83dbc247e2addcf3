// Rows that follow one another: sums of rewards over n steps, and where steps end.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "replay_parts.hpp"

namespace trajmill {

// Which columns say where a row led to. Nothing is read out of a name that the schema is free to choose.
void ReplayBuffer::make_links() {
  const auto& columns = settings_.columns;
  for (const auto& [name, of] : settings_.shared) {
    links_.push_back({find_column(columns, name), find_column(columns, of), true});
  }
  const std::size_t observation = find_column(columns, "observation");
  const std::size_t next_observation = find_column(columns, "next_observation");
  if (!settings_.following && observation < columns.size() && next_observation < columns.size() &&
      columns[observation].byte_count() == columns[next_observation].byte_count() &&
      std::ranges::count(links_, next_observation, &Link::to) == 0) {
    links_.push_back({next_observation, observation, false});
  }
  for (const auto& [name, of] : settings_.following.value_or(std::vector<SharedColumn>{})) {
    const std::size_t to = find_column(columns, name), from = find_column(columns, of);
    require(to < columns.size() && from < columns.size() && to != from,
            "following must name two columns of the schema, got '", name, "' and '", of, "'");
    require(columns[to].type == columns[from].type && columns[to].shape == columns[from].shape, "'", name,
            "' cannot follow '", of, "': their dtype and shape must be equal");
    if (std::ranges::count(links_, to, &Link::to) == 0) links_.push_back({to, from, false});
  }
}

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
  static constexpr std::string_view kOwn[] = {"observation",      "action",   "reward",
                                              "next_observation", "terminal", "truncated"};
  for (std::size_t c = 0; c < columns.size() && !settings_.following; ++c) {
    const bool is_known = std::ranges::count(kOwn, columns[c].name) > 0 ||
                          std::ranges::any_of(links_, [c](const Link& link) { return link.to == c || link.of == c; });
    require(is_known, "n_step > 1 cannot know whether '", columns[c].name,
            "' belongs to the first or to the last of n steps: say with following= which columns hold the next row's "
            "values, such as following={'next_obs': 'obs'}, or {} if none does");
  }
}

bool ReplayBuffer::has_end(const std::byte* row) const noexcept {
  const auto is_set = [&](std::size_t flag) {
    return flag < settings_.columns.size() && row[layout_.offsets[flag]] != std::byte{0};
  };
  return is_set(terminal_) || is_set(truncated_);
}

// Whether the row in `successor` has what the shared columns of the one in `slot` hold.
bool ReplayBuffer::is_repeated(std::size_t slot, std::size_t successor) const noexcept {
  const std::int64_t reference = entry_of(slot);
  return reference == 0 || std::ranges::all_of(links_, [&](const Link& link) {
           return !link.is_shared || std::memcmp(entry(reference) + pieces_[link.to].offset,
                                                 row(successor) + pieces_[link.of].offset, pieces_[link.to].size) == 0;
         });
}

// Whether the row in `successor` begins where the one in `slot` led to.
bool ReplayBuffer::continues(std::size_t slot, std::size_t successor) const noexcept {
  return (layout_.entry_size == 0 || is_repeated(slot, successor)) &&
         std::ranges::all_of(links_, [&](const Link& link) {
           return link.is_shared || std::memcmp(row(slot) + pieces_[link.to].offset,
                                                row(successor) + pieces_[link.of].offset, pieces_[link.to].size) == 0;
         });
}

void ReplayBuffer::Block::walk() noexcept {
  const Record& state = buffer_.now();
  const std::size_t oldest = state.first % capacity_;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    auto slot = static_cast<std::size_t>(slots_[i]);
    const std::size_t younger_count = state.added - state.first - age_of(slot, oldest, capacity_) - 1;
    const std::size_t successor_count =
        buffer_.successors_ ? younger_count : younger_count / buffer_.settings_.environment_count;
    const std::size_t most = as_added_ ? 0 : std::min(buffer_.settings_.n_step - 1, successor_count);
    std::size_t steps = 1;
    for (; steps <= most && !buffer_.has_end(buffer_.row(slot)); ++steps) {
      const std::size_t next = buffer_.successor(slot);
      if (next >= capacity_ || !buffer_.continues(slot, next)) break;
      slot = next;
    }
    steps_[i] = steps;
    last_[i] = buffer_.row(slot);
    if (buffer_.layout_.entry_size == 0) continue;
    reference_[i] = buffer_.entry_of(slot);
    next_[i] = reference_[i] == 0 ? buffer_.row(buffer_.successor(slot)) : buffer_.entry(reference_[i]);
  }
}

template <class Number>
void ReplayBuffer::Block::sum_rewards(const Piece& piece, std::size_t begin, std::size_t count,
                                      std::byte* out) const noexcept {
  for (std::size_t i = begin; i < begin + count; ++i) {
    for (std::size_t at = 0; at < piece.size; at += sizeof(Number)) {
      double sum = 0.0, factor = 1.0;
      auto slot = static_cast<std::size_t>(slots_[i]);
      for (std::size_t step = 0; step < steps_[i]; ++step, slot = buffer_.successor(slot)) {
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
