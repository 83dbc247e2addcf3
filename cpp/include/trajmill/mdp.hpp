// Markov decision processes with a random policy and random transitions, sampled many trajectories at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "trajmill/alias_table.hpp"
#include "trajmill/implicit_rows.hpp"
#include "trajmill/philox.hpp"
#include "trajmill/rows.hpp"
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
  // Throws std::invalid_argument if a number is out of range or tables do not fit.
  MDP(const MDPLaw& law, Backend backend, std::size_t memory_limit, const RunOptions& options);

  // An explicit MDP: `policy` [S, A] and `transition` [S, A, S], rows that sum to 1 (checked by the caller).
  static MDP from_probabilities(std::span<const double> policy, std::span<const double> transition,
                                std::uint32_t state_count, std::uint32_t action_count, StartLaw start,
                                std::uint64_t seed, std::size_t memory_limit, const RunOptions& options);

  // Fills `states` [N, L + 1] and `actions` [N, L].
  void sample(const Sequences& trajectories, const Rows& states, const Rows& actions, const RunOptions& options) const;

  [[nodiscard]] std::uint32_t state_count() const noexcept;
  [[nodiscard]] std::uint32_t action_count() const noexcept;
  [[nodiscard]] bool is_dense() const noexcept { return std::holds_alternative<Dense>(rows_); }

 private:
  struct Dense {
    AliasTable policy, transition;
  };
  struct Implicit {
    ImplicitRows policy, transition;
    std::vector<std::uint32_t> decisions;  // of the policy, then of the transitions
  };
  struct Keys {
    std::uint64_t starts, actions, next_states, proposals;
  };
  MDP(std::variant<Dense, Implicit> rows, StartLaw start, const Keys& keys);
  static std::variant<Dense, Implicit> make_rows(const MDPLaw& law, Backend backend, std::size_t memory_limit,
                                                 const RunOptions& options);

  std::variant<Dense, Implicit> rows_;
  StartLaw start_;
  Keys keys_;  // of the draws
};

// The exact laws: of the action in `state`, and of the next state after `action` in `state`.
void policy_probabilities(const MDPLaw& law, std::uint32_t state, std::span<double> probabilities);
void transition_probabilities(const MDPLaw& law, std::uint32_t state, std::uint32_t action,
                              std::span<double> probabilities);

// Fixed Uniform(-1, 1) vectors that stand for states or actions: row i is the same whatever the number of rows, and a
// longer row begins with the shorter one. `vectors` is [row_count, dimension], row-major.
void codebook(Domain domain, std::size_t row_count, std::size_t dimension, std::span<float> vectors);

}  // namespace trajmill
