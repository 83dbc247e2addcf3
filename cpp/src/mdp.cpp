#include "trajmill/mdp.hpp"

#include <algorithm>
#include <utility>

#include "sampling_limits.hpp"
#include "simd/kernels.hpp"
#include "trajmill/error.hpp"

namespace trajmill {
namespace {

void require_valid(const MDPLaw& law) {
  if (law.state_count == 0) throw std::invalid_argument("state_count must be >= 1, got 0");
  if (law.action_count == 0) throw std::invalid_argument("action_count must be >= 1, got 0");
}

void require_below(std::uint32_t value, std::uint32_t count, const char* what) {
  if (value >= count) throw std::invalid_argument(message(what, " must be below ", count, ", got ", value));
}

std::uint64_t policy_key(const MDPLaw& law) { return derive_key(law.seed, Domain::mdp_policy_logits); }
std::uint64_t transition_key(const MDPLaw& law) { return derive_key(law.seed, Domain::mdp_transition_logits); }

// MDPs that differ in any parameter draw from different streams.
std::uint64_t draw_key(const MDPLaw& law, Domain domain) {
  return derive_key(
      law.seed, domain,
      {law.state_count, law.action_count, law.policy_temperature.bits(), law.transition_temperature.bits()});
}

AliasTable policy_table(const MDPLaw& law, std::size_t memory_limit, const RunOptions& options) {
  require_valid(law);
  const std::uint64_t key = policy_key(law);
  return {law.state_count, law.action_count, memory_limit, options,
          [&](std::uint64_t row, std::span<double> out) { softmax_row(key, row, law.policy_temperature, out); }};
}

AliasTable transition_table(const MDPLaw& law, std::size_t memory_limit, const RunOptions& options) {
  const std::uint64_t key = transition_key(law);
  return {std::uint64_t{law.state_count} * law.action_count, law.state_count, memory_limit, options,
          [&](std::uint64_t row, std::span<double> out) { softmax_row(key, row, law.transition_temperature, out); }};
}

simd::TableView view(const AliasTable& table) { return {table.cells(), table.column_count(), table.is_narrow()}; }

simd::RowsView view(const Rows& rows) { return {rows.data, rows.column_count * rows.element_size, rows.element_size}; }

}  // namespace

MDP::MDP(AliasTable policy, AliasTable transition, StartLaw start, std::uint64_t start_key, std::uint64_t action_key,
         std::uint64_t next_state_key)
    : policy_(std::move(policy)),
      transition_(std::move(transition)),
      start_(start),
      start_key_(start_key),
      action_key_(action_key),
      next_state_key_(next_state_key) {}

MDP::MDP(const MDPLaw& law, std::size_t memory_limit, const RunOptions& options)
    : MDP(policy_table(law, memory_limit, options), transition_table(law, memory_limit, options), law.start,
          draw_key(law, Domain::mdp_start_states), draw_key(law, Domain::mdp_actions),
          draw_key(law, Domain::mdp_next_states)) {}

MDP MDP::from_probabilities(std::span<const double> policy, std::span<const double> transition,
                            std::uint32_t state_count, std::uint32_t action_count, StartLaw start, std::uint64_t seed,
                            std::size_t memory_limit, const RunOptions& options) {
  const auto copy_row = [](std::span<const double> rows) {
    return [rows](std::uint64_t row, std::span<double> out) {
      std::ranges::copy(rows.subspan(row * out.size(), out.size()), out.begin());
    };
  };
  const auto key = [&](Domain domain) { return derive_key(seed, domain, {state_count, action_count}); };
  return {
      AliasTable(state_count, action_count, memory_limit, options, copy_row(policy)),
      AliasTable(std::uint64_t{state_count} * action_count, state_count, memory_limit, options, copy_row(transition)),
      start,
      key(Domain::mdp_start_states),
      key(Domain::mdp_actions),
      key(Domain::mdp_next_states)};
}

void MDP::sample(std::uint64_t first_trajectory, const Rows& states, const Rows& actions,
                 const RunOptions& options) const {
  if (states.row_count != actions.row_count || states.column_count != actions.column_count + 1) {
    throw std::invalid_argument(message("states must be [N, L + 1] where actions are [N, L], got [", states.row_count,
                                        ", ", states.column_count, "] and [", actions.row_count, ", ",
                                        actions.column_count, "]"));
  }
  states.require_room_for(state_count());
  actions.require_room_for(action_count());
  require_addressable(first_trajectory, actions.row_count, actions.column_count, "trajectory");
  if (actions.row_count == 0) return;
  const simd::MDPArguments arguments{
      .policy = view(policy_),
      .transition = view(transition_),
      .start_key = start_key_,
      .action_key = action_key_,
      .next_state_key = next_state_key_,
      .fixed_start = start_ == StartLaw::fixed,
      .first_trajectory = first_trajectory,
      .length = actions.column_count,
      .states = view(states),
      .actions = view(actions),
  };
  const auto kernel = simd::kernels().sample_mdp;
  parallel_for(actions.row_count, row_grain(actions.row_count, actions.column_count, options.thread_count), options,
               [&](std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled) {
                 kernel(arguments, begin, end, cancelled);
               });
}

void policy_probabilities(const MDPLaw& law, std::uint32_t state, std::span<double> probabilities) {
  require_valid(law);
  require_below(state, law.state_count, "state");
  softmax_row(policy_key(law), state, law.policy_temperature, probabilities);
}

void transition_probabilities(const MDPLaw& law, std::uint32_t state, std::uint32_t action,
                              std::span<double> probabilities) {
  require_valid(law);
  require_below(state, law.state_count, "state");
  require_below(action, law.action_count, "action");
  const std::uint64_t row = std::uint64_t{state} * law.action_count + action;
  softmax_row(transition_key(law), row, law.transition_temperature, probabilities);
}

void codebook(Domain domain, std::size_t row_count, std::size_t dimension, std::span<float> vectors) {
  const std::uint64_t key = derive_key(0, domain);
  for (std::size_t row = 0; row < row_count; ++row) {
    for (std::size_t j = 0; j < dimension; ++j) {
      const PhiloxBlock block = row_block(key, row, static_cast<std::uint32_t>(j / 4));
      const double uniform = (static_cast<double>(block[j % 4] >> 8) + 0.5) * 0x1p-24;  // exact, as is what follows
      vectors[row * dimension + j] = static_cast<float>(2.0 * uniform - 1.0);
    }
  }
}

}  // namespace trajmill
