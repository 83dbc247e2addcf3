// The sampling kernels, written once over a vector type V (scalar.cpp, avx2.cpp, avx512.cpp each bring theirs).
//
// V::kLanes sequences advance together, and `Groups` such vectors are interleaved so that the latency of one table
// look-up hides behind the others. V offers
//   Vec   kLanes 32-bit numbers;
//   Pair  the same numbers one to a 64-bit lane, where a 32 x 32 -> 64 multiplication needs no shuffle.
// Everything here is a template over V, and nothing from the standard library is called: a function shared between
// files that are compiled for different instruction sets could be linked from the wrong one.
#pragma once

#include <cstring>

#include "kernels.hpp"
#include "trajmill/philox.hpp"

namespace trajmill::simd {

inline constexpr int kStepsPerBlock = 4;  // steps of one Philox block in a narrow table, two blocks in a wide one

// Where one row stands in its stream of draws: four steps' worth of words at a time.
template <class V, bool narrow>
struct Words {
  typename V::Pair word[narrow ? 4 : 8];

  // The words of steps [step, step + 4) of each sequence, step a multiple of 4.
  inline __attribute__((always_inline)) void draw(const typename V::RoundKeys& keys, typename V::Pair sequence,
                                                  std::uint64_t step) {
    if constexpr (narrow) {
      philox(keys, sequence, static_cast<std::uint32_t>(step / 4), word);
    } else {
      philox(keys, sequence, static_cast<std::uint32_t>(step / 2), word);
      philox(keys, sequence, static_cast<std::uint32_t>(step / 2 + 1), word + 4);
    }
  }

 private:
  static inline __attribute__((always_inline)) void philox(const typename V::RoundKeys& keys, typename V::Pair sequence,
                                                           std::uint32_t block, typename V::Pair* out) {
    const auto multiplier0 = V::pair(kPhiloxMultiplier0);
    const auto multiplier1 = V::pair(kPhiloxMultiplier1);
    auto c0 = V::pair(block), c1 = sequence, c2 = V::high(sequence), c3 = V::pair(0);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const auto product0 = V::multiply(c0, multiplier0);
      const auto product1 = V::multiply(c2, multiplier1);
      c0 = V::exclusive_or(V::high(product1), c1, keys.even[round]);
      c1 = product1;
      c2 = V::exclusive_or(V::high(product0), c3, keys.odd[round]);
      c3 = product0;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
  }
};

// The round keys of a stream, ready in vectors.
template <class V>
inline typename V::RoundKeys round_keys(std::uint64_t key) {
  typename V::RoundKeys keys;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    keys.even[round] = V::pair(static_cast<std::uint32_t>(key) + static_cast<std::uint32_t>(round) * kPhiloxWeyl0);
    keys.odd[round] = V::pair(static_cast<std::uint32_t>(key >> 32) + static_cast<std::uint32_t>(round) * kPhiloxWeyl1);
  }
  return keys;
}

// One draw from row `row` of an alias table, with the words of step `step` of the block.
template <class V, bool narrow>
inline __attribute__((always_inline)) typename V::Vec draw(const TableView& table, typename V::Vec row,
                                                           const Words<V, narrow>& words, int step) {
  const auto columns = V::pair(table.column_count);
  const auto first_cell = V::multiply_low(row, V::vec(table.column_count));
  if constexpr (narrow) {
    const auto product = V::multiply(words.word[step], columns);
    const auto column = V::pack_high(product);
    const auto uniform = V::pack_low(product);
    const auto cell = V::gather(table.cells, V::add(first_cell, column));
    const auto threshold = V::bit_and(cell, V::vec(0xFFFFFF00));
    const auto alias = V::bit_and(cell, V::vec(0xFF));
    return V::select_below(V::bit_and(uniform, V::vec(0xFFFFFF00)), threshold, column, alias);
  } else {
    const auto column = V::pack_high(V::multiply(words.word[2 * step], columns));
    const auto uniform = V::pack_low(words.word[2 * step + 1]);
    const auto cell = V::add(first_cell, column);
    const auto threshold = V::gather_even(table.cells, cell);
    const auto alias = V::gather_odd(table.cells, cell);
    return V::select_below(uniform, threshold, column, alias);
  }
}

// Up to kSteps values of each sequence, kept by step until whole rows can be written. Narrow values travel four to a
// word.
template <class V, bool narrow, int Groups>
class Tile {
 public:
  static constexpr int kSteps = narrow ? 64 : 16;

  // Value of `step` (counted within the tile), which must come in order.
  inline __attribute__((always_inline)) void put(int step, int group, typename V::Vec value) {
    if constexpr (narrow) {
      auto& packed = packed_[group];
      packed = step % 4 == 0 ? value : V::bit_or(packed, V::shift_left(value, 8 * (step % 4)));
      if (step % 4 == 3) V::store(words_[step / 4] + group * V::kLanes, packed);
    } else {
      V::store(words_[step] + group * V::kLanes, value);
    }
  }

  // Writes the first `count` steps of the first `row_count` sequences as rows[row + ...][column ...].
  void write(const RowsView& rows, std::size_t row, std::size_t row_count, std::size_t column,
             std::size_t count) const {
    switch (rows.element_size) {
      case 1: return write_as<std::uint8_t>(rows, row, row_count, column, count);
      case 2: return write_as<std::uint16_t>(rows, row, row_count, column, count);
      case 4: return write_as<std::uint32_t>(rows, row, row_count, column, count);
      default: return write_as<std::uint64_t>(rows, row, row_count, column, count);
    }
  }

 private:
  template <class T>
  void write_as(const RowsView& rows, std::size_t row, std::size_t row_count, std::size_t column,
                std::size_t count) const {
    for (std::size_t lane = 0; lane < row_count; ++lane) {
      T* out = reinterpret_cast<T*>(rows.data + (row + lane) * rows.row_bytes) + column;
      std::uint32_t values[16];
      for (int k = 0; k < 16; ++k) values[k] = words_[k][lane];
      if constexpr (narrow) {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(values);  // little-endian, as the packing is
        if (sizeof(T) == 1 && count == kSteps) {
          std::memcpy(out, bytes, kSteps);
        } else {
          for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<T>(bytes[k]);
        }
      } else {
        for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<T>(values[k]);
      }
    }
  }

  typename V::Vec packed_[Groups];
  alignas(64) std::uint32_t words_[16][Groups * V::kLanes];
};

// Calls function(0), ..., function(3) with constants.
template <class F>
inline __attribute__((always_inline)) void for_each_step(F&& function) {
  function(0), function(1), function(2), function(3);
}

template <class V, bool narrow, int Groups>
void sample_chain_rows(const ChainArguments& arguments, std::size_t row, std::size_t row_count,
                       const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  constexpr std::uint32_t kOrderLimit = 32;  // two states and 2^31 cells cannot reach it; one state is its own history
  const auto keys = round_keys<V>(arguments.token_key);
  const std::uint32_t order = arguments.order;
  const Vec state_count = V::vec(arguments.table.column_count);
  const Vec oldest_weight = V::vec(arguments.oldest_weight);

  typename V::Pair sequence[Groups];
  Vec context[Groups];               // number of the context among those of its length
  Vec history[kOrderLimit][Groups];  // the last `order` states, a ring
  for (int g = 0; g < Groups; ++g) {
    sequence[g] = V::pair_sequence(arguments.first_sequence + row + static_cast<std::size_t>(g) * V::kLanes);
    context[g] = V::vec(0);
    for (std::uint32_t k = 0; k < order; ++k) history[k][g] = V::vec(0);
  }

  Tile<V, narrow, Groups> tile;
  Words<V, narrow> words[Groups];
  std::uint32_t ring = 0;  // where the oldest state stands
  for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
       first += tile.kSteps) {
    for (int block = 0; block < tile.kSteps && first + static_cast<std::size_t>(block) < arguments.length;
         block += kStepsPerBlock) {
      for (int g = 0; g < Groups; ++g) words[g].draw(keys, sequence[g], first + static_cast<std::size_t>(block));
      for_each_step([&](int step) __attribute__((always_inline)) {
        const std::size_t t = first + static_cast<std::size_t>(block + step);
        const Vec offset = V::vec(arguments.context_offsets[t < order ? t : order]);
        for (int g = 0; g < Groups; ++g) {
          const Vec state = draw<V, narrow>(arguments.table, V::add(offset, context[g]), words[g], step);
          tile.put(block + step, g, state);
          if (order == 1) {
            context[g] = state;
          } else if (order > 1) {  // drop the oldest state (zero while the sequence is young), append the new one
            const Vec rest = V::subtract(context[g], V::multiply_low(history[ring][g], oldest_weight));
            context[g] = V::add(V::multiply_low(rest, state_count), state);
            history[ring][g] = state;
          }
        }
        ring = ring + 1 < order ? ring + 1 : 0;
      });
    }
    const std::size_t left = arguments.length - first;
    tile.write(arguments.tokens, row, row_count, first, left < tile.kSteps ? left : tile.kSteps);
  }
}

template <class V, bool narrow_policy, bool narrow_transition, int Groups>
void sample_mdp_rows(const MDPArguments& arguments, std::size_t row, std::size_t row_count,
                     const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  const auto action_keys = round_keys<V>(arguments.action_key);
  const auto next_state_keys = round_keys<V>(arguments.next_state_key);
  const auto start_keys = round_keys<V>(arguments.start_key);
  const Vec action_count = V::vec(arguments.policy.column_count);
  const auto state_count = V::pair(arguments.transition.column_count);

  typename V::Pair sequence[Groups];
  Vec state[Groups];
  for (int g = 0; g < Groups; ++g) {
    sequence[g] = V::pair_sequence(arguments.first_trajectory + row + static_cast<std::size_t>(g) * V::kLanes);
    Words<V, true> start;
    start.draw(start_keys, arguments.fixed_start ? V::pair(0) : sequence[g], 0);
    state[g] = V::pack_high(V::multiply(start.word[0], state_count));
  }

  // One step more than there are actions, for the last state; both tiles hold the same number of steps.
  Tile<V, narrow_transition, Groups> states;
  Tile<V, narrow_policy, Groups> actions;
  constexpr int kSteps = states.kSteps < actions.kSteps ? states.kSteps : actions.kSteps;
  Words<V, narrow_policy> action_words[Groups];
  Words<V, narrow_transition> next_state_words[Groups];
  for (std::size_t first = 0; first <= arguments.length && !cancelled.load(std::memory_order_relaxed);
       first += kSteps) {
    for (int block = 0; block < kSteps && first + static_cast<std::size_t>(block) <= arguments.length;
         block += kStepsPerBlock) {
      for (int g = 0; g < Groups; ++g) {
        action_words[g].draw(action_keys, sequence[g], first + static_cast<std::size_t>(block));
        next_state_words[g].draw(next_state_keys, sequence[g], first + static_cast<std::size_t>(block));
      }
      for_each_step([&](int step) __attribute__((always_inline)) {
        for (int g = 0; g < Groups; ++g) {
          const Vec action = draw<V, narrow_policy>(arguments.policy, state[g], action_words[g], step);
          states.put(block + step, g, state[g]);
          actions.put(block + step, g, action);
          const Vec pair = V::add(V::multiply_low(state[g], action_count), action);
          state[g] = draw<V, narrow_transition>(arguments.transition, pair, next_state_words[g], step);
        }
      });
    }
    const std::size_t left = arguments.length - first;  // actions; one state more
    states.write(arguments.states, row, row_count, first, left + 1 < kSteps ? left + 1 : kSteps);
    actions.write(arguments.actions, row, row_count, first, left < kSteps ? left : kSteps);
  }
}

template <class V>
std::uint32_t philox_checksum(std::uint64_t key, std::size_t sequence_count, std::uint32_t block_count) {
  const auto keys = round_keys<V>(key);
  alignas(64) std::uint32_t lanes[V::kLanes];
  std::uint32_t checksum = 0;
  for (std::size_t row = 0; row < sequence_count; row += V::kLanes) {
    const auto sequence = V::pair_sequence(row);
    auto sum = V::pair(0);
    Words<V, true> words;
    for (std::uint32_t block = 0; block < block_count; ++block) {
      words.draw(keys, sequence, std::uint64_t{block} * kStepsPerBlock);
      sum = V::exclusive_or(sum, words.word[0], words.word[1]);
      sum = V::exclusive_or(sum, words.word[2], words.word[3]);
    }
    V::store(lanes, V::pack_low(sum));
    for (std::size_t lane = 0; lane < V::kLanes && row + lane < sequence_count; ++lane) checksum ^= lanes[lane];
  }
  return checksum;
}

// Full groups of interleaved vectors first, then one vector at a time.
template <class V, class F, class G>
inline void split_rows(std::size_t begin, std::size_t end, F&& interleaved, G&& single) {
  constexpr std::size_t kInterleaved = V::kLanes * V::kGroups;
  for (; begin + kInterleaved <= end; begin += kInterleaved) interleaved(begin, kInterleaved);
  for (; begin < end; begin += V::kLanes) single(begin, end - begin < V::kLanes ? end - begin : V::kLanes);
}

template <class V, bool narrow>
void sample_chain_of_width(const ChainArguments& arguments, std::size_t begin, std::size_t end,
                           const std::atomic<bool>& cancelled) {
  split_rows<V>(
      begin, end,
      [&](std::size_t row, std::size_t count) {
        sample_chain_rows<V, narrow, V::kGroups>(arguments, row, count, cancelled);
      },
      [&](std::size_t row, std::size_t count) { sample_chain_rows<V, narrow, 1>(arguments, row, count, cancelled); });
}

template <class V>
void sample_chain(const ChainArguments& arguments, std::size_t begin, std::size_t end,
                  const std::atomic<bool>& cancelled) {
  return arguments.table.narrow ? sample_chain_of_width<V, true>(arguments, begin, end, cancelled)
                                : sample_chain_of_width<V, false>(arguments, begin, end, cancelled);
}

template <class V, bool narrow_policy, bool narrow_transition>
void sample_mdp_of_width(const MDPArguments& arguments, std::size_t begin, std::size_t end,
                         const std::atomic<bool>& cancelled) {
  split_rows<V>(
      begin, end,
      [&](std::size_t row, std::size_t count) {
        sample_mdp_rows<V, narrow_policy, narrow_transition, V::kGroups>(arguments, row, count, cancelled);
      },
      [&](std::size_t row, std::size_t count) {
        sample_mdp_rows<V, narrow_policy, narrow_transition, 1>(arguments, row, count, cancelled);
      });
}

template <class V>
void sample_mdp(const MDPArguments& arguments, std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled) {
  const bool narrow_policy = arguments.policy.narrow;
  if (arguments.transition.narrow) {
    return narrow_policy ? sample_mdp_of_width<V, true, true>(arguments, begin, end, cancelled)
                         : sample_mdp_of_width<V, false, true>(arguments, begin, end, cancelled);
  }
  return narrow_policy ? sample_mdp_of_width<V, true, false>(arguments, begin, end, cancelled)
                       : sample_mdp_of_width<V, false, false>(arguments, begin, end, cancelled);
}

}  // namespace trajmill::simd
