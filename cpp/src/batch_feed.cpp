#include "trajmill/batch_feed.hpp"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "trajmill/error.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kUnused = 2;  // batches handed out that a caller may say were not used

}  // namespace

class BatchFeed::Ring {
 public:
  Ring(BatchSource& source, std::size_t batch_size, std::vector<Slot> slots, std::size_t thread_count,
       std::shared_ptr<void> kept)
      : kept_(std::move(kept)),
        source_(source),
        batch_size_(batch_size),
        slots_(std::move(slots)),
        thread_count_(thread_count),
        positions_(slots_.size() + kUnused + 1) {}

  // What the thread does, from the begin to the end.
  void fill() {
    std::unique_lock lock(mutex_);
    thread_ = std::this_thread::get_id();
    while (failure_ == nullptr) {
      changed_.wait(lock, [this] { return stopping_ || filled_ - released_ < slots_.size(); });
      if (stopping_) break;
      const Slot& slot = slots_[filled_ % slots_.size()];
      std::vector<std::uint64_t>& position = positions_[filled_ % positions_.size()];
      lock.unlock();
      std::exception_ptr failure;
      try {
        source_.find_turn(batch_size_);
        position = source_.position();
        source_.draw(batch_size_, slot, thread_count_);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (failure == nullptr) ++filled_;
      failure_ = std::move(failure);
      changed_.notify_all();
    }
    has_ended_ = true;
    changed_.notify_all();
  }

  void stop(std::size_t unused) {
    std::unique_lock lock(mutex_);
    if (unused > kUnused || unused > taken_) {
      throw std::invalid_argument(message(unused, " batches cannot have gone unused"));
    }
    const bool is_first = !std::exchange(stopping_, true);
    changed_.notify_all();
    changed_.wait(lock, [this] { return has_ended_; });
    const std::uint64_t next = taken_ - unused;
    if (is_first && next < filled_) source_.go_back(positions_[next % positions_.size()]);
  }

  // Ends after the batch under way, which nobody waits for.
  void abandon() {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }

  bool ready() {
    const std::scoped_lock lock(mutex_);
    return filled_ > taken_;
  }

  std::size_t next(const std::function<bool()>& interrupted) {
    std::unique_lock lock(mutex_);
    if (taken_ - released_ == slots_.size()) {
      throw std::logic_error(message("all ", slots_.size(), " slots are in use; release one first"));
    }
    while (!changed_.wait_for(lock, std::chrono::milliseconds(50),
                              [this] { return filled_ > taken_ || failure_ != nullptr || stopping_; })) {
      lock.unlock();
      if (interrupted && interrupted()) throw Interrupted();
      lock.lock();
    }
    if (stopping_) throw std::logic_error("the feed was closed; open a new one");
    if (filled_ > taken_) return taken_++ % slots_.size();
    std::rethrow_exception(std::exchange(
        failure_, std::make_exception_ptr(std::logic_error("the source failed before; open a new feed"))));
  }

  void release() {
    const std::scoped_lock lock(mutex_);
    if (released_ == taken_) throw std::logic_error("no slot is in use");
    ++released_;
    changed_.notify_all();
  }

  [[nodiscard]] bool is_of_parent() const noexcept { return forks_ != fork_count(); }
  [[nodiscard]] bool is_own_thread() {
    const std::scoped_lock lock(mutex_);
    return thread_ == std::this_thread::get_id();
  }

 private:
  const std::shared_ptr<void> kept_;
  BatchSource& source_;
  const std::size_t batch_size_;
  const std::vector<Slot> slots_;
  const std::size_t thread_count_;
  const std::uint64_t forks_ = fork_count();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread::id thread_;
  std::uint64_t filled_ = 0;                           // batches drawn so far
  std::uint64_t taken_ = 0;                            // of these handed out
  std::uint64_t released_ = 0;                         // of these given back
  std::vector<std::vector<std::uint64_t>> positions_;  // of the source before the last batches, by number, a ring
  bool stopping_ = false;
  bool has_ended_ = false;
  std::exception_ptr failure_;
};

BatchFeed::BatchFeed(BatchSource& source, std::size_t batch_size, std::vector<Slot> slots, std::size_t thread_count,
                     std::shared_ptr<void> kept) {
  if (slots.empty()) throw std::invalid_argument("a feed needs at least one slot");
  require_draw(batch_size, thread_count);
  for (const Slot& slot : slots) {
    if (slot.size() != source.batch_columns().size()) {
      throw std::invalid_argument(message("a slot needs room for the ", source.batch_columns().size(),
                                          " columns of the source, got ", slot.size()));
    }
  }
  ring_ = std::make_shared<Ring>(source, batch_size, std::move(slots), thread_count, std::move(kept));
  try {
    std::thread([ring = ring_] { ring->fill(); }).detach();
  } catch (const std::system_error& error) {
    throw std::runtime_error(message("a feed needs a thread of its own, which the system refused (", error.what(),
                                     "); raise the limit of processes, or draw with sample()"));
  }
}

BatchFeed::~BatchFeed() {
  if (ring_->is_of_parent()) return;
  try {
    ring_->is_own_thread() ? ring_->abandon() : ring_->stop(0);
  } catch (...) {  // a source that has been closed does not go back; the thread has ended
    return;
  }
}

BatchFeed::Ring& BatchFeed::usable() const {
  if (ring_->is_of_parent()) {
    throw std::logic_error("the feed belongs to the process that this one was forked from; open a new one here");
  }
  if (ring_->is_own_thread()) throw std::logic_error("a source must not use the feed that draws from it");
  return *ring_;
}

void BatchFeed::stop(std::size_t unused) {
  if (!ring_->is_of_parent()) usable().stop(unused);
}

bool BatchFeed::ready() const { return usable().ready(); }

std::size_t BatchFeed::next(const std::function<bool()>& interrupted) { return usable().next(interrupted); }

void BatchFeed::release() { usable().release(); }

}  // namespace trajmill
