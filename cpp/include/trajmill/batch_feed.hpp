// Batches drawn ahead of their use: a thread fills the slots of a ring while the caller works with earlier ones.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "trajmill/batch_source.hpp"

namespace trajmill {

class BatchFeed {
 public:
  // Where the columns of one batch go; the caller owns the memory.
  using Slot = std::vector<std::byte*>;

  // Fills slots[0], slots[1], ... and round again with `batch_size` rows each, on `thread_count` threads a batch. The
  // source and the slots' memory outlive the feed, or `kept` keeps them: it is dropped after the last use of them, on
  // any thread. Throws std::invalid_argument without slots or threads, or with a slot that lacks columns, and
  // std::runtime_error if the system gives no thread.
  BatchFeed(BatchSource& source, std::size_t batch_size, std::vector<Slot> slots, std::size_t thread_count,
            std::shared_ptr<void> kept = {});
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;

  // stop(0), if it was not stopped; whether the source went back is not told. In the source's own call, or in a forked
  // child, there is nothing to wait for.
  ~BatchFeed();

  // In a forked child, which does not have the thread, and in calls of the source, which would wait for themselves, all
  // of these throw std::logic_error; but stop() does nothing in a child.

  // Ends the drawing, after the batch under way, and makes the draw after the last batch handed out the source's next
  // one, or that of the `unused` <= 2 batches before it. Throws what the source throws when it cannot go back. A second
  // call does nothing.
  void stop(std::size_t unused);

  // Is the next batch drawn, so that next() does not wait?
  [[nodiscard]] bool ready() const;

  // The slot of the next batch, in the order of the draws, once it is filled. `interrupted` is asked every 50 ms; true
  // throws Interrupted. What the source threw is thrown here, once, after the batches drawn before. Throws
  // std::logic_error when every slot is in use, for the wait would have no end, and when the feed is stopped.
  [[nodiscard]] std::size_t next(const std::function<bool()>& interrupted);

  // Gives the oldest slot in use back to be filled again; throws std::logic_error when none is in use.
  void release();

 private:
  class Ring;  // shared with the thread, so that either may end first

  [[nodiscard]] Ring& usable() const;

  std::shared_ptr<Ring> ring_;
};

}  // namespace trajmill
