// The sampling kernels' one face: plain structs of numbers and pointers in, bytes out. Internal to the core.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "trajmill/rows.hpp"
#include "trajmill/simd.hpp"

namespace trajmill {

class ImplicitLaw;

namespace simd {

// An alias table as the kernels see it (alias_table.hpp).
struct TableView {
  const std::uint32_t* cells;
  std::uint32_t column_count;
  bool narrow;
};

// One output array: rows of unsigned integers of `element_size` bytes, one row a sequence.
struct RowsView {
  std::byte* data;
  std::size_t row_bytes;
  std::size_t element_size;  // 1, 2, 4 or 8, wide enough for every value
};

// Rows of a chain: the states of the context are the digits of its row's number, oldest first, to the base state_count
// with digits 1 .. state_count; row 0 is that of the empty context.
struct ChainArguments {
  TableView table;
  std::uint32_t order;
  std::uint32_t oldest_weight;  // state_count^order, what the oldest digit has become when it is to be dropped
  std::uint64_t token_key;
  Sequences sequences;
  std::size_t length;
  RowsView tokens;
};

struct MDPArguments {
  TableView policy;      // [state_count, action_count]
  TableView transition;  // [state_count * action_count, state_count]
  std::uint64_t start_key;
  std::uint64_t action_key;
  std::uint64_t next_state_key;
  bool fixed_start;  // every trajectory starts where trajectory 0 does
  Sequences trajectories;
  std::size_t length;
  RowsView states;  // length + 1 columns
  RowsView actions;
};

inline constexpr int kDecisionBits = 11;  // of a logit, that choose among ImplicitRows::decisions()

// Rows drawn by rejection (implicit_rows.hpp).
struct ImplicitView {
  const ImplicitLaw* rows;
  std::uint64_t logit_key;
  std::uint32_t column_count;
  std::uint32_t certain_limit;
  std::uint32_t refusal_limit;
  const std::uint32_t* decisions;
};

struct ImplicitChainArguments {
  ImplicitView rows;
  std::uint32_t order;
  std::uint64_t radix;          // state_count, or an odd number where the contexts' numbers exceed 64 bits
  std::uint64_t oldest_weight;  // radix^order
  bool uniform_initial;
  std::uint64_t start_key;
  std::uint64_t proposal_key;
  Sequences sequences;
  std::size_t length;
  RowsView tokens;
};

struct ImplicitMDPArguments {
  ImplicitView policy, transition;
  const std::uint32_t* decisions;  // those of the policy, then those of the transitions
  std::uint64_t start_key;
  std::uint64_t proposal_key;
  bool fixed_start;
  Sequences trajectories;
  std::size_t length;
  RowsView states;
  RowsView actions;
};

// No state has this number.
inline constexpr std::uint32_t kNoValue = 0xFFFFFFFF;

// Finishes a draw that a kernel did not accept by the top half of its proposal's uniform number alone: by all 64 bits
// of it, or by scanning the row, row + 2^64 row_top. The value, or kNoValue if the proposal is refused.
[[nodiscard]] std::uint32_t finish_rejected(const ImplicitLaw& law, std::uint64_t proposal_key, std::uint64_t sequence,
                                            std::uint64_t proposal, std::uint64_t row, bool scan,
                                            std::uint32_t row_top = 0);

// A uniform number below `count` for the start of a sequence.
[[nodiscard]] std::uint32_t uniform_start(std::uint64_t start_key, std::uint64_t sequence,
                                          std::uint32_t count) noexcept;

// Rows [begin, end) of the outputs; returns early, leaving rows unfinished, once `cancelled` is true.
template <class Arguments>
using Sample = void (*)(const Arguments&, std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled);

struct Kernels {
  Sample<ChainArguments> sample_chain;
  Sample<MDPArguments> sample_mdp;
  Sample<ImplicitChainArguments> sample_implicit_chain;
  Sample<ImplicitMDPArguments> sample_implicit_mdp;
  // What the generator alone costs, and table look-ups alone (simd.hpp).
  std::uint32_t (*philox_checksum)(std::uint64_t key, std::size_t sequence_count, std::uint32_t block_count);
  std::uint32_t (*lookup_checksum)(const std::uint32_t* table, std::uint32_t count, std::size_t lookup_count);
};

// Rows that the kernels like to be given together.
inline constexpr std::size_t kRowGrain = 64;

[[nodiscard]] Kernels scalar_kernels() noexcept;
[[nodiscard]] Kernels sse4_kernels() noexcept;
[[nodiscard]] Kernels avx2_kernels() noexcept;
[[nodiscard]] Kernels avx512_kernels() noexcept;
[[nodiscard]] Kernels neon_kernels() noexcept;
[[nodiscard]] Kernels kernels();  // of the level in use

}  // namespace simd
}  // namespace trajmill
