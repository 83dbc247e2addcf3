#include "trajmill/markov_chain.hpp"

#include <algorithm>
#include <utility>

#include "sampling_limits.hpp"
#include "simd/kernels.hpp"
#include "trajmill/error.hpp"
#include "trajmill/philox.hpp"

namespace trajmill {
namespace {

void require_valid(const ChainLaw& law) {
  if (law.state_count == 0) throw std::invalid_argument("state_count must be >= 1, got 0");
  if (law.order > kLargestOrder) {
    throw std::invalid_argument(message("order must be between 0 and ", kLargestOrder, ", got ", law.order));
  }
}

// First row of the contexts of each length 0 .. order + 1; the last entry is the number of rows. Saturates at
// kCellLimit, which no table reaches.
std::vector<std::uint64_t> context_offsets(std::uint32_t state_count, std::uint32_t order) {
  std::vector<std::uint64_t> offsets{0};
  std::uint64_t count = 1;  // contexts of this length
  for (std::uint32_t length = 0; length <= order; ++length) {
    offsets.push_back(std::min(offsets.back() + count, AliasTable::kCellLimit));
    count = std::min(count * state_count, AliasTable::kCellLimit);
  }
  return offsets;
}

// Fills the row of one context: uniform for the empty context if asked for, else a softmax row.
void fill_row(const ChainLaw& law, std::uint64_t key, std::uint64_t row, std::span<double> probabilities) {
  if (row == 0 && law.initial == InitialLaw::uniform) {
    std::ranges::fill(probabilities, 1.0 / law.state_count);
  } else {
    softmax_row(key, row, law.temperature, probabilities);
  }
}

std::uint64_t logit_key(const ChainLaw& law) { return derive_key(law.seed, Domain::chain_logits); }

// Chains that differ in any parameter draw from different streams.
std::uint64_t token_key(const ChainLaw& law) {
  return derive_key(law.seed, Domain::chain_tokens,
                    {law.state_count, law.order, law.temperature.bits(), static_cast<std::uint64_t>(law.initial)});
}

}  // namespace

void Rows::require_room_for(std::uint64_t count) const {
  if (element_size < 8 && count > std::uint64_t{1} << (8 * element_size)) {
    throw std::invalid_argument(
        message(count, " different values do not fit into integers of ", element_size, " byte(s)"));
  }
}

MarkovChain::MarkovChain(AliasTable table, std::uint32_t order, std::uint64_t key)
    : table_(std::move(table)), order_(order), token_key_(key) {
  for (const std::uint64_t offset : context_offsets(table_.column_count(), order)) {
    context_offsets_.push_back(static_cast<std::uint32_t>(offset));
  }
}

MarkovChain::MarkovChain(const ChainLaw& law, std::size_t memory_limit, const RunOptions& options)
    : MarkovChain(
          [&] {
            require_valid(law);
            const std::uint64_t key = logit_key(law);
            return AliasTable(
                context_offsets(law.state_count, law.order).back(), law.state_count, memory_limit, options,
                [&](std::uint64_t row, std::span<double> probabilities) { fill_row(law, key, row, probabilities); });
          }(),
          law.order, token_key(law)) {}

MarkovChain MarkovChain::from_probabilities(std::span<const double> initial, std::span<const double> transition,
                                            std::uint64_t seed, std::size_t memory_limit, const RunOptions& options) {
  const std::size_t states = initial.size();
  const auto fill = [&](std::uint64_t row, std::span<double> probabilities) {
    std::ranges::copy(row == 0 ? initial : transition.subspan((row - 1) * states, states), probabilities.begin());
  };
  return {AliasTable(states + 1, static_cast<std::uint32_t>(states), memory_limit, options, fill), 1,
          derive_key(seed, Domain::chain_tokens, {states})};
}

void MarkovChain::sample(std::uint64_t first_sequence, const Rows& tokens, const RunOptions& options) const {
  tokens.require_room_for(state_count());
  require_addressable(first_sequence, tokens.row_count, tokens.column_count, "sequence");
  if (tokens.row_count == 0 || tokens.column_count == 0) return;
  std::uint64_t oldest_weight = 1;
  for (std::uint32_t k = 1; k < order_; ++k) oldest_weight *= state_count();
  const simd::ChainArguments arguments{
      .table = {table_.cells(), table_.column_count(), table_.is_narrow()},
      .order = order_,
      .context_offsets = context_offsets_.data(),
      .oldest_weight = static_cast<std::uint32_t>(oldest_weight),
      .token_key = token_key_,
      .first_sequence = first_sequence,
      .length = tokens.column_count,
      .tokens = {tokens.data, tokens.column_count * tokens.element_size, tokens.element_size},
  };
  const auto kernel = simd::kernels().sample_chain;
  parallel_for(tokens.row_count, row_grain(tokens.row_count, tokens.column_count, options.thread_count), options,
               [&](std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled) {
                 kernel(arguments, begin, end, cancelled);
               });
}

void chain_probabilities(const ChainLaw& law, std::span<const std::uint32_t> context, std::span<double> probabilities) {
  require_valid(law);
  if (context.size() > law.order) {
    throw std::invalid_argument(
        message("context must hold at most order = ", law.order, " states, got ", context.size()));
  }
  std::uint64_t number = 0;
  for (const std::uint32_t state : context) {
    if (state >= law.state_count) {
      throw std::invalid_argument(
          message("context states must be below state_count = ", law.state_count, ", got ", state));
    }
    number = number * law.state_count + state;
  }
  const std::uint64_t row = context_offsets(law.state_count, law.order)[context.size()] + number;
  fill_row(law, logit_key(law), row, probabilities);
}

}  // namespace trajmill
