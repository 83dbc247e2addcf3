// Context-free grammars: a stack of what waits to be expanded. Some sequences advance by turns, so that the look-ups of
// one hide behind those of the others; the words of a sequence are drawn V::kLanes blocks at a time.
//
// numbers: key, and the symbol that begins every sentence.
// tables: symbols, four words each: first rule, rules, threshold of the first rule, 0. Rules, eight words each: four
// tokens and then four symbols of 16 bits, the symbol to expand first being the last; tokens | symbols << 16;
// threshold; 0; 0. A rule first writes its tokens. A choice takes the first rule whose threshold exceeds the word, or
// the last one; a symbol of one rule makes no choice.
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::context_free_grammar {

inline constexpr std::size_t kNumbers = 2, kSymbolWords = 4, kRuleWords = 8;
inline constexpr std::uint32_t kMost = 4;  // tokens of a rule, and symbols
inline constexpr std::size_t kSymbols = 1 << 16;
inline constexpr std::uint32_t kWaiting = 1 << 16;  // symbols; of more the nearest half of this many stay

inline void check(const simd::LawView& law) {
  require(law.number_count == kNumbers && law.table_count == 2, "a grammar has ", kNumbers, " numbers and two tables");
  const simd::LawTable &symbols = law.tables[0], &rules = law.tables[1];
  const std::size_t symbol_count = symbols.size / kSymbolWords, rule_count = rules.size / kRuleWords;
  require(symbols.size % kSymbolWords == 0 && rules.size % kRuleWords == 0 && symbol_count <= kSymbols &&
              rule_count <= 0xFFFFFFFF,
          "a grammar must have at most ", kSymbols, " symbols and 2^32 rules, got ", symbol_count, " and ", rule_count);
  require(law.numbers[1] < symbol_count, "the first symbol must be below ", symbol_count, ", got ", law.numbers[1]);
  for (std::size_t k = 0; k < symbol_count; ++k) {
    const std::uint64_t first = symbols.words[k * kSymbolWords], count = symbols.words[k * kSymbolWords + 1];
    require(count > 0 && first + count <= rule_count, "symbol ", k, " must have rules below ", rule_count, ", got ",
            first, " to ", first + count);
  }
  for (std::size_t k = 0; k < rule_count; ++k) {
    const std::uint32_t* const rule = rules.words + k * kRuleWords;
    const std::uint32_t tokens = rule[4] & 0xFFFF, pushed = rule[4] >> 16;
    require(tokens <= kMost && pushed <= kMost, "rule ", k, " must have at most ", kMost, " tokens and symbols, got ",
            tokens, " and ", pushed);
    for (std::uint32_t j = 0; j < pushed; ++j) {
      const std::uint32_t symbol = rule[2 + j / 2] >> 16 * (j % 2) & 0xFFFF;
      require(symbol < symbol_count, "rule ", k, " names symbol ", symbol, " of ", symbol_count);
    }
  }
}

template <class V>
struct Kernel {
  using Pair = typename V::Pair;

  static constexpr int kTurns = 4;             // sequences that advance by turns
  static constexpr std::size_t kChunk = 1024;  // tokens that are written together
  static constexpr std::uint32_t kWords = 4 * V::kLanes;

  struct Sequence {
    alignas(64) std::uint32_t words[kWords];
    std::uint16_t tokens[kChunk + kMost];  // a rule writes room for four
    std::uint16_t stack[kWaiting + kMost];
    std::uint64_t number;
  };

  struct Grammar {
    const std::uint32_t *symbols, *rules;
    simd::SharedKeys<V> keys;
  };

  static std::size_t scratch_bytes(const simd::LawArguments&) { return kTurns * sizeof(Sequence); }

  // Words choice, choice + 1, ... of a sequence, `choice` a multiple of kWords: word j of block b at [j][b].
  static void draw_words(const simd::SharedKeys<V>& keys, Sequence& sequence, std::uint64_t choice) {
    alignas(64) std::uint32_t blocks[V::kLanes];
    for (std::uint32_t k = 0; k < V::kLanes; ++k) blocks[k] = static_cast<std::uint32_t>(choice / 4) + k;
    const auto same = [](std::uint64_t value) { return V::same(V::half(static_cast<std::uint32_t>(value))); };
    Pair words[4] = {V::spread(V::load(blocks)), same(sequence.number), same(sequence.number >> 32),
                     same(choice / 4 >> 32)};
    simd::philox_rounds<V, 0, kPhiloxRounds>(keys, words);
    for (std::size_t j = 0; j < 4; ++j) V::store(sequence.words + j * V::kLanes, V::pack_low(words[j]));
  }

  // Among three rules and more: the first whose threshold exceeds the word.
  static std::uint32_t search(const std::uint32_t* rules, std::uint32_t first, std::uint32_t count,
                              std::uint32_t word) {
    std::uint32_t low = first, high = first + count - 1;
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (rules[std::size_t{middle} * kRuleWords + 5] <= word) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // Where a sequence stands.
  struct Place {
    std::uint32_t waiting, filled;
    std::uint64_t choice;
  };

  // Expands what waits at the top.
  static TRAJMILL_INLINE void expand(const Grammar& grammar, Sequence& sequence, Place& place) {
    const std::uint32_t* const symbol = grammar.symbols + std::size_t{sequence.stack[place.waiting - 1]} * kSymbolWords;
    const std::uint32_t count = symbol[1];
    if (place.choice % kWords == 0 && count > 1) draw_words(grammar.keys, sequence, place.choice);
    const auto at = static_cast<std::uint32_t>(place.choice);
    const std::uint32_t word = sequence.words[at % 4 * V::kLanes + at / 4 % V::kLanes];
    std::uint32_t rule_number = symbol[0] + static_cast<std::uint32_t>(count > 1 && word >= symbol[2]);
    if (count > 2) rule_number = search(grammar.rules, symbol[0], count, word);
    place.choice += count > 1;

    const std::uint32_t* const rule = grammar.rules + std::size_t{rule_number} * kRuleWords;
    __builtin_memcpy(sequence.tokens + place.filled, rule, 8);
    __builtin_memcpy(sequence.stack + place.waiting - 1, rule + 2, 8);
    place.filled += rule[4] & 0xFFFF;
    place.waiting += (rule[4] >> 16) - 1;
  }

  // What is left to do after that: the next sentence, or too many symbols that wait.
  static TRAJMILL_INLINE void settle(Sequence& sequence, Place& place, std::uint16_t begin) {
    if (place.waiting == 0) sequence.stack[place.waiting++] = begin;
    if (place.waiting > kWaiting) {
      for (std::uint32_t k = 0; k < kWaiting / 2; ++k) {
        sequence.stack[k] = sequence.stack[place.waiting - kWaiting / 2 + k];
      }
      place.waiting = kWaiting / 2;
    }
  }

  template <class T>
  static void write_as(const simd::RowsView& rows, std::size_t row, std::size_t column, std::size_t count,
                       const std::uint16_t* tokens) {
    T* const out = reinterpret_cast<T*>(rows.data + row * rows.row_bytes) + column;
    for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<T>(tokens[k]);
  }

  static void write(const simd::RowsView& rows, std::size_t row, std::size_t column, std::size_t count,
                    const std::uint16_t* tokens) {
    switch (rows.element_size) {
      case 1: return write_as<std::uint8_t>(rows, row, column, count, tokens);
      case 2: return write_as<std::uint16_t>(rows, row, column, count, tokens);
      case 4: return write_as<std::uint32_t>(rows, row, column, count, tokens);
      default: return write_as<std::uint64_t>(rows, row, column, count, tokens);
    }
  }

  template <int Turns>
  static void rows(const simd::LawArguments& arguments, const Grammar& grammar, std::size_t row, Sequence* sequences,
                   const std::atomic<bool>& cancelled) {
    const auto begin = static_cast<std::uint16_t>(arguments.law.numbers[1]);
    Place places[Turns];
    for (int k = 0; k < Turns; ++k) {
      sequences[k].number = arguments.sequences[row + static_cast<std::size_t>(k)];
      sequences[k].stack[0] = begin;
      places[k] = {1, 0, 0};
    }
    for (std::size_t first = 0; first < arguments.length; first += kChunk) {
      const std::size_t left = arguments.length - first;
      const auto wanted = static_cast<std::uint32_t>(left < kChunk ? left : kChunk);
      std::uint32_t turn = 0;
      const auto go_on = [&](int k) __attribute__((always_inline)) {
        expand(grammar, sequences[k], places[k]);
        settle(sequences[k], places[k], begin);
        return places[k].filled < wanted;
      };
      const auto stopped = [&]() __attribute__((always_inline)) {
        return ++turn % 1024 == 0 && cancelled.load(std::memory_order_relaxed);
      };
      bool all = true;
      for (int k = 0; k < Turns; ++k) all = all && places[k].filled < wanted;
      while (all) {
        if (stopped()) return;
#pragma GCC unroll 4
        for (int k = 0; k < Turns; ++k) all = static_cast<bool>(all & go_on(k));
      }
      for (int k = 0; k < Turns; ++k) {
        while (places[k].filled < wanted) {
          if (stopped()) return;
          go_on(k);
        }
        write(arguments.columns[simd::kTokens], row + static_cast<std::size_t>(k), first, wanted, sequences[k].tokens);
        places[k].filled -= wanted;
        for (std::uint32_t j = 0; j < places[k].filled; ++j) sequences[k].tokens[j] = sequences[k].tokens[wanted + j];
      }
    }
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* scratch,
                   const std::atomic<bool>& cancelled) {
    auto* const sequences = reinterpret_cast<Sequence*>(scratch);
    const Grammar grammar{arguments.law.tables[0].words, arguments.law.tables[1].words,
                          simd::SharedKeys<V>(arguments.law.numbers[0])};
    std::size_t row = begin;
    for (; row + kTurns <= end && !cancelled.load(std::memory_order_relaxed); row += kTurns) {
      rows<kTurns>(arguments, grammar, row, sequences, cancelled);
    }
    for (; row < end && !cancelled.load(std::memory_order_relaxed); ++row) {
      rows<1>(arguments, grammar, row, sequences, cancelled);
    }
  }
};

}  // namespace trajmill::laws::context_free_grammar
