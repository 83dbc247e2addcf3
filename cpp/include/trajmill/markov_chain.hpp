// Markov chains of any order over discrete states, sampled many sequences at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "trajmill/alias_table.hpp"
#include "trajmill/softmax_row.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

// Where samples go: rows of unsigned integers, one row a sequence, without gaps. The caller owns the memory.
struct Rows {
  std::byte* data;
  std::size_t row_count;
  std::size_t column_count;
  std::size_t element_size;  // bytes: 1, 2, 4 or 8

  // Throws std::invalid_argument unless elements can hold every number below `count`.
  void require_room_for(std::uint64_t count) const;
};

// How the first state of a sequence is drawn: from the softmax row of the empty context, or uniformly.
enum class InitialLaw { softmax, uniform };

// The law of a random chain: every context (the last min(t, order) states) has a softmax row of its own.
struct ChainLaw {
  std::uint32_t state_count;
  std::uint32_t order;  // 0 makes tokens independent
  Temperature temperature;
  InitialLaw initial;
  std::uint64_t seed;
};

inline constexpr std::uint32_t kLargestOrder = 32;

class MarkovChain {
 public:
  // Builds the alias tables of `law`. Throws std::invalid_argument if a number is out of range or the tables do not
  // fit.
  MarkovChain(const ChainLaw& law, std::size_t memory_limit, const RunOptions& options);

  // An explicit order-1 chain: `initial` [S] and `transition` [S, S], rows that sum to 1 (checked by the caller).
  static MarkovChain from_probabilities(std::span<const double> initial, std::span<const double> transition,
                                        std::uint64_t seed, std::size_t memory_limit, const RunOptions& options);

  // Fills `tokens` with sequences first_sequence, first_sequence + 1, ... Token t of sequence i depends on the law, i
  // and t alone. Throws std::invalid_argument for rows that cannot hold the tokens, Interrupted when asked to stop.
  void sample(std::uint64_t first_sequence, const Rows& tokens, const RunOptions& options) const;

  [[nodiscard]] std::uint32_t state_count() const noexcept { return table_.column_count(); }
  [[nodiscard]] std::uint32_t order() const noexcept { return order_; }
  [[nodiscard]] const AliasTable& table() const noexcept { return table_; }

 private:
  MarkovChain(AliasTable table, std::uint32_t order, std::uint64_t token_key);

  AliasTable table_;
  std::uint32_t order_;
  std::uint64_t token_key_;
  std::vector<std::uint32_t> context_offsets_;
};

// The exact law of what follows `context` (oldest state first, at most `order` states).
void chain_probabilities(const ChainLaw& law, std::span<const std::uint32_t> context, std::span<double> probabilities);

}  // namespace trajmill
