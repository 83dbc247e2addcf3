// How the rows of a batch are shared out to threads. Internal to the core.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "trajmill/batch_source.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

// Calls fill(begin, end) for runs of consecutive rows that together are all the rows asked for, tasks of about `grain`
// rows at a time on `thread_count` threads. Where whole groups are asked for, runs begin at multiples of `grain`.
template <class Fill>
void for_each_run(const RowGroups& groups, std::size_t grain, std::size_t thread_count, const Fill& fill) {
  const bool is_whole = groups.size() == groups.stride;  // then all groups are one run
  const std::size_t count = is_whole ? groups.count * groups.stride : groups.count;
  const std::size_t together = is_whole ? grain : std::max<std::size_t>(1, grain / groups.size());
  parallel_for(count, together, {thread_count, {}}, [&](std::size_t first, std::size_t last, const std::atomic<bool>&) {
    for (std::size_t at = first; at < last; at += is_whole ? last - first : 1) {
      fill(is_whole ? first : at * groups.stride + groups.begin, is_whole ? last : at * groups.stride + groups.end);
    }
  });
}

}  // namespace trajmill
