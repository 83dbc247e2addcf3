#include "trajmill/markov_chain.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "chain_common.hpp"
#include "simd/kernels.hpp"
#include "trajmill/error.hpp"
#include "trajmill/philox.hpp"

namespace trajmill {
namespace {

constexpr std::uint64_t kManyContexts = ~std::uint64_t{0};

void require_valid(const ChainLaw& law) {
  if (law.state_count == 0) throw std::invalid_argument("state_count must be >= 1, got 0");
  if (law.order > kLargestOrder) {
    throw std::invalid_argument(message("order must be between 0 and ", kLargestOrder, ", got ", law.order));
  }
}

// The number of contexts of at most `order` states; saturates.
std::uint64_t context_count(std::uint32_t state_count, std::uint32_t order) {
  std::uint64_t count = 1;
  for (std::uint32_t k = 0; k < order; ++k) {
    if (count > (kManyContexts - 1) / state_count) return kManyContexts;
    count = count * state_count + 1;
  }
  return count;
}

// The base in which contexts are numbered (kernels.hpp). Where numbers would exceed 64 bits, an odd multiplier makes
// them a hash instead: two contexts then share a row with a probability of about 2^-64.
std::uint64_t context_radix(std::uint32_t state_count, std::uint32_t order) {
  constexpr std::uint64_t kHashMultiplier = 0x9E3779B97F4A7C15;
  return context_count(state_count, order) < kManyContexts ? state_count : kHashMultiplier;
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
std::uint64_t draw_key(const ChainLaw& law, Domain domain) {
  return derive_key(law.seed, domain,
                    {law.state_count, law.order, law.temperature.bits(), static_cast<std::uint64_t>(law.initial)});
}

AliasTable dense_rows(const ChainLaw& law, std::size_t memory_limit, const RunOptions& options) {
  const std::uint64_t key = logit_key(law);
  return {context_count(law.state_count, law.order), law.state_count, memory_limit, options,
          [&](std::uint64_t row, std::span<double> probabilities) { fill_row(law, key, row, probabilities); }};
}

ImplicitRows implicit_rows(const ChainLaw& law) {
  const bool only_row_is_uniform = law.order == 0 && law.initial == InitialLaw::uniform;
  const Temperature uniform(std::numeric_limits<double>::infinity());
  return {logit_key(law), law.state_count, only_row_is_uniform ? uniform : law.temperature};
}

std::variant<AliasTable, ImplicitRows> make_rows(const ChainLaw& law, Backend backend, std::size_t memory_limit,
                                                 const RunOptions& options) {
  require_valid(law);
  const double bytes = AliasTable::bytes_for(context_count(law.state_count, law.order), law.state_count);
  if (is_dense(backend, bytes, mean_acceptance(law.temperature))) return dense_rows(law, memory_limit, options);
  return implicit_rows(law);
}

}  // namespace

MarkovChain::MarkovChain(std::variant<AliasTable, ImplicitRows> rows, std::uint32_t order, InitialLaw initial,
                         const Keys& keys)
    : rows_(std::move(rows)), order_(order), initial_(initial), keys_(keys) {}

MarkovChain::MarkovChain(const ChainLaw& law, Backend backend, std::size_t memory_limit, const RunOptions& options)
    : MarkovChain(make_rows(law, backend, memory_limit, options), law.order, law.initial,
                  {.tokens = draw_key(law, Domain::chain_tokens),
                   .starts = draw_key(law, Domain::chain_start_states),
                   .proposals = draw_key(law, Domain::chain_proposals)}) {}

MarkovChain MarkovChain::from_probabilities(std::span<const double> initial, std::span<const double> transition,
                                            std::uint64_t seed, std::size_t memory_limit, const RunOptions& options) {
  const std::size_t states = initial.size();
  const auto fill = [&](std::uint64_t row, std::span<double> probabilities) {
    std::ranges::copy(row == 0 ? initial : transition.subspan((row - 1) * states, states), probabilities.begin());
  };
  return {AliasTable(states + 1, static_cast<std::uint32_t>(states), memory_limit, options, fill),
          1,
          InitialLaw::softmax,
          {.tokens = derive_key(seed, Domain::chain_tokens, {states}), .starts = 0, .proposals = 0}};
}

std::uint32_t MarkovChain::state_count() const noexcept {
  return std::visit([](const auto& rows) { return rows.column_count(); }, rows_);
}

void MarkovChain::sample(const Sequences& sequences, const Rows& tokens, const RunOptions& options) const {
  tokens.require_room_for(state_count());
  require_addressable(sequences, tokens.row_count, tokens.column_count, "sequence");
  const std::uint64_t radix = context_radix(state_count(), order_);
  std::uint64_t oldest_weight = 1;
  for (std::uint32_t k = 0; k < order_; ++k) oldest_weight *= radix;
  if (const AliasTable* table = this->table()) {
    const simd::ChainArguments arguments{
        .table = simd::view(*table),
        .order = order_,
        .oldest_weight = static_cast<std::uint32_t>(oldest_weight),
        .token_key = keys_.tokens,
        .sequences = sequences,
        .length = tokens.column_count,
        .tokens = simd::view(tokens),
    };
    return sample_rows(simd::kernels().sample_chain, arguments, tokens.row_count, tokens.column_count, options);
  }
  const simd::ImplicitChainArguments arguments{
      .rows = simd::view(std::get<ImplicitRows>(rows_)),
      .order = order_,
      .radix = radix,
      .oldest_weight = oldest_weight,
      .uniform_initial = initial_ == InitialLaw::uniform,
      .start_key = keys_.starts,
      .proposal_key = keys_.proposals,
      .sequences = sequences,
      .length = tokens.column_count,
      .tokens = simd::view(tokens),
  };
  sample_rows(simd::kernels().sample_implicit_chain, arguments, tokens.row_count, tokens.column_count, options);
}

void chain_probabilities(const ChainLaw& law, std::span<const std::uint32_t> context, std::span<double> probabilities) {
  require_valid(law);
  if (context.size() > law.order) {
    throw std::invalid_argument(
        message("context must hold at most order = ", law.order, " states, got ", context.size()));
  }
  const std::uint64_t radix = context_radix(law.state_count, law.order);
  std::uint64_t row = 0;
  for (const std::uint32_t state : context) {
    if (state >= law.state_count) {
      throw std::invalid_argument(
          message("context states must be below state_count = ", law.state_count, ", got ", state));
    }
    row = row * radix + state + 1;
  }
  fill_row(law, logit_key(law), row, probabilities);
}

}  // namespace trajmill
