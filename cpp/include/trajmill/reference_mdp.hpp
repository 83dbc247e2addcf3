// The random MDP transitions of the authors' own program, bit for bit, the shared transition rows included.
//
// Wang et al., "Pre-training with Synthetic Data Helps Offline Reinforcement Learning" (arXiv 2310.00771), as its
// released generator draws them; docs/reference-streams.md describes the streams.
#pragma once

#include <cstddef>
#include <cstdint>

#include "trajmill/softmax_row.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

struct ReferenceMDPLaw {
  std::uint32_t state_count;
  std::uint32_t action_count;
  Temperature policy_temperature;
  Temperature transition_temperature;
  std::uint64_t trajectory_count;
  bool random_start;  // otherwise every trajectory starts in the one state that trajectory_count seeds
};

// Where transitions go: three arrays of trajectory_count * length numbers, trajectory after trajectory, which begin
// with trajectory `first_trajectory` of the law's.
struct ReferenceTransitions {
  std::uint64_t first_trajectory;
  std::size_t trajectory_count;
  std::size_t length;
  std::int64_t* observations;
  std::int64_t* actions;
  std::int64_t* next_observations;
};

// Fills `out`. Rows are kept while they take at most `memory_limit` bytes. Throws std::invalid_argument if both
// temperatures are infinite, which the authors' program does not seed, if a seed would need more than 32 bits, or if
// the law has no such trajectories.
void reference_mdp_transitions(const ReferenceMDPLaw& law, std::size_t memory_limit, const ReferenceTransitions& out,
                               const RunOptions& options);

}  // namespace trajmill
