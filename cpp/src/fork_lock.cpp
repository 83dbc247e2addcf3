#include "trajmill/fork_lock.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>

namespace trajmill {
namespace {

std::atomic<std::uint64_t> forks = 0;

// Stays the same for the one thread that a forked child has.
const void* this_thread() noexcept {
  static thread_local const char place = 0;
  return &place;
}

}  // namespace

std::uint64_t fork_count() noexcept { return forks.load(std::memory_order_relaxed); }

// All locks there are. While a process is forked no thread is inside one of them, so the child finds each as it was
// between two calls. Never destroyed: threads may still work when the process ends.
class ForkLock::Registry {
 public:
  static Registry& instance() {
    static Registry* const registry = new Registry;
    return *registry;
  }

  void enter(ForkLock* lock) {
    const std::scoped_lock guard(mutex_);
    locks_.push_back(lock);
  }

  void leave(ForkLock* lock) {
    const std::scoped_lock guard(mutex_);
    std::erase(locks_, lock);
  }

 private:
  Registry() {
    pthread_atfork([] { instance().hold(); }, [] { instance().let_go(); }, [] { instance().reset_in_child(); });
  }

  void hold() {
    mutex_.lock();
    for (ForkLock* lock : locks_) lock->mutex_.lock();
  }

  void let_go() {
    for (ForkLock* lock : locks_) lock->mutex_.unlock();
    mutex_.unlock();
  }

  void reset_in_child() {
    forks.fetch_add(1, std::memory_order_relaxed);
    for (ForkLock* lock : locks_) lock->reset_in_child();
    new (&mutex_) std::mutex;
  }

  std::mutex mutex_;
  std::vector<ForkLock*> locks_;
};

ForkLock::ForkLock() { Registry::instance().enter(this); }

ForkLock::~ForkLock() { Registry::instance().leave(this); }

// Threads that had it shared are not there any more, and have changed nothing.
void ForkLock::reset_in_child() noexcept {
  new (&mutex_) std::mutex;
  new (&changed_) std::condition_variable;  // not destroyed before: that would wait for the parent's threads
  std::erase_if(readers_, [](const Reader& reader) { return reader.thread != this_thread(); });
  is_torn_ = is_torn_ || (owner_ != nullptr && owner_ != this_thread());
  if (owner_ != this_thread()) {
    owner_ = nullptr;
    depth_ = 0;
  }
  asked_ = served_ = 0;
}

ForkLock::Reader* ForkLock::find_reader() noexcept {
  const auto found = std::ranges::find(readers_, this_thread(), &Reader::thread);
  return found == readers_.end() ? nullptr : &*found;
}

void ForkLock::require_whole() const {
  if (!is_torn_) return;
  throw std::runtime_error(
      "another thread was changing this object when the process was forked, so the child's copy of it is not whole; "
      "fork while nothing changes it, or make the child's own, as with the start method 'spawn'");
}

template <class Free>
void ForkLock::wait_for_turn(std::unique_lock<std::mutex>& guard, const Free& is_free) {
  const std::uint64_t number = asked_++;
  changed_.wait(guard, [&] { return number == served_ && is_free(); });
  ++served_;
  if (asked_ != served_) changed_.notify_all();  // readers enter one after another
}

void ForkLock::leave() noexcept {
  if (asked_ != served_) changed_.notify_all();
}

void ForkLock::lock() {
  std::unique_lock guard(mutex_);
  require_whole();
  if (owner_ == this_thread()) {
    ++depth_;
    return;
  }
  if (find_reader() != nullptr) {
    throw std::logic_error(
        "this thread is reading the object, as in save(), and a signal handler or a callback of it asks for a change, "
        "which would wait for ever; make the change when the reading is done");
  }
  wait_for_turn(guard, [this] { return owner_ == nullptr && readers_.empty(); });
  owner_ = this_thread();
  depth_ = 1;
}

void ForkLock::lock_shared() {
  std::unique_lock guard(mutex_);
  require_whole();
  if (owner_ == this_thread()) {
    ++depth_;
  } else if (Reader* const own = find_reader()) {
    ++own->depth;
  } else {
    readers_.reserve(readers_.size() + asked_ - served_ + 1);  // so that entering cannot fail
    wait_for_turn(guard, [this] { return owner_ == nullptr; });
    readers_.push_back({this_thread(), 1});
  }
}

void ForkLock::unlock() {
  const std::scoped_lock guard(mutex_);
  if (--depth_ > 0) return;
  owner_ = nullptr;
  leave();
}

void ForkLock::unlock_shared() {
  const std::scoped_lock guard(mutex_);
  if (owner_ == this_thread()) {
    if (--depth_ == 0) owner_ = nullptr, leave();
    return;
  }
  Reader* const own = find_reader();
  if (own == nullptr) throw std::logic_error("this thread does not read the object");
  if (--own->depth > 0) return;
  *own = readers_.back();
  readers_.pop_back();
  if (readers_.empty()) leave();
}

void ForkLock::discard() {
  const std::scoped_lock guard(mutex_);
  is_torn_ = false;
}

}  // namespace trajmill
