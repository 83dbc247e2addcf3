#include "trajmill/batch_feed.hpp"

#include <chrono>
#include <stdexcept>
#include <utility>

#include "trajmill/error.hpp"

namespace trajmill {

BatchFeed::BatchFeed(BatchSource& source, std::size_t batch_size, std::vector<Slot> slots, std::size_t thread_count)
    : source_(source), batch_size_(batch_size), slots_(std::move(slots)), thread_count_(thread_count) {
  if (slots_.empty()) throw std::invalid_argument("a feed needs at least one slot");
  require_draw(batch_size_, thread_count_);
  for (const Slot& slot : slots_) {
    if (slot.size() != source_.batch_columns().size()) {
      throw std::invalid_argument(message("a slot needs room for the ", source_.batch_columns().size(),
                                          " columns of the source, got ", slot.size()));
    }
  }
  positions_.resize(slots_.size() + kUnused + 1);
  thread_ = std::thread([this] { fill(); });
}

BatchFeed::~BatchFeed() {
  if (!thread_.joinable()) return;
  try {
    stop(0);
  } catch (...) {  // a source that has been closed does not go back; the thread has ended
    return;
  }
}

void BatchFeed::stop(std::size_t unused) {
  if (unused > kUnused || unused > taken_) {
    throw std::invalid_argument(message(unused, " batches cannot have gone unused"));
  }
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  const std::uint64_t next = taken_ - unused;
  if (next < filled_) source_.seek(positions_[next % positions_.size()]);
}

void BatchFeed::fill() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || filled_ - released_ < slots_.size(); });
    if (stopping_) return;
    const Slot& slot = slots_[filled_ % slots_.size()];
    std::vector<std::uint64_t>& position = positions_[filled_ % positions_.size()];
    lock.unlock();
    std::exception_ptr failure;
    try {
      position = source_.position();
      source_.sample(batch_size_, slot, thread_count_);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure == nullptr) {
      ++filled_;
    } else {
      failure_ = failure;
    }
    changed_.notify_all();
    if (failure != nullptr) return;
  }
}

bool BatchFeed::ready() const {
  const std::scoped_lock lock(mutex_);
  return filled_ > taken_;
}

std::size_t BatchFeed::next(const std::function<bool()>& interrupted) {
  std::unique_lock lock(mutex_);
  if (taken_ - released_ == slots_.size()) {
    throw std::logic_error(message("all ", slots_.size(), " slots are in use; release one first"));
  }
  while (!changed_.wait_for(lock, std::chrono::milliseconds(50),
                            [this] { return filled_ > taken_ || failure_ != nullptr; })) {
    lock.unlock();
    if (interrupted && interrupted()) throw Interrupted();
    lock.lock();
  }
  if (filled_ > taken_) return taken_++ % slots_.size();
  std::rethrow_exception(
      std::exchange(failure_, std::make_exception_ptr(std::logic_error("the source failed before; open a new feed"))));
}

void BatchFeed::release() {
  {
    const std::scoped_lock lock(mutex_);
    if (released_ == taken_) throw std::logic_error("no slot is in use");
    ++released_;
  }
  changed_.notify_all();
}

}  // namespace trajmill
