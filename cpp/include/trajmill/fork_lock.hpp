// A lock that survives fork(): a child can go on with what nobody was changing, and is told of what somebody was.
//
// It is taken alone or shared, in the order of asking, so that neither side starves. A thread that has it may take it
// again in the same way, or shared if it has it alone, as a signal handler or a callback does; what would wait for
// itself is an error instead.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace trajmill {

// How often the process was forked on the way to this one. What was made at another count belongs to a parent.
[[nodiscard]] std::uint64_t fork_count() noexcept;

class ForkLock {
 public:
  ForkLock();
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;
  ~ForkLock();

  // Both throw std::runtime_error if another thread had it alone when the process was forked: what it was changing is
  // not whole. lock() throws std::logic_error if this thread has it shared.
  void lock();
  void lock_shared();
  void unlock();
  void unlock_shared();  // throws std::logic_error if this thread does not have it

  // What was being changed when the process was forked will not be used: it can be taken again.
  void discard();

  // Internal to fork_lock.cpp: what happens to all locks around a fork.
  class Registry;

 private:
  struct Reader {
    const void* thread;
    std::size_t depth;
  };

  [[nodiscard]] Reader* find_reader() noexcept;
  void require_whole() const;
  template <class Free>
  void wait_for_turn(std::unique_lock<std::mutex>& guard, const Free& is_free);
  void leave() noexcept;
  void reset_in_child() noexcept;

  std::mutex mutex_;  // over all below, never while waiting for anything else
  std::condition_variable changed_;
  std::vector<Reader> readers_;
  const void* owner_ = nullptr;  // the thread that has it alone, `depth_` times
  std::size_t depth_ = 0;
  std::uint64_t asked_ = 0, served_ = 0;  // how many asked for it and had to be free of others, and how many got it
  bool is_torn_ = false;
};

}  // namespace trajmill
