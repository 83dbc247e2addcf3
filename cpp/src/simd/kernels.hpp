// The sampling kernels' one face: plain structs of numbers and pointers in, bytes out. Internal to the core.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "trajmill/simd.hpp"

namespace trajmill::simd {

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

struct ChainArguments {
  TableView table;
  std::uint32_t order;
  const std::uint32_t* context_offsets;  // [order + 1], first row of the contexts of each length
  std::uint32_t oldest_weight;           // state_count^(order - 1), what the oldest state counts in a context's number
  std::uint64_t token_key;
  std::uint64_t first_sequence;  // index of row 0 of `tokens`
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
  std::uint64_t first_trajectory;
  std::size_t length;
  RowsView states;  // length + 1 columns
  RowsView actions;
};

// The exclusive or of the first `block_count` Philox blocks' words of sequences [0, sequence_count): what the generator
// alone costs, and a check that every instruction set makes the same words.
using PhiloxChecksum = std::uint32_t (*)(std::uint64_t key, std::size_t sequence_count, std::uint32_t block_count);

// Rows [begin, end) of the outputs; returns early, leaving rows unfinished, once `cancelled` is true.
struct Kernels {
  void (*sample_chain)(const ChainArguments&, std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled);
  void (*sample_mdp)(const MDPArguments&, std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled);
  PhiloxChecksum philox_checksum;
};

// Rows that the kernels like to be given together.
inline constexpr std::size_t kRowGrain = 64;

[[nodiscard]] Kernels scalar_kernels() noexcept;
[[nodiscard]] Kernels avx2_kernels() noexcept;
[[nodiscard]] Kernels avx512_kernels() noexcept;
[[nodiscard]] Kernels kernels();  // of the level in use

}  // namespace trajmill::simd
