// Worker threads that outlive a call and survive fork().
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>

namespace trajmill {

// How a long call runs. `interrupted` is asked by the calling thread every 50 ms or so; true stops the work.
struct RunOptions {
  std::size_t thread_count = 1;
  std::function<bool()> interrupted = {};
};

// Calls task(begin, end, cancelled) over disjoint ranges that cover [0, count), each at most `grain` long and starting
// at a multiple of it, on options.thread_count threads, or fewer where the system gives no more. `cancelled` turns true
// when the call should end early. The first exception of a task is rethrown; an interrupt throws Interrupted. With no
// interrupt check and one thread the caller itself does the work.
void parallel_for(std::size_t count, std::size_t grain, const RunOptions& options,
                  const std::function<void(std::size_t, std::size_t, const std::atomic<bool>&)>& task);

}  // namespace trajmill
