#include "trajmill/seeded_batches.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

#include "trajmill/error.hpp"
#include "trajmill/training_words.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kMostSeeds = std::size_t{1} << 24;
constexpr std::uint64_t kSkippedTogether = 1 << 16;  // updates between two looks at an interrupt

}  // namespace

SeededBatches::SeededBatches(BatchSource& source, std::vector<std::uint64_t> seeds, std::size_t batch_size,
                             std::uint32_t site)
    : source_(source), seeds_(std::move(seeds)), batch_size_(batch_size), site_(site) {
  require(!seeds_.empty(), "there must be at least one seed, got none");
  require_draw(batch_size_, 1);
  require(seeds_.size() <= kMostSeeds, "there must be at most ", kMostSeeds, " seeds, got ", seeds_.size());
  require_draw(row_count(), 1);
  words_.resize(row_count());
}

void SeededBatches::sample(std::size_t row_count, std::span<std::byte* const> columns, std::size_t thread_count) {
  require_draw(row_count, thread_count);
  require(row_count == this->row_count(), "an update of ", seeds_.size(), " seeds with ", batch_size_,
          " rows each has ", this->row_count(), " rows, got batch_size ", row_count);
  const std::scoped_lock lock(mutex_);
  require_update(update_);
  const std::span words(words_);
  for (std::size_t k = 0; k < seeds_.size(); ++k) {
    training_words(seeds_[k], site_, static_cast<std::uint32_t>(update_), words.subspan(k * batch_size_, batch_size_));
  }
  source_.choose(words_, {seeds_.size(), batch_size_, 0, batch_size_}, columns, thread_count);
  ++update_;
}

std::uint64_t SeededBatches::update() const {
  const std::scoped_lock lock(mutex_);
  return update_;
}

void SeededBatches::set_update(std::uint64_t update, const std::function<bool()>& interrupted) {
  require_update(update);
  const std::scoped_lock lock(mutex_);
  const std::vector<std::uint64_t> before = position();
  try {
    source_.restart_choices();
    for (std::uint64_t done = 0; done < update; done += std::min(kSkippedTogether, update - done)) {
      if (interrupted && interrupted()) throw Interrupted();
      source_.skip_choices(std::min(kSkippedTogether, update - done), batch_size_);
    }
    update_ = update;
  } catch (...) {  // a weight that is a function, or an interrupt
    seek(before);
    throw;
  }
}

void SeededBatches::skip_draws(std::uint64_t count, std::size_t) {
  const std::scoped_lock lock(mutex_);
  require_update(update_ + count);
  source_.skip_choices(count, batch_size_);
  update_ += count;
}

std::vector<std::uint64_t> SeededBatches::position() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::uint64_t> position = source_.position();
  position.insert(position.begin(), update_);
  return position;
}

void SeededBatches::seek(std::span<const std::uint64_t> position) {
  const std::scoped_lock lock(mutex_);
  update_ = position[0];
  if (position.size() > 1) source_.seek(position.subspan(1));
}

}  // namespace trajmill
