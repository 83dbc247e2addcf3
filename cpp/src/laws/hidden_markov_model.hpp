// Hidden Markov models: V::kLanes sequences at a time, each with its hidden state.
//
// numbers: keys of the hidden states, emissions, starts and tasks, states K, symbols V, members of the pool M (0: fresh
// models, drawn by urns), columns of the table of pairs (0: a table of next states and one of symbols), then for fresh
// models the first task, sequences of a task, and the weights of what is fresh in the urns of states and of symbols
// (docs/laws.md; 0: everything is).
// tables, row member K + state: of the pool, alias cells of the first states (a row a member); then either alias cells
// of pairs and the pairs themselves, symbol << 16 | next state, or alias cells of next states and of symbols.
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::hidden_markov_model {

inline constexpr std::size_t kNumbers = 12;
inline constexpr std::uint64_t kMost = 1 << 16;                     // states, symbols
inline constexpr std::uint64_t kMostCells = 0x7FFFFFFF;             // a gather's index is a signed 32-bit number
inline constexpr std::uint64_t kNarrow = 256;                       // columns whose cells have one word
inline constexpr std::uint64_t kHeaviest = std::uint64_t{1} << 63;  // with 2^32 visits of 2^16 it stays below 2^64
inline constexpr std::uint64_t kLongest = 0xFFFFFFFF;

// Throws unless the cells are an alias table of `rows` x `columns`, whose aliases are columns.
inline void check_cells(const simd::LawTable& table, std::uint64_t rows, std::uint64_t columns) {
  const bool narrow = columns <= kNarrow;
  require(rows <= kMostCells / columns, "a table of a hidden Markov model must have below 2^31 cells");
  require(table.size == rows * columns * (narrow ? 1 : 2), "a table of ", rows, " x ", columns, " cells has ",
          table.size, " words");
  for (std::size_t at = narrow ? 0 : 1; at < table.size; at += narrow ? 1 : 2) {
    const std::uint32_t alias = narrow ? table.words[at] & 0xFF : table.words[at];
    require(alias < columns, "an alias must be below ", columns, ", got ", alias);
  }
}

inline void check(const simd::LawView& law) {
  require(law.number_count == kNumbers, "a hidden Markov model has ", kNumbers, " numbers");
  const auto within = [&](std::size_t at, std::uint64_t least, std::uint64_t most) {
    require(law.numbers[at] >= least && law.numbers[at] <= most, "number ", at, " of a hidden Markov model must be ",
            least, " to ", most, ", got ", law.numbers[at]);
  };
  within(4, 1, kMost);
  within(5, 1, kMost);
  within(6, 0, kMostCells);
  within(7, 0, kMostCells);
  within(9, 1, kLongest);
  within(10, 0, kHeaviest);
  within(11, 0, kHeaviest);
  const std::uint64_t states = law.numbers[4], symbols = law.numbers[5], members = law.numbers[6];
  const std::uint64_t columns = law.numbers[7];
  require(law.table_count == (members == 0 ? 0 : 3), "a pool of hidden Markov models has three tables, others none");
  if (members == 0) return;
  require(members <= kMostCells / states, "a pool must have below 2^31 states");
  check_cells(law.tables[0], members, states);
  if (columns == 0) {
    check_cells(law.tables[1], members * states, states);
    check_cells(law.tables[2], members * states, symbols);
    return;
  }
  check_cells(law.tables[1], members * states, columns);
  const simd::LawTable& pairs = law.tables[2];
  require(pairs.size == members * states * columns, "there must be a pair for each cell, got ", pairs.size);
  for (std::size_t at = 0; at < pairs.size; ++at) {
    require(pairs.words[at] >> 16 < symbols && (pairs.words[at] & 0xFFFF) < states, "pair ", at, " is out of range");
  }
}

template <class V>
struct Kernel {
  using Vec = typename V::Vec;
  using Mask = typename V::Mask;
  using Pair = typename V::Pair;

  static simd::TableView view(const simd::LawTable& table, std::uint64_t columns) {
    return {table.words, static_cast<std::uint32_t>(columns), columns <= kNarrow};
  }

  // One alias table of pairs (symbol, next state).
  template <bool narrow>
  struct PairModel {
    struct Draws {
      simd::Stream<V> stream;
      simd::Words<V, narrow> words;
    };
    simd::SharedKeys<V> keys;
    simd::TableView table;
    const std::uint32_t* pairs;

    explicit PairModel(const simd::LawView& law)
        : keys(law.numbers[0]), table(view(law.tables[1], law.numbers[7])), pairs(law.tables[2].words) {}
    void start(const simd::LawView& law, Draws& draws, Pair sequence) const {
      draws.stream.start(law.numbers[0], sequence);
    }
    TRAJMILL_INLINE void draw(Draws& draws, std::size_t step) const { draws.words.draw(keys, draws.stream, step); }
    TRAJMILL_INLINE void next(const Draws& draws, int step, Vec row, Vec& symbol, Vec& state) const {
      const Vec column = simd::Draw<V, narrow>(table, row, draws.words, step).value(table);
      const Vec pair = V::gather(pairs, V::add(V::multiply_low(row, V::vec(table.column_count)), column));
      symbol = V::template shift_right<16>(pair);
      state = V::bit_and(pair, V::vec(0xFFFF));
    }
  };

  // A table of next states and one of symbols.
  template <bool narrow_states, bool narrow_symbols>
  struct TwoTables {
    struct Draws {
      simd::Stream<V> states, symbols;
      simd::Words<V, narrow_states> state_words;
      simd::Words<V, narrow_symbols> symbol_words;
    };
    simd::SharedKeys<V> state_keys, symbol_keys;
    simd::TableView states, symbols;

    explicit TwoTables(const simd::LawView& law)
        : state_keys(law.numbers[0]),
          symbol_keys(law.numbers[1]),
          states(view(law.tables[1], law.numbers[4])),
          symbols(view(law.tables[2], law.numbers[5])) {}
    void start(const simd::LawView& law, Draws& draws, Pair sequence) const {
      draws.states.start(law.numbers[0], sequence);
      draws.symbols.start(law.numbers[1], sequence);
    }
    TRAJMILL_INLINE void draw(Draws& draws, std::size_t step) const {
      draws.state_words.draw(state_keys, draws.states, step);
      draws.symbol_words.draw(symbol_keys, draws.symbols, step);
    }
    TRAJMILL_INLINE void next(const Draws& draws, int step, Vec row, Vec& symbol, Vec& state) const {
      symbol = simd::Draw<V, narrow_symbols>(symbols, row, draws.symbol_words, step).value(symbols);
      state = simd::Draw<V, narrow_states>(states, row, draws.state_words, step).value(states);
    }
  };

  // x count / 2^64, rounded down, of the numbers x whose halves are `high` and `low`.
  static TRAJMILL_INLINE Vec choice(Pair high, Pair low, std::uint32_t count) {
    return V::pack_high(V::add(V::multiply(high, V::half(count)), V::high(V::multiply(low, V::half(count)))));
  }

  // The first block of the sequences under a key.
  static void first_block(std::uint64_t key, Pair sequence, Pair (&words)[4]) {
    simd::Stream<V> stream;
    stream.start(key, sequence);
    stream.draw(simd::SharedKeys<V>(key), 0, words);
  }

  template <bool narrow>
  static Vec first_state(const simd::LawView& law, Pair sequence, Vec member) {
    const simd::TableView table = view(law.tables[0], law.numbers[4]);
    simd::Stream<V> stream;
    stream.start(law.numbers[2], sequence);
    simd::Words<V, narrow> words;
    words.draw(simd::SharedKeys<V>(law.numbers[2]), stream, 0);
    return simd::Draw<V, narrow>(table, member, words, 0).value(table);
  }

  static void write_tasks(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, Vec task) {
    if (arguments.columns[simd::kTask].data == nullptr) return;
    simd::Tile<V, false, 1> tile;
    tile.put(0, 0, task);
    tile.write(arguments.columns[simd::kTask], row, row_count, 0, 1);
  }

  // bytes: symbols and states are below 256.
  template <bool bytes, int Groups, class Model>
  static void rows(const simd::LawArguments& arguments, const Model& model, std::size_t row, std::size_t row_count,
                   const std::atomic<bool>& cancelled) {
    const simd::LawView& law = arguments.law;
    const auto members = static_cast<std::uint32_t>(law.numbers[6]);
    typename Model::Draws draws[Groups];
    Vec state[Groups], first_row[Groups];  // the member's first row in the tables
    for (int g = 0; g < Groups; ++g) {
      const Pair sequence = simd::load_group<V>(arguments.sequences, row, row_count, g);
      Vec member = V::vec(0);
      if (members > 1) {
        Pair words[4];
        first_block(law.numbers[3], sequence, words);
        member = choice(words[0], words[1], members);
      }
      const std::size_t before = static_cast<std::size_t>(g) * V::kLanes;
      write_tasks(arguments, row + before, row_count - before < V::kLanes ? row_count - before : V::kLanes, member);
      first_row[g] = V::multiply_low(member, V::vec(static_cast<std::uint32_t>(law.numbers[4])));
      state[g] = law.numbers[4] <= kNarrow ? first_state<true>(law, sequence, member)
                                           : first_state<false>(law, sequence, member);
      model.start(law, draws[g], sequence);
    }

    const bool wants_states = arguments.columns[simd::kStates].data != nullptr;
    simd::Tile<V, bytes, Groups> symbols, states;
    for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
         first += symbols.kSteps) {
      const std::size_t left = arguments.length - first;
      for (int block = 0; block < symbols.kSteps && static_cast<std::size_t>(block) < left; block += 4) {
        for (int g = 0; g < Groups; ++g) model.draw(draws[g], first + static_cast<std::size_t>(block));
        simd::for_each_step([&](int step) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int g = 0; g < Groups; ++g) {
            Vec symbol, next;
            model.next(draws[g], step, V::add(first_row[g], state[g]), symbol, next);
            symbols.put(block + step, g, symbol);
            if (wants_states) states.put(block + step, g, state[g]);
            state[g] = next;
          }
        });
      }
      const std::size_t count = left < symbols.kSteps ? left : symbols.kSteps;
      symbols.write(arguments.columns[simd::kTokens], row, row_count, first, count);
      if (wants_states) states.write(arguments.columns[simd::kStates], row, row_count, first, count);
    }
  }

  template <bool bytes, class Model>
  static void all_rows(const simd::LawArguments& arguments, std::size_t begin, std::size_t end,
                       const std::atomic<bool>& cancelled) {
    const Model model(arguments.law);
    simd::split_rows<V, V::kGroups>(
        begin, end,
        [&](std::size_t row, std::size_t count) { rows<bytes, V::kGroups>(arguments, model, row, count, cancelled); },
        [&](std::size_t row, std::size_t count) { rows<bytes, 1>(arguments, model, row, count, cancelled); });
  }

  // --- fresh models: nothing is stored but how often each state was left ---

  // What the urn of `context` of a task gives on visit `visit`: with chance visit / (visit + fresh weight / 2^16) what
  // it gave on an earlier one, else anything below `count`.
  static TRAJMILL_INLINE Vec urn(const simd::SharedKeys<V>& keys, const Pair (&task)[2], Vec context, Vec visit,
                                 std::uint64_t fresh_weight, std::uint32_t count) {
    const Pair weight = V::add(V::to_high(V::same(V::half(static_cast<std::uint32_t>(fresh_weight >> 32)))),
                               V::half(static_cast<std::uint32_t>(fresh_weight)));
    Vec found = V::vec(0);
    for (Mask searching = V::equal(found, found); V::bits(searching) != 0;) {
      Pair words[4] = {V::spread(visit), V::spread(context), task[0], task[1]};
      simd::philox_rounds<V, 0, kLogitRounds>(keys, words);
      // x total / 2^64, where x has the halves words[0] and words[1]
      const Pair total = V::add(V::multiply(V::spread(visit), V::half(1 << 16)), weight);
      const Pair low = V::add(V::multiply(words[0], total), V::high(V::multiply(words[1], total)));
      const Pair middle = V::add(V::multiply(words[1], V::high(total)), V::subtract(low, V::to_high(V::high(low))));
      const Pair place = V::add(V::add(V::multiply(words[0], V::high(total)), V::high(low)), V::high(middle));
      const Vec high = V::pack_high(place);
      const Vec earlier = V::bit_or(V::template shift_left<16>(high), V::template shift_right<16>(V::pack_low(place)));
      Mask again = V::both(searching, V::both(V::below(high, V::vec(1 << 16)), V::below(earlier, visit)));
      if (fresh_weight == 0) again = V::below(found, found);
      found = V::select(V::both(searching, V::neither(again, again)), choice(words[2], words[3], count), found);
      visit = V::select(again, earlier, visit);
      searching = again;
    }
    return found;
  }

  static void fresh_rows(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count,
                         std::uint32_t* visits, const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const auto state_count = static_cast<std::uint32_t>(numbers[4]),
               symbol_count = static_cast<std::uint32_t>(numbers[5]);
    const std::uint64_t per_task = numbers[9];
    const simd::SharedKeys<V> keys(numbers[3]);
    const Vec one = V::vec(1), lanes = V::vec(V::kLanes), shared = V::vec(static_cast<std::uint32_t>(per_task));
    alignas(64) std::uint32_t low[V::kLanes], high[V::kLanes], place[V::kLanes], lane_numbers[V::kLanes],
        number[V::kLanes];
    for (std::uint32_t k = 0; k < V::kLanes; ++k) {
      const std::uint64_t sequence = arguments.sequences[row + (k < row_count ? k : row_count - 1)];
      const std::uint64_t task = numbers[8] + sequence / per_task;
      low[k] = static_cast<std::uint32_t>(task), high[k] = static_cast<std::uint32_t>(task >> 32);
      place[k] = static_cast<std::uint32_t>(sequence % per_task);
      number[k] = static_cast<std::uint32_t>(sequence / per_task);
      lane_numbers[k] = k;
    }
    const Pair task[2] = {V::spread(V::load(low)), V::spread(V::load(high))};
    const Vec lane = V::load(lane_numbers), place_in_task = V::load(place);
    write_tasks(arguments, row, row_count, V::load(number));
    for (std::uint32_t k = 0; k < state_count; ++k) V::store(visits + k * V::kLanes, V::vec(0));

    Pair words[4];
    first_block(numbers[2], simd::load_sequences<V>(arguments.sequences, row, row_count), words);
    Vec state = choice(words[0], words[1], state_count);
    simd::Tile<V, false, 1> symbols, states;
    const bool wants_states = arguments.columns[simd::kStates].data != nullptr;
    for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
         first += symbols.kSteps) {
      const std::size_t left = arguments.length - first;
      const std::size_t count = left < symbols.kSteps ? left : symbols.kSteps;
      for (int step = 0; static_cast<std::size_t>(step) < count; ++step) {
        const Vec slot = V::add(V::multiply_low(state, lanes), lane);
        const Vec visited = V::gather(visits, slot);
        V::scatter(visits, slot, V::add(visited, one));
        const Vec visit = V::add(V::multiply_low(visited, shared), place_in_task);
        states.put(step, 0, state);
        symbols.put(step, 0, urn(keys, task, V::add(state, V::vec(state_count)), visit, numbers[11], symbol_count));
        state = urn(keys, task, state, visit, numbers[10], state_count);
      }
      symbols.write(arguments.columns[simd::kTokens], row, row_count, first, count);
      if (wants_states) states.write(arguments.columns[simd::kStates], row, row_count, first, count);
    }
  }

  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    return arguments.law.numbers[6] == 0 ? arguments.law.numbers[4] * V::kLanes * sizeof(std::uint32_t) : 0;
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* scratch,
                   const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const bool narrow_states = numbers[4] <= kNarrow, narrow_symbols = numbers[5] <= kNarrow;
    if (numbers[6] == 0) {
      for (std::size_t row = begin; row < end; row += V::kLanes) {
        fresh_rows(arguments, row, end - row < V::kLanes ? end - row : V::kLanes,
                   reinterpret_cast<std::uint32_t*>(scratch), cancelled);
      }
    } else if (numbers[7] > kNarrow) {
      all_rows<false, PairModel<false>>(arguments, begin, end, cancelled);
    } else if (numbers[7] > 0) {
      narrow_states&& narrow_symbols ? all_rows<true, PairModel<true>>(arguments, begin, end, cancelled)
                                     : all_rows<false, PairModel<true>>(arguments, begin, end, cancelled);
    } else if (narrow_states) {
      narrow_symbols ? all_rows<true, TwoTables<true, true>>(arguments, begin, end, cancelled)
                     : all_rows<false, TwoTables<true, false>>(arguments, begin, end, cancelled);
    } else {
      narrow_symbols ? all_rows<false, TwoTables<false, true>>(arguments, begin, end, cancelled)
                     : all_rows<false, TwoTables<false, false>>(arguments, begin, end, cancelled);
    }
  }
};

}  // namespace trajmill::laws::hidden_markov_model
