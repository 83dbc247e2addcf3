#include "trajmill/mdp.hpp"

#include <algorithm>
#include <utility>

#include "chain_common.hpp"
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

}  // namespace

MDP::MDP(std::variant<Dense, Implicit> rows, StartLaw start, const Keys& keys)
    : rows_(std::move(rows)), start_(start), keys_(keys) {}

MDP::MDP(const MDPLaw& law, Backend backend, std::size_t memory_limit, const RunOptions& options)
    : MDP(make_rows(law, backend, memory_limit, options), law.start,
          {.starts = draw_key(law, Domain::mdp_start_states),
           .actions = draw_key(law, Domain::mdp_actions),
           .next_states = draw_key(law, Domain::mdp_next_states),
           .proposals = draw_key(law, Domain::mdp_proposals)}) {}

std::variant<MDP::Dense, MDP::Implicit> MDP::make_rows(const MDPLaw& law, Backend backend, std::size_t memory_limit,
                                                       const RunOptions& options) {
  require_valid(law);
  const std::uint64_t pair_count = std::uint64_t{law.state_count} * law.action_count;
  const std::uint64_t policy = policy_key(law), transition = transition_key(law);
  const double bytes = AliasTable::bytes_for(pair_count, law.state_count);
  const double acceptance =
      std::min(mean_acceptance(law.policy_temperature), mean_acceptance(law.transition_temperature));
  if (trajmill::is_dense(backend, bytes, acceptance)) {
    const auto softmax = [](std::uint64_t key, Temperature temperature) {
      return [=](std::uint64_t row, std::span<double> out) { softmax_row(key, row, temperature, out); };
    };
    return Dense{
        AliasTable(law.state_count, law.action_count, memory_limit, options, softmax(policy, law.policy_temperature)),
        AliasTable(pair_count, law.state_count, memory_limit, options,
                   softmax(transition, law.transition_temperature))};
  }
  Implicit rows{ImplicitRows(policy, law.action_count, law.policy_temperature),
                ImplicitRows(transition, law.state_count, law.transition_temperature),
                {}};
  for (const ImplicitRows* part : {&rows.policy, &rows.transition}) {
    rows.decisions.insert(rows.decisions.end(), part->decisions().begin(), part->decisions().end());
  }
  return rows;
}

MDP MDP::from_probabilities(std::span<const double> policy, std::span<const double> transition,
                            std::uint32_t state_count, std::uint32_t action_count, StartLaw start, std::uint64_t seed,
                            std::size_t memory_limit, const RunOptions& options) {
  const auto copy_row = [](std::span<const double> rows) {
    return [rows](std::uint64_t row, std::span<double> out) {
      std::ranges::copy(rows.subspan(row * out.size(), out.size()), out.begin());
    };
  };
  const auto key = [&](Domain domain) { return derive_key(seed, domain, {state_count, action_count}); };
  return {Dense{AliasTable(state_count, action_count, memory_limit, options, copy_row(policy)),
                AliasTable(std::uint64_t{state_count} * action_count, state_count, memory_limit, options,
                           copy_row(transition))},
          start,
          {.starts = key(Domain::mdp_start_states),
           .actions = key(Domain::mdp_actions),
           .next_states = key(Domain::mdp_next_states),
           .proposals = 0}};
}

std::uint32_t MDP::state_count() const noexcept {
  return std::visit([](const auto& rows) { return rows.transition.column_count(); }, rows_);
}

std::uint32_t MDP::action_count() const noexcept {
  return std::visit([](const auto& rows) { return rows.policy.column_count(); }, rows_);
}

void MDP::sample(const Sequences& trajectories, const Rows& states, const Rows& actions,
                 const RunOptions& options) const {
  if (states.row_count != actions.row_count || states.column_count != actions.column_count + 1) {
    throw std::invalid_argument(message("states must be [N, L + 1] where actions are [N, L], got [", states.row_count,
                                        ", ", states.column_count, "] and [", actions.row_count, ", ",
                                        actions.column_count, "]"));
  }
  states.require_room_for(state_count());
  actions.require_room_for(action_count());
  require_addressable(trajectories, actions.row_count, actions.column_count, "trajectory");
  if (const Dense* dense = std::get_if<Dense>(&rows_)) {
    const simd::MDPArguments arguments{
        .policy = simd::view(dense->policy),
        .transition = simd::view(dense->transition),
        .start_key = keys_.starts,
        .action_key = keys_.actions,
        .next_state_key = keys_.next_states,
        .fixed_start = start_ == StartLaw::fixed,
        .trajectories = trajectories,
        .length = actions.column_count,
        .states = simd::view(states),
        .actions = simd::view(actions),
    };
    return sample_rows(simd::kernels().sample_mdp, arguments, actions.row_count, actions.column_count, options);
  }
  const Implicit& implicit = std::get<Implicit>(rows_);
  const simd::ImplicitMDPArguments arguments{
      .policy = simd::view(implicit.policy),
      .transition = simd::view(implicit.transition),
      .decisions = implicit.decisions.data(),
      .start_key = keys_.starts,
      .proposal_key = keys_.proposals,
      .fixed_start = start_ == StartLaw::fixed,
      .trajectories = trajectories,
      .length = actions.column_count,
      .states = simd::view(states),
      .actions = simd::view(actions),
  };
  sample_rows(simd::kernels().sample_implicit_mdp, arguments, actions.row_count, actions.column_count, options);
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
  require(dimension >= 1, "dimension must be at least 1, got 0");
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
