#include "trajmill/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "trajmill/error.hpp"

namespace trajmill {
namespace {

// One thread's share of a job: `work`, then `done` once the thread counts as free again.
struct Ticket {
  std::function<void()> work;
  std::function<void()> done;
};

// A queue of tickets and the threads that serve it. Never destroyed: workers may still wait on it when the process
// ends.
class Pool {
 public:
  // Runs `count` copies of `ticket`, each on a thread of its own, without waiting for the end; fewer where the system
  // gives no more threads. Returns how many.
  std::size_t submit(const Ticket& ticket, std::size_t count) {
    const std::scoped_lock lock(mutex_);
    const std::size_t waiting = tickets_.size();
    try {
      for (; free_count_ < waiting + count; ++free_count_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      count = std::max(free_count_, waiting) - waiting;
    }
    tickets_.insert(tickets_.end(), count, ticket);
    wake_.notify_all();
    return count;
  }

  static Pool& instance() {
    static const bool registered = (pthread_atfork(nullptr, nullptr, [] { current_.store(nullptr); }), true);
    static_cast<void>(registered);
    Pool* pool = current_.load();
    if (pool == nullptr) {
      auto fresh = std::make_unique<Pool>();
      if (current_.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
    }
    return *pool;
  }

 private:
  void serve() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return !tickets_.empty(); });
      --free_count_;
      const Ticket ticket = std::move(tickets_.front());
      tickets_.pop_front();
      lock.unlock();
      ticket.work();
      lock.lock();
      ++free_count_;
      lock.unlock();
      ticket.done();
    }
  }

  static inline std::atomic<Pool*> current_ = nullptr;  // null in a forked child: its parent's threads are not there

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Ticket> tickets_;
  std::size_t free_count_ = 0;  // threads that wait for a ticket, or will as soon as they run
};

// One call of parallel_for, shared by its threads.
struct Job {
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> cancelled = false;
  std::mutex mutex;
  std::condition_variable finished;
  std::size_t running = 0;
  std::exception_ptr error;
};

constexpr auto kPollInterval = std::chrono::milliseconds(50);

using Task = std::function<void(std::size_t, std::size_t, const std::atomic<bool>&)>;

// As parallel_for, in the caller's own thread: the system gives no other.
void work_alone(std::size_t count, std::size_t grain, const RunOptions& options, const Task& task) {
  const std::atomic<bool> cancelled = false;
  auto asked = std::chrono::steady_clock::now();
  for (std::size_t begin = 0; begin < count; begin += std::min(grain, count - begin)) {
    task(begin, begin + std::min(grain, count - begin), cancelled);
    if (!options.interrupted || std::chrono::steady_clock::now() - asked < kPollInterval) continue;
    if (options.interrupted()) throw Interrupted();
    asked = std::chrono::steady_clock::now();
  }
}

}  // namespace

void parallel_for(std::size_t count, std::size_t grain, const RunOptions& options, const Task& task) {
  if (count == 0) return;
  Job job;
  const auto work = [&] {
    for (std::size_t begin; !job.cancelled && (begin = job.next.fetch_add(grain)) < count;) {
      task(begin, std::min(begin + grain, count), job.cancelled);
    }
  };
  const std::size_t range_count = (count - 1) / grain + 1;
  const std::size_t thread_count = std::min(options.thread_count, range_count);
  if (thread_count <= 1 && !options.interrupted) return work();

  job.running = thread_count;  // until it is known how many threads there are
  const auto guarded_work = [&] {
    try {
      work();
    } catch (...) {
      const std::scoped_lock lock(job.mutex);
      if (!job.error) job.error = std::current_exception();
      job.cancelled = true;
    }
  };
  const auto done = [&] {
    const std::scoped_lock lock(job.mutex);  // held while notifying: the caller destroys `job` right after
    if (--job.running == 0) job.finished.notify_one();
  };
  const std::size_t started = Pool::instance().submit({guarded_work, done}, thread_count);
  if (started == 0) return work_alone(count, grain, options, task);

  bool interrupted = false;
  std::unique_lock lock(job.mutex);
  job.running -= thread_count - started;
  while (!job.finished.wait_for(lock, kPollInterval, [&] { return job.running == 0; })) {
    if (interrupted || !options.interrupted) continue;
    lock.unlock();
    if (options.interrupted()) interrupted = job.cancelled = true;
    lock.lock();
  }
  if (job.error) std::rethrow_exception(job.error);
  if (interrupted) throw Interrupted();
}

}  // namespace trajmill
