// Batches drawn ahead of their use: a thread fills the slots of a ring while the caller works with earlier ones.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "trajmill/batch_source.hpp"

namespace trajmill {

class BatchFeed {
 public:
  // Where the columns of one batch go; the caller owns the memory and keeps it until the feed is destroyed.
  using Slot = std::vector<std::byte*>;

  // Fills slots[0], slots[1], ... and round again with `batch_size` rows each, on `thread_count` threads a batch. The
  // source outlives the feed. Throws std::invalid_argument without slots or threads, or with a slot that lacks columns.
  BatchFeed(BatchSource& source, std::size_t batch_size, std::vector<Slot> slots, std::size_t thread_count);
  BatchFeed(const BatchFeed&) = delete;
  BatchFeed& operator=(const BatchFeed&) = delete;
  ~BatchFeed();  // stop(0), if it was not stopped; whether the source went back is not told

  // Ends the drawing, after the batch under way, and makes the draw after the last batch handed out the source's next
  // one, or that of the `unused` <= 2 batches before it. Throws what the source throws when it cannot go back. Nothing
  // but destruction may follow.
  void stop(std::size_t unused);

  // Is the next batch drawn, so that next() does not wait?
  [[nodiscard]] bool ready() const;

  // The slot of the next batch, in the order of the draws, once it is filled. `interrupted` is asked every 50 ms; true
  // throws Interrupted. What the source threw is thrown here, once, after the batches drawn before. Throws
  // std::logic_error when every slot is in use: the wait would have no end.
  [[nodiscard]] std::size_t next(const std::function<bool()>& interrupted);

  // Gives the oldest slot in use back to be filled again; throws std::logic_error when none is in use.
  void release();

 private:
  void fill();

  static constexpr std::size_t kUnused = 2;  // batches handed out that a caller may say were not used

  BatchSource& source_;
  const std::size_t batch_size_;
  const std::vector<Slot> slots_;
  const std::size_t thread_count_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t filled_ = 0;                           // batches drawn so far
  std::uint64_t taken_ = 0;                            // of these handed out
  std::uint64_t released_ = 0;                         // of these given back
  std::vector<std::vector<std::uint64_t>> positions_;  // of the source before the last batches, by number, a ring
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace trajmill
