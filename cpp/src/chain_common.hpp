// What chains and MDPs share: limits, the automatic backend, what kernels are handed and how rows are shared out.
// Internal to the core.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "simd/kernels.hpp"
#include "trajmill/alias_table.hpp"
#include "trajmill/error.hpp"
#include "trajmill/implicit_rows.hpp"
#include "trajmill/rows.hpp"
#include "trajmill/softmax_row.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

// Words of one sequence are numbered by a 32-bit block of four; wide tables spend two words a step.
inline constexpr std::uint64_t kLongestSequence = std::uint64_t{1} << 32;

inline void require_addressable(const Sequences& sequences, std::uint64_t count, std::uint64_t length,
                                const char* what) {
  if (length > kLongestSequence) {
    throw std::invalid_argument(message("length must be at most 2^32, got ", length));
  }
  if (sequences.listed == nullptr && sequences.first + count < sequences.first) {
    throw std::invalid_argument(message(what, " numbers must stay below 2^64, got ", count, " from ", sequences.first));
  }
}

// The share of proposals that a row of many columns accepts.
inline double mean_acceptance(Temperature temperature) {
  const double t = temperature.value();
  return t < 1e6 ? t * (1.0 - portable_exp(-1.0 / t)) : 1.0;
}

// Whether a law whose tables would take `bytes` gets them. Measured on a Zen 4 core (benchmarks/bench_sampler.py):
// tables win while they stay in its caches; past them a look-up costs as much as some five proposals.
inline bool is_dense(Backend backend, double bytes, double acceptance) {
  constexpr double kMiB = 1024.0 * 1024.0, kCached = 8 * kMiB, kLargest = 1024 * kMiB, kColdAcceptance = 0.2;
  if (backend != Backend::automatic) return backend == Backend::dense;
  return bytes <= (acceptance < kColdAcceptance ? kLargest : kCached);
}

// Rows per task: whole groups of the kernels, about a million values, or an even share where rows are few.
inline std::size_t row_grain(std::size_t row_count, std::size_t length, std::size_t thread_count) {
  constexpr std::size_t kValuesPerTask = std::size_t{1} << 20;
  if (row_count < 2 * thread_count * simd::kRowGrain) {
    return std::max<std::size_t>(1, (row_count + thread_count - 1) / std::max<std::size_t>(1, thread_count));
  }
  return simd::kRowGrain * std::max<std::size_t>(1, kValuesPerTask / (simd::kRowGrain * (length + 1)));
}

// Runs a kernel over all rows, on options.thread_count threads.
template <class Arguments>
void sample_rows(simd::Sample<Arguments> kernel, const Arguments& arguments, std::size_t row_count, std::size_t length,
                 const RunOptions& options) {
  parallel_for(row_count, row_grain(row_count, length, options.thread_count), options,
               [&](std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled) {
                 kernel(arguments, begin, end, cancelled);
               });
}

namespace simd {

inline TableView view(const AliasTable& table) { return {table.cells(), table.column_count(), table.is_narrow()}; }

inline ImplicitView view(const ImplicitRows& rows) {
  return {&rows,
          rows.logit_key(),
          rows.column_count(),
          rows.certain_limit(),
          rows.refusal_limit(),
          rows.decisions().data()};
}

inline RowsView view(const Rows& rows) { return {rows.data, rows.column_count * rows.element_size, rows.element_size}; }

}  // namespace simd
}  // namespace trajmill
