// The token sequences of the authors' own programs, bit for bit: n-step Markov chains and independent tokens.
//
// Wang et al., "Pre-training with Synthetic Data Helps Offline Reinforcement Learning" (arXiv 2310.00771), as its
// released generators draw them; docs/reference-streams.md describes the streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "trajmill/markov_chain.hpp"
#include "trajmill/softmax_row.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

// One round of the authors' program, which runs `reference_worker_count` processes, or some of it: the blocks of
// `made_count` of these workers from `first_worker` on. Each block is an equal share of the rows to fill. How many
// threads make them is another matter.
struct ReferenceRound {
  std::size_t reference_worker_count;
  std::uint64_t iteration;
  std::size_t first_worker;
  std::size_t made_count;
};

class ReferenceChain {
 public:
  // Every context, the last min(t, order) tokens, has a softmax row; order >= 1. Rows are built when first needed and
  // kept while they take at most `memory_limit` bytes.
  ReferenceChain(std::uint32_t state_count, std::uint32_t order, Temperature temperature, std::uint64_t seed,
                 std::size_t memory_limit);
  ~ReferenceChain();
  ReferenceChain(ReferenceChain&&) noexcept;

  // Fills `tokens` with the blocks of the round in worker order. Throws std::invalid_argument if rows cannot be
  // shared out evenly, cannot hold the tokens, or need seeds of more than 64 bits.
  void sample(const ReferenceRound& round, const Rows& tokens, const RunOptions& options) const;

 private:
  class Sampler;
  std::unique_ptr<Sampler> sampler_;
};

// The same for independent uniform tokens, of which each worker draws its block in one go.
void reference_iid_tokens(std::uint32_t state_count, std::uint64_t seed, const ReferenceRound& round,
                          const Rows& tokens, std::size_t memory_limit, const RunOptions& options);

}  // namespace trajmill
