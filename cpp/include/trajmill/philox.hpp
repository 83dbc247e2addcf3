// Philox4x32-10, the counter-based generator behind every draw, and the keys that keep draws apart.
//
// Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A block of four
// 32-bit words is a pure function of a 128-bit counter and a 64-bit key, so a draw has an address and no history.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

namespace trajmill {

using PhiloxBlock = std::array<std::uint32_t, 4>;

inline constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53;
inline constexpr std::uint32_t kPhiloxMultiplier1 = 0xCD9E8D57;
inline constexpr std::uint32_t kPhiloxWeyl0 = 0x9E3779B9;
inline constexpr std::uint32_t kPhiloxWeyl1 = 0xBB67AE85;
inline constexpr int kPhiloxRounds = 10;
inline constexpr int kLogitRounds =
    7;  // the fewest that pass BigCrush (same paper, table 2): a logit costs a whole block

// The block at `counter` under `key` (low word first).
[[nodiscard]] constexpr PhiloxBlock philox4x32(PhiloxBlock counter, std::uint64_t key,
                                               int round_count = kPhiloxRounds) noexcept {
  auto key0 = static_cast<std::uint32_t>(key);
  auto key1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < round_count; ++round) {
    const std::uint64_t product0 = std::uint64_t{kPhiloxMultiplier0} * counter[0];
    const std::uint64_t product1 = std::uint64_t{kPhiloxMultiplier1} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(product0)};
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

// What a draw is for. Two purposes never share numbers. Values are part of stream "v1" and never change.
enum class Domain : std::uint64_t {
  chain_logits = 1,
  chain_tokens = 2,
  mdp_policy_logits = 3,
  mdp_transition_logits = 4,
  mdp_start_states = 5,
  mdp_actions = 6,
  mdp_next_states = 7,
  state_codebook = 8,
  action_codebook = 9,
  chain_start_states = 10,  // of the implicit backend, as are the next two
  chain_proposals = 11,
  mdp_proposals = 12,
  corpus_order = 13,
  replay_indexes = 14,
  replay_order = 15,  // drawing without replacement
  replay_windows = 16,
  replay_mdp = 17,  // transitions of a discrete MDP
};

// The key of one purpose: the seed, the domain and any parameters absorbed one after another.
[[nodiscard]] constexpr std::uint64_t derive_key(std::uint64_t seed, Domain domain,
                                                 std::initializer_list<std::uint64_t> parameters = {}) noexcept {
  std::uint64_t key = seed;
  std::uint32_t position = 0;
  const auto absorb = [&](std::uint64_t value) {
    const PhiloxBlock block =
        philox4x32({static_cast<std::uint32_t>(value), static_cast<std::uint32_t>(value >> 32), position++, 0}, key);
    key = block[0] | std::uint64_t{block[1]} << 32;
  };
  absorb(static_cast<std::uint64_t>(domain));
  for (const std::uint64_t value : parameters) absorb(value);
  return key;
}

// Word `column` of the endless row `row` + 2^64 `row_top` under `key`: block column / 4, word column % 4.
[[nodiscard]] constexpr PhiloxBlock row_block(std::uint64_t key, std::uint64_t row, std::uint32_t block,
                                              int round_count = kPhiloxRounds, std::uint32_t row_top = 0) noexcept {
  return philox4x32({block, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32), row_top}, key,
                    round_count);
}

}  // namespace trajmill
