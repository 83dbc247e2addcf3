// Markov decision processes with a random policy and random transitions, sampled many trajectories at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "trajmill/alias_table.hpp"
#include "trajmill/markov_chain.hpp"
#include "trajmill/philox.hpp"
#include "trajmill/softmax_row.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

// Where trajectories start: each in a uniformly drawn state, or all where trajectory 0 does.
enum class StartLaw { random, fixed };

// The law of a random MDP: a softmax row over actions for each state, one over states for each (state, action).
struct MDPLaw {
  std::uint32_t state_count;
  std::uint32_t action_count;
  Temperature policy_temperature;
  Temperature transition_temperature;
  StartLaw start;
  std::uint64_t seed;
};

class MDP {
 public:
  // Builds the alias tables of `law`. Throws std::invalid_argument if a number is out of range or the tables do not
  // fit.
  MDP(const MDPLaw& law, std::size_t memory_limit, const RunOptions& options);

  // An explicit MDP: `policy` [S, A] and `transition` [S, A, S], rows that sum to 1 (checked by the caller).
  static MDP from_probabilities(std::span<const double> policy, std::span<const double> transition,
                                std::uint32_t state_count, std::uint32_t action_count, StartLaw start,
                                std::uint64_t seed, std::size_t memory_limit, const RunOptions& options);

  // Fills `states` [N, L + 1] and `actions` [N, L] with trajectories first_trajectory, first_trajectory + 1, ...
  void sample(std::uint64_t first_trajectory, const Rows& states, const Rows& actions, const RunOptions& options) const;

  [[nodiscard]] std::uint32_t state_count() const noexcept { return transition_.column_count(); }
  [[nodiscard]] std::uint32_t action_count() const noexcept { return policy_.column_count(); }

 private:
  MDP(AliasTable policy, AliasTable transition, StartLaw start, std::uint64_t start_key, std::uint64_t action_key,
      std::uint64_t next_state_key);

  AliasTable policy_;
  AliasTable transition_;
  StartLaw start_;
  std::uint64_t start_key_, action_key_, next_state_key_;
};

// The exact laws: of the action in `state`, and of the next state after `action` in `state`.
void policy_probabilities(const MDPLaw& law, std::uint32_t state, std::span<double> probabilities);
void transition_probabilities(const MDPLaw& law, std::uint32_t state, std::uint32_t action,
                              std::span<double> probabilities);

// Fixed Uniform(-1, 1) vectors that stand for states or actions: row i is the same whatever the number of rows, and a
// longer row begins with the shorter one. `vectors` is [row_count, dimension], row-major.
void codebook(Domain domain, std::size_t row_count, std::size_t dimension, std::span<float> vectors);

}  // namespace trajmill
