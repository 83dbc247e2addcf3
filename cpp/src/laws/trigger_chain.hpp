// A chain of order 1 in which each sequence has triggers of its own, and after each of them a token of its own.
//
// numbers: keys of the tokens and of the triggers, states, triggers. tables: alias cells, of the first token and then
// of the token after each state; the law of triggers (simd/weighted.hpp).
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "simd/weighted.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::trigger_chain {

inline constexpr std::uint64_t kMostStates = 256, kMostTriggers = 64;

inline void check(const simd::LawView& law) {
  require(law.number_count == 4 && law.table_count == 2, "a trigger chain has four numbers and two tables");
  const std::uint64_t states = law.numbers[2], triggers = law.numbers[3];
  require(states >= 1 && states <= kMostStates, "a trigger chain has 1 to ", kMostStates, " states, got ", states);
  require(triggers >= 1 && triggers <= states && triggers <= kMostTriggers, "a trigger chain of ", states,
          " states has 1 to ", states < kMostTriggers ? states : kMostTriggers, " triggers, got ", triggers);
  const simd::LawTable &cells = law.tables[0], &weights = law.tables[1];
  require(cells.size == (states + 1) * states, "the cells of a trigger chain must be ", (states + 1) * states, ", got ",
          cells.size);
  for (std::size_t at = 0; at < cells.size; ++at)
    require((cells.words[at] & 0xFF) < states, "an alias of a trigger chain must be below ", states);
  require(weights.size == states, "the law of triggers of a trigger chain must have ", states, " words, got ",
          weights.size);
}

template <class V>
struct Kernel {
  using Vec = typename V::Vec;
  using Mask = typename V::Mask;
  using Stream = simd::RowStream<V>;

  // Of all rows that are drawn together; digits are tokens plus 1.
  struct Scratch {
    alignas(64) std::uint32_t triggers[kMostTriggers][V::kGroups * V::kLanes];  // digits
    alignas(64) std::uint32_t outputs[kMostTriggers][V::kGroups * V::kLanes];   // digits
    alignas(64) std::uint32_t words[kMostTriggers + Stream::kWords];            // of one row
    std::uint16_t guide[16 * kMostStates];                                      // of Weighted
    std::uint16_t chosen[kMostTriggers];
    std::uint8_t taken[kMostStates];  // states, 0 between rows
  };

  static std::size_t scratch_bytes(const simd::LawArguments&) { return sizeof(Scratch); }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* memory,
                   const std::atomic<bool>& cancelled) {
    std::memset(memory, 0, sizeof(Scratch));  // lanes without a row have no triggers, and stay within the table
    auto& scratch = *reinterpret_cast<Scratch*>(memory);
    const simd::Weighted weights(arguments.law.tables[1], scratch.guide);
    return arguments.columns[simd::kLossMask].data != nullptr
               ? draw_all<true>(arguments, weights, begin, end, scratch, cancelled)
               : draw_all<false>(arguments, weights, begin, end, scratch, cancelled);
  }

 private:
  template <bool masked>
  static void draw_all(const simd::LawArguments& arguments, const simd::Weighted& weights, std::size_t begin,
                       std::size_t end, Scratch& scratch, const std::atomic<bool>& cancelled) {
    simd::split_rows<V, V::kGroups>(
        begin, end,
        [&](std::size_t row, std::size_t count) {
          draw_triggers(arguments, weights, row, count, scratch);
          draw_tokens<masked, V::kGroups>(arguments, row, count, scratch, cancelled);
        },
        [&](std::size_t row, std::size_t count) {
          draw_triggers(arguments, weights, row, count, scratch);
          draw_tokens<masked, 1>(arguments, row, count, scratch, cancelled);
        });
  }

  // Word j of a row chooses output j; those after them propose triggers.
  static void draw_triggers(const simd::LawArguments& arguments, const simd::Weighted& weights, std::size_t row,
                            std::size_t row_count, Scratch& scratch) {
    const std::uint64_t states = arguments.law.numbers[2], count = arguments.law.numbers[3];
    const std::size_t last_chunk = count / Stream::kWords * Stream::kWords;
    Stream stream(arguments.law.numbers[1]);
    for (std::size_t lane = 0; lane < row_count; ++lane) {
      stream.start(arguments.sequences[row + lane]);
      for (std::size_t first = 0; first <= last_chunk; first += Stream::kWords) {
        stream.draw_words(static_cast<std::uint32_t>(first / Stream::kWords), scratch.words + first);
      }
      for (std::size_t j = 0; j < count; ++j) {
        scratch.outputs[j][lane] = static_cast<std::uint32_t>(scratch.words[Stream::where(j)] * states >> 32) + 1;
      }
      simd::draw_distinct<V>(weights, stream, count, count, scratch.words + last_chunk, scratch.chosen, scratch.taken);
      for (std::size_t j = 0; j < count; ++j) scratch.triggers[j][lane] = scratch.chosen[j] + std::uint32_t{1};
    }
  }

  template <bool masked, int Groups>
  static void draw_tokens(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count,
                          const Scratch& scratch, const std::atomic<bool>& cancelled) {
    const simd::LawView& law = arguments.law;
    const simd::TableView table{law.tables[0].words, static_cast<std::uint32_t>(law.numbers[2]), true};
    const std::size_t triggers = law.numbers[3];
    const simd::SharedKeys<V> keys(law.numbers[0]);
    const Vec none = V::vec(0), one = V::vec(1);

    simd::Stream<V> stream[Groups];
    Vec last[Groups];                             // the digit of the last token
    Vec met[masked ? kMostTriggers : 1][Groups];  // 1 where the trigger has come
    for (int g = 0; g < Groups; ++g) {
      stream[g].start(law.numbers[0], simd::load_group<V>(arguments.sequences, row, row_count, g));
      last[g] = none;
      if constexpr (masked) {
        for (std::size_t j = 0; j < triggers; ++j) met[j][g] = none;
      }
    }
    simd::Tile<V, true, Groups> tokens, mask;
    for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
         first += tokens.kSteps) {
      const std::size_t left = arguments.length - first;
      for (int block = 0; block < tokens.kSteps && static_cast<std::size_t>(block) < left; block += 4) {
        simd::Words<V, true> words[Groups];
        for (int g = 0; g < Groups; ++g) words[g].draw(keys, stream[g], first + static_cast<std::size_t>(block));
        simd::for_each_step([&](int step) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int g = 0; g < Groups; ++g) {
            const simd::Draw<V, true> drawn(table, last[g], words[g], step);
            const std::size_t lanes = static_cast<std::size_t>(g) * V::kLanes;
            Vec output = none, target = none;
            for (std::size_t j = 0; j < triggers; ++j) {
              const Mask here = V::equal(last[g], V::load(scratch.triggers[j] + lanes));
              output = V::select(here, V::load(scratch.outputs[j] + lanes), output);
              if constexpr (masked) {
                target = V::select(here, met[j][g], target);
                met[j][g] = V::select(here, one, met[j][g]);
              }
            }
            const Vec next = V::add(drawn.value(table), one);
            last[g] = V::select(V::equal(output, none), next, output);
            tokens.put(block + step, g, V::subtract(last[g], one));
            if constexpr (masked) mask.put(block + step, g, target);
          }
        });
      }
      const std::size_t count = left < tokens.kSteps ? left : tokens.kSteps;
      tokens.write(arguments.columns[simd::kTokens], row, row_count, first, count);
      if constexpr (masked) mask.write(arguments.columns[simd::kLossMask], row, row_count, first, count);
    }
  }
};

}  // namespace trajmill::laws::trigger_chain
