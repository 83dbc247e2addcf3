// Sampling from alias tables. V::kLanes sequences advance together, and `Groups` such vectors are interleaved so that
// the latency of one table look-up hides behind the others. How many are best was measured (kGroups and the like).
#pragma once

#include <cstring>

#include "philox_lanes.hpp"

namespace trajmill::simd {

inline constexpr int kStepsPerBlock = 4;  // steps of one Philox block in a narrow table, two blocks in a wide one

// Where one row stands in its stream of draws: four steps' worth of words at a time.
template <class V, bool narrow>
struct Words {
  typename V::Pair word[narrow ? 1 : 2][4];

  // The words of steps [step, step + 4) of each sequence, step a multiple of 4.
  TRAJMILL_INLINE void draw(const SharedKeys<V>& keys, const Stream<V>& stream, std::uint64_t step) {
    if constexpr (narrow) {
      stream.draw(keys, step / 4, word[0]);
    } else {
      stream.draw(keys, step / 2, word[0]);
      stream.draw(keys, step / 2 + 1, word[1]);
    }
  }

  // The same in quarters, one after another, to be put between other work.
  TRAJMILL_INLINE void draw_quarter(const SharedKeys<V>& keys, const Stream<V>& stream, std::uint64_t step,
                                    int quarter) {
    constexpr int first = Stream<V>::kBegun, rounds = (kPhiloxRounds - first) / 4;
    static_assert(first + 4 * rounds == kPhiloxRounds);
    constexpr std::size_t kBlocks = narrow ? 1 : 2;
#pragma GCC unroll 2
    for (std::size_t k = 0; k < kBlocks; ++k) {
      if (quarter == 0) stream.begin(step / 4 * kBlocks + k, word[k]);
      switch (quarter) {
        case 0: philox_rounds<V, first, first + rounds>(keys, word[k]); break;
        case 1: philox_rounds<V, first + rounds, first + 2 * rounds>(keys, word[k]); break;
        case 2: philox_rounds<V, first + 2 * rounds, first + 3 * rounds>(keys, word[k]); break;
        default: philox_rounds<V, first + 3 * rounds, kPhiloxRounds>(keys, word[k]);
      }
    }
  }
};

// The numbers of the sequences in rows [row, row + kLanes); those past the last row repeat it.
template <class V>
inline typename V::Pair load_sequences(const Sequences& sequences, std::size_t row, std::size_t row_count) {
  alignas(64) std::uint32_t low[V::kLanes], high[V::kLanes];
  for (std::size_t lane = 0; lane < V::kLanes; ++lane) {
    const std::uint64_t number = sequences[row + (lane < row_count ? lane : row_count - 1)];
    low[lane] = static_cast<std::uint32_t>(number);
    high[lane] = static_cast<std::uint32_t>(number >> 32);
  }
  return V::join(V::load(low), V::load(high));
}

// Those of the `group`-th vector of rows [row, row + row_count).
template <class V>
inline typename V::Pair load_group(const Sequences& sequences, std::size_t row, std::size_t row_count, int group) {
  const std::size_t before = static_cast<std::size_t>(group) * V::kLanes;
  return load_sequences<V>(sequences, row + before, row_count - before);
}

// One draw from an alias table: the cell it looks up, and what decides once the cell is there.
template <class V, bool narrow>
struct Draw {
  typename V::Vec cell, column, uniform;

  // From row `row`, with the words of step `step` of the block.
  Draw() = default;
  TRAJMILL_INLINE Draw(const TableView& table, typename V::Vec row, const Words<V, narrow>& words, int step) {
    const auto* word = words.word[narrow ? 0 : step / 2] + (narrow ? step : 2 * (step % 2));
    const auto product = V::multiply(word[0], V::half(table.column_count));
    column = V::pack_high(product);
    uniform = narrow ? V::bit_or(V::pack_low(product), V::vec(0xFF)) : V::pack_low(word[narrow ? 0 : 1]);
    cell = V::add(V::multiply_low(row, V::vec(table.column_count)), column);
  }

  // Asks for the cell, so that it is on its way when `value` comes for it.
  TRAJMILL_INLINE void prefetch(const TableView& table) const {
    alignas(64) std::uint32_t cells[V::kLanes];
    V::store(cells, cell);
    for (const std::uint32_t at : cells) __builtin_prefetch(table.cells + (narrow ? 1 : 2) * std::size_t{at});
  }

  TRAJMILL_INLINE typename V::Vec value(const TableView& table) const {
    if constexpr (narrow) {
      const auto found = V::gather(table.cells, cell);
      const auto alias = V::bit_and(found, V::vec(0xFF));
      return V::select(V::below(uniform, found), column, alias);  // the alias below the threshold decides nothing
    } else {
      const auto threshold = V::gather_even(table.cells, cell);
      const auto alias = V::gather_odd(table.cells, cell);
      return V::select(V::below(uniform, threshold), column, alias);
    }
  }
};

// Up to kSteps values of each sequence, kept by step until whole rows can be written. Narrow values travel four to a
// word.
template <class V, bool narrow, int Groups>
class Tile {
 public:
  static constexpr int kSteps = narrow ? 64 : 16;

  // Value of `step` (counted within the tile), which must come in order.
  TRAJMILL_INLINE void put(int step, int group, typename V::Vec value) {
    if constexpr (narrow) {
      auto& packed = packed_[group];
      packed = step % 4 == 0 ? value : V::bit_or(packed, shifted(value, step % 4));
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
  static TRAJMILL_INLINE typename V::Vec shifted(typename V::Vec value, int byte) {
    switch (byte) {
      case 0: return value;
      case 1: return V::template shift_left<8>(value);
      case 2: return V::template shift_left<16>(value);
      default: return V::template shift_left<24>(value);
    }
  }

  template <class T>
  void write_as(const RowsView& rows, std::size_t row, std::size_t row_count, std::size_t column,
                std::size_t count) const {
    if constexpr (!narrow && V::kTransposes && (sizeof(T) == 2 || sizeof(T) == 4)) {
      if (count == kSteps && row_count == Groups * V::kLanes) {
        for (std::size_t lane = 0; lane < row_count; lane += V::kLanes) {
          std::byte* const out = rows.data + (row + lane) * rows.row_bytes + column * sizeof(T);
          V::template write_transposed<T>(words_[0] + lane, row_count, out, rows.row_bytes);
        }
        return;
      }
    }
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
TRAJMILL_INLINE void for_each_step(F&& function) {
  function(0), function(1), function(2), function(3);
}

template <class V, bool narrow, int Groups>
void sample_chain_rows(const ChainArguments& arguments, std::size_t row, std::size_t row_count,
                       const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  constexpr std::uint32_t kOrderLimit = 32;  // two states and 2^31 cells cannot reach it; one state is its own history
  const SharedKeys<V> keys(arguments.token_key);
  const std::uint32_t order = arguments.order;
  const Vec state_count = V::vec(arguments.table.column_count);
  const Vec oldest_weight = V::vec(arguments.oldest_weight);

  Stream<V> stream[Groups];
  Vec context[Groups];               // its number
  Vec history[kOrderLimit][Groups];  // the last `order` digits, a ring
  for (int g = 0; g < Groups; ++g) {
    stream[g].start(arguments.token_key, load_group<V>(arguments.sequences, row, row_count, g));
    context[g] = V::vec(0);
    for (std::uint32_t k = 0; k < order; ++k) history[k][g] = V::vec(0);
  }

  Tile<V, narrow, Groups> tile;
  Words<V, narrow> words[2][Groups];  // of this block and of the next
  for (int g = 0; g < Groups; ++g) words[0][g].draw(keys, stream[g], 0);
  unsigned now = 0;
  std::uint32_t ring = 0;  // where the oldest state stands
  for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
       first += tile.kSteps) {
    for (int block = 0; block < tile.kSteps && first + static_cast<std::size_t>(block) < arguments.length;
         block += kStepsPerBlock) {
      const std::size_t next_block = first + static_cast<std::size_t>(block) + kStepsPerBlock;
      Words<V, narrow> drawn;  // the next block's words of one group after another, in the shadow of the look-ups
      for_each_step([&](int step) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int g = 0; g < Groups; ++g) {
          const Vec state = Draw<V, narrow>(arguments.table, context[g], words[now][g], step).value(arguments.table);
          const int turn = step * Groups + g;
          drawn.draw_quarter(keys, stream[turn / 4], next_block, turn % 4);
          if (turn % 4 == 3) words[now ^ 1][turn / 4] = drawn;
          tile.put(block + step, g, state);
          const Vec digit = V::add(state, V::vec(1));
          if (order == 1) {
            context[g] = digit;
          } else if (order > 1) {  // append the new digit, drop the oldest (zero while the sequence is young)
            const Vec oldest = V::multiply_low(history[ring][g], oldest_weight);
            context[g] = V::add(V::subtract(V::multiply_low(context[g], state_count), oldest), digit);
            history[ring][g] = digit;
          }
        }
        ring = ring + 1 < order ? ring + 1 : 0;
      });
      now ^= 1;
    }
    const std::size_t left = arguments.length - first;
    tile.write(arguments.tokens, row, row_count, first, left < tile.kSteps ? left : tile.kSteps);
  }
}

template <class V, bool narrow_policy, bool narrow_transition, int Groups>
void sample_mdp_rows(const MDPArguments& arguments, std::size_t row, std::size_t row_count,
                     const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  const SharedKeys<V> action_keys(arguments.action_key);
  const SharedKeys<V> next_state_keys(arguments.next_state_key);
  const SharedKeys<V> start_keys(arguments.start_key);
  const Vec action_count = V::vec(arguments.policy.column_count);
  const auto state_count = V::half(arguments.transition.column_count);

  Stream<V> action_stream[Groups], next_state_stream[Groups];
  Vec state[Groups];
  for (int g = 0; g < Groups; ++g) {
    const auto trajectory = load_group<V>(arguments.trajectories, row, row_count, g);
    action_stream[g].start(arguments.action_key, trajectory);
    next_state_stream[g].start(arguments.next_state_key, trajectory);
    Stream<V> start;
    start.start(arguments.start_key, arguments.fixed_start ? V::same(V::half(0)) : trajectory);
    Words<V, true> words;
    words.draw(start_keys, start, 0);
    state[g] = V::pack_high(V::multiply(words.word[0][0], state_count));
  }

  // One step more than there are actions, for the last state; both tiles hold the same number of steps.
  Tile<V, narrow_transition, Groups> states;
  Tile<V, narrow_policy, Groups> actions;
  constexpr int kSteps = states.kSteps < actions.kSteps ? states.kSteps : actions.kSteps;
  Words<V, narrow_policy> action_words[2][Groups];  // of this block and of the next
  Words<V, narrow_transition> next_state_words[2][Groups];
  const auto draw_words = [&](int g, std::size_t step, unsigned into) __attribute__((always_inline)) {
    action_words[into][g].draw(action_keys, action_stream[g], step);
    next_state_words[into][g].draw(next_state_keys, next_state_stream[g], step);
  };
  for (int g = 0; g < Groups; ++g) draw_words(g, 0, 0);
  unsigned now = 0;
  for (std::size_t first = 0; first <= arguments.length && !cancelled.load(std::memory_order_relaxed);
       first += kSteps) {
    for (int block = 0; block < kSteps && first + static_cast<std::size_t>(block) <= arguments.length;
         block += kStepsPerBlock) {
      Words<V, narrow_policy> acting_drawn;
      Words<V, narrow_transition> moving_drawn;
      for_each_step([&](int step) __attribute__((always_inline)) {
        Draw<V, narrow_transition> moving[Groups];
        const std::size_t next = first + static_cast<std::size_t>(block) + kStepsPerBlock;
#pragma GCC unroll 8
        for (int g = 0; g < Groups; ++g) {
          const Draw<V, narrow_policy> acting(arguments.policy, state[g], action_words[now][g], step);
          const Vec action = acting.value(arguments.policy);
          states.put(block + step, g, state[g]);
          actions.put(block + step, g, action);
          const Vec pair = V::add(V::multiply_low(state[g], action_count), action);
          moving[g] = Draw<V, narrow_transition>(arguments.transition, pair, next_state_words[now][g], step);
          moving[g].prefetch(arguments.transition);
        }
#pragma GCC unroll 8
        for (int g = 0; g < Groups; ++g) {
          const int turn = step * Groups + g;
          acting_drawn.draw_quarter(action_keys, action_stream[turn / 4], next, turn % 4);
          state[g] = moving[g].value(arguments.transition);
          moving_drawn.draw_quarter(next_state_keys, next_state_stream[turn / 4], next, turn % 4);
          if (turn % 4 == 3) {
            action_words[1 - now][turn / 4] = acting_drawn;
            next_state_words[1 - now][turn / 4] = moving_drawn;
          }
        }
      });
      now = 1 - now;
    }
    const std::size_t left = arguments.length - first;  // actions; one state more
    states.write(arguments.states, row, row_count, first, left + 1 < kSteps ? left + 1 : kSteps);
    actions.write(arguments.actions, row, row_count, first, left < kSteps ? left : kSteps);
  }
}

template <class V>
std::uint32_t philox_checksum(std::uint64_t key, std::size_t sequence_count, std::uint32_t block_count) {
  const SharedKeys<V> keys(key);
  alignas(64) std::uint32_t lanes[V::kLanes];
  std::uint32_t checksum = 0;
  for (std::size_t row = 0; row < sequence_count; row += V::kLanes) {
    Stream<V> stream;
    stream.start(key, load_sequences<V>({0, nullptr}, row, V::kLanes));
    auto sum = V::same(V::half(0));
    for (std::uint32_t block = 0; block < block_count; ++block) {
      typename V::Pair words[4];
      stream.draw(keys, block, words);
      sum = V::exclusive_or(sum, words[0], words[1]);
      sum = V::exclusive_or(sum, words[2], words[3]);
    }
    V::store(lanes, V::pack_low(sum));
    for (std::size_t lane = 0; lane < V::kLanes && row + lane < sequence_count; ++lane) checksum ^= lanes[lane];
  }
  return checksum;
}

// `lookup_count` look-ups at places that do not depend on what was found, kGroups vectors at a time.
template <class V>
std::uint32_t lookup_checksum(const std::uint32_t* table, std::uint32_t count, std::size_t lookup_count) {
  using Vec = typename V::Vec;
  alignas(64) std::uint32_t lanes[V::kLanes];
  Vec index[V::kGroups], sum[V::kGroups];
  for (int g = 0; g < V::kGroups; ++g) {
    for (std::size_t lane = 0; lane < V::kLanes; ++lane) {
      lanes[lane] = static_cast<std::uint32_t>((static_cast<std::size_t>(g) * V::kLanes + lane) * 7919 % count);
    }
    index[g] = V::load(lanes);
    sum[g] = V::vec(0);
  }
  const Vec stride = V::vec(static_cast<std::uint32_t>(104729 % count)), limit = V::vec(count);
  for (std::size_t done = 0; done < lookup_count; done += V::kLanes * V::kGroups) {
    for (int g = 0; g < V::kGroups; ++g) {
      sum[g] = V::add(sum[g], V::gather(table, index[g]));
      index[g] = V::add(index[g], stride);
      index[g] = V::select(V::below(index[g], limit), index[g], V::subtract(index[g], limit));
    }
  }
  std::uint32_t checksum = 0;
  for (int g = 0; g < V::kGroups; ++g) {
    V::store(lanes, sum[g]);
    for (const std::uint32_t lane : lanes) checksum += lane;
  }
  return checksum;
}

// Full groups of interleaved vectors first, then one vector at a time.
template <class V, int Groups, class F, class G>
inline void split_rows(std::size_t begin, std::size_t end, F&& interleaved, G&& single) {
  constexpr std::size_t kInterleaved = V::kLanes * Groups;
  for (; begin + kInterleaved <= end; begin += kInterleaved) interleaved(begin, kInterleaved);
  for (; begin < end; begin += V::kLanes) single(begin, end - begin < V::kLanes ? end - begin : V::kLanes);
}

template <class V, bool narrow>
void sample_chain_of_width(const ChainArguments& arguments, std::size_t begin, std::size_t end,
                           const std::atomic<bool>& cancelled) {
  split_rows<V, V::kGroups>(
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
  split_rows<V, V::kMDPGroups>(
      begin, end,
      [&](std::size_t row, std::size_t count) {
        sample_mdp_rows<V, narrow_policy, narrow_transition, V::kMDPGroups>(arguments, row, count, cancelled);
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
