// Markov chains of any order over discrete states, sampled many sequences at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

#include "trajmill/alias_table.hpp"
#include "trajmill/implicit_rows.hpp"
#include "trajmill/rows.hpp"
#include "trajmill/softmax_row.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

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
  // Throws std::invalid_argument if a number is out of range or tables do not fit.
  MarkovChain(const ChainLaw& law, Backend backend, std::size_t memory_limit, const RunOptions& options);

  // An explicit order-1 chain: `initial` [S] and `transition` [S, S], rows that sum to 1 (checked by the caller).
  static MarkovChain from_probabilities(std::span<const double> initial, std::span<const double> transition,
                                        std::uint64_t seed, std::size_t memory_limit, const RunOptions& options);

  // Fills `tokens`. Token t of sequence i depends on the law, the backend, i and t alone. Throws std::invalid_argument
  // for rows that cannot hold the tokens, Interrupted when asked to stop.
  void sample(const Sequences& sequences, const Rows& tokens, const RunOptions& options) const;

  [[nodiscard]] std::uint32_t state_count() const noexcept;
  [[nodiscard]] const AliasTable* table() const noexcept { return std::get_if<AliasTable>(&rows_); }  // null: implicit

 private:
  struct Keys {
    std::uint64_t tokens, starts, proposals;
  };
  MarkovChain(std::variant<AliasTable, ImplicitRows> rows, std::uint32_t order, InitialLaw initial, const Keys& keys);

  std::variant<AliasTable, ImplicitRows> rows_;
  std::uint32_t order_;
  InitialLaw initial_;
  Keys keys_;  // of the draws
};

// The exact law of what follows `context` (oldest state first, at most `order` states).
void chain_probabilities(const ChainLaw& law, std::span<const std::uint32_t> context, std::span<double> probabilities);

}  // namespace trajmill
