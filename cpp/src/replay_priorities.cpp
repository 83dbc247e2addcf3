// Draws in proportion to priorities, and the weights that make up for them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <shared_mutex>

#include "replay_parts.hpp"

namespace trajmill {
namespace {

// How much a priority counts; nothing but zero counts for nothing, however small.
double weight_of(double priority, double alpha) {
  return priority == 0.0 ? 0.0 : std::max(std::pow(priority, alpha), std::numeric_limits<double>::min());
}

}  // namespace

double ReplayBuffer::checked_beta(double beta) {
  require(beta >= 0.0 && beta <= 10.0, "beta must be in [0, 10], got ", beta);
  return beta;
}

void ReplayBuffer::set_beta(double beta) { beta_ = checked_beta(beta); }

double ReplayBuffer::largest_priority() const {
  const std::shared_lock lock(mutex_);
  require_open();
  return largest_priority_now();
}

double ReplayBuffer::largest_priority_now() const noexcept {
  return now().largest_priority == 0.0 ? 1.0 : now().largest_priority;
}

// Gives the new rows in `count` slots from `slot` on, around the ring, the largest priority.
void ReplayBuffer::prioritize(std::size_t slot, std::size_t count) {
  const double weight = weight_of(largest_priority_now(), *settings_.alpha);
  const std::size_t to_end = std::min(count, settings_.capacity - slot);
  tree_->fill(slot, slot + to_end, weight);
  tree_->fill(0, count - to_end, weight);
}

// Slots of the rows begin, begin + 1, ... of a batch, from their words.
void ReplayBuffer::draw_by_priority(std::span<const std::uint64_t> words, std::size_t begin, std::size_t batch_size,
                                    std::span<std::int64_t> slots) const {
  double targets[kBlockRows];
  const double part = tree_->total() / static_cast<double>(batch_size);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    targets[i] = part * (static_cast<double>(begin + i) + static_cast<double>(words[i] >> 11) * 0x1p-53);
  }
  tree_->find({targets, slots.size()}, slots.data());
}

// Schaul et al. 2016, section 3.4: (N P(i))^-beta, divided by the largest of the batch.
void ReplayBuffer::weigh(std::span<const double> weights, double beta, std::byte* out) {
  const double smallest = *std::ranges::min_element(weights);
  const auto exponent = static_cast<float>(beta);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float correction = std::pow(static_cast<float>(smallest / weights[i]), exponent);
    std::memcpy(out + i * sizeof(float), &correction, sizeof(float));
  }
}

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
  if (largest > largest_priority_now()) publish(now().first, now().added, largest);
}

void ReplayBuffer::priority_weights(std::span<const std::int64_t> slots, std::span<double> weights) const {
  require(settings_.alpha.has_value(), "the buffer draws uniformly; make it with prioritized=True");
  const std::shared_lock lock(mutex_);
  require_open();
  require_rows(slots);
  for (std::size_t i = 0; i < slots.size(); ++i) weights[i] = tree_->weight(static_cast<std::size_t>(slots[i]));
}

// Builds the tree over the weights in memory(), and takes out those of slots that hold no row.
void ReplayBuffer::restore_priorities(bool is_new) {
  require_sound(now().largest_priority >= 0.0 && now().largest_priority <= kLargestPriority);
  if (!settings_.alpha) return;
  const std::size_t capacity = settings_.capacity, size = size_now(), oldest = now().first % capacity;
  const std::span weights(reinterpret_cast<double*>(memory_.data() + layout_.weights), SumTree::padded(capacity));
  WeightCheck* const check = settings_.is_checked ? &state_->weights : nullptr;
  if (is_new) {
    tree_.emplace(weights, check, true);
    return;
  }
  if (check != nullptr) {
    require_sound(check->state == WeightCheck::kChanging ||
                  (check->state == 0 && check->sum == WeightCheck::sum_of(weights)));
    store(check->state, WeightCheck::kChanging);
  }
  for (std::size_t slot = 0; slot < weights.size(); ++slot) {
    const bool is_empty = slot >= capacity || age_of(slot, oldest, capacity) >= size;
    if (is_empty && weights[slot] != 0.0) weights[slot] = 0.0;
    require_sound(weights[slot] >= 0.0 && weights[slot] <= SumTree::kLargestWeight);
  }
  if (check != nullptr) {
    store(check->sum, WeightCheck::sum_of(weights));
    store(check->state, std::uint64_t{0});
  }
  tree_.emplace(weights, check);
}

}  // namespace trajmill
