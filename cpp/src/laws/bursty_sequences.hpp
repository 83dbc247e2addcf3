// Bursty sequences: items with labels, and a query whose label is the target.
//
// numbers: key, classes, shots, ways, pairs, threshold of a burst, labels (0: the class's own). table: the law of
// classes (simd/weighted.hpp).
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/row_stream.hpp"
#include "simd/weighted.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::bursty_sequences {

inline constexpr std::uint64_t kMost = 32'768, kMostPairs = 4'096;  // tokens have 16 bits

inline void check(const simd::LawView& law) {
  require(law.number_count == 7 && law.table_count == 1, "bursty sequences have 7 numbers and a table");
  const std::uint64_t* const numbers = law.numbers;
  const auto within = [&](std::size_t at, std::uint64_t least, std::uint64_t most) {
    require(numbers[at] >= least && numbers[at] <= most, "number ", at, " of bursty sequences must be ", least, " to ",
            most, ", got ", numbers[at]);
  };
  within(1, 1, kMost);
  within(4, 1, kMostPairs);
  within(2, 1, numbers[4]);
  within(3, 1, numbers[4] / numbers[2]);
  within(5, 0, std::uint64_t{1} << 32);
  within(6, 0, kMost);
  require(numbers[3] + numbers[4] - numbers[2] * numbers[3] <= numbers[1],
          "bursty sequences must have a class for every way and for every pair beside them");
  require(numbers[6] == 0 || numbers[6] > numbers[4], "bursty sequences must have more labels than pairs");
  require(law.tables[0].size == numbers[1], "the table of bursty sequences must have ", numbers[1], " words, got ",
          law.tables[0].size);
}

template <class V>
struct Kernel {
  using Stream = simd::RowStream<V>;
  static constexpr std::size_t kChunk = Stream::kWords;

  struct Scratch {
    std::uint32_t* words;    // of the burst, the order and the labels, and up to the end of the chunk
    std::uint16_t* guide;    // of Weighted
    std::uint16_t* classes;  // of the pairs and the query; before, those of a burst
    std::uint16_t* chosen;
    std::uint16_t* tokens;  // of the row
    std::uint16_t* unused;  // labels, 0, 1, ... between rows
    std::uint16_t* drawn;   // where labels stood among them
    std::uint16_t* label;   // of a class, plus 1; 0 between rows
    std::uint8_t* taken;    // classes, 0 between rows
  };

  // Its parts one after another; how many bytes they take.
  static std::size_t parts(const simd::LawArguments& arguments, std::byte* memory, Scratch& scratch) {
    const std::size_t classes = arguments.law.numbers[1], items = arguments.law.numbers[4] + 1;
    std::size_t bytes = 0;
    const auto part = [&]<class T>(T*& pointer, std::size_t count) __attribute__((always_inline)) {
      pointer = reinterpret_cast<T*>(memory + bytes);
      bytes += count * sizeof(T);
    };
    part(scratch.words, (2 * items / kChunk + 1) * kChunk);
    part(scratch.guide, simd::Weighted::guide_size(classes));
    part(scratch.classes, items);
    part(scratch.chosen, items);
    part(scratch.tokens, 2 * items);
    part(scratch.unused, arguments.law.numbers[6]);
    part(scratch.drawn, items);
    part(scratch.label, classes);
    part(scratch.taken, classes);
    return bytes;
  }
  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    alignas(64) std::byte nothing[64];
    Scratch scratch;
    return parts(arguments, nothing, scratch);
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* memory,
                   const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const std::size_t class_count = numbers[1], shots = numbers[2], ways = numbers[3], pairs = numbers[4];
    const std::size_t label_count = numbers[6], size = 2 * pairs + 2;
    const std::size_t length = size < arguments.length ? size : arguments.length;
    const simd::RowsView &tokens = arguments.columns[simd::kTokens], &mask = arguments.columns[simd::kLossMask];
    Scratch scratch;
    parts(arguments, memory, scratch);
    std::uint16_t *const classes = scratch.classes, *const row_tokens = scratch.tokens;
    const simd::Weighted law(arguments.law.tables[0], scratch.guide);
    for (std::size_t k = 0; k < label_count; ++k) scratch.unused[k] = static_cast<std::uint16_t>(k);
    std::memset(scratch.label, 0, class_count * sizeof(std::uint16_t));
    std::memset(scratch.taken, 0, class_count);

    Stream stream(numbers[0]);
    const std::size_t first = 2 * pairs + 2;  // word that proposes a class
    std::uint32_t* const last_chunk = scratch.words + first / kChunk * kChunk;
    for (std::size_t row = begin; row < end && !cancelled.load(std::memory_order_relaxed); ++row) {
      stream.start(arguments.sequences[row]);
      for (std::size_t k = 0; k <= first; k += kChunk) {
        stream.draw_words(static_cast<std::uint32_t>(k / kChunk), scratch.words + k);
      }
      const auto word = [&](std::size_t k)
                            __attribute__((always_inline)) { return std::uint64_t{scratch.words[Stream::where(k)]}; };
      // The proposals write over the words of the last chunk, so what is before them there is used first.
      alignas(64) std::uint32_t words[kChunk];
      std::memcpy(words, last_chunk, sizeof(words));
      if (word(0) < numbers[5]) {
        const std::size_t others = pairs - ways * shots;
        simd::draw_distinct<V>(law, stream, first, ways + others, words, scratch.chosen, scratch.taken);
        for (std::size_t k = 0; k < ways * shots; ++k) classes[k] = scratch.chosen[k / shots];
        for (std::size_t k = 0; k < others; ++k) classes[ways * shots + k] = scratch.chosen[ways + k];
        for (std::size_t k = 0; k < pairs; ++k) {  // Fisher and Yates
          const std::size_t at = k + (word(1 + k) * (pairs - k) >> 32);
          const std::uint16_t here = classes[k];
          classes[k] = classes[at], classes[at] = here;
        }
        classes[pairs] = scratch.chosen[0];
      } else {
        for (std::size_t k = 0, number = first; k <= pairs; ++k) {
          classes[k] = static_cast<std::uint16_t>(law(words[Stream::where(number % kChunk)]));
          if (++number % kChunk == 0) stream.draw_words(static_cast<std::uint32_t>(number / kChunk), words);
        }
      }
      std::size_t labels = 0;
      for (std::size_t k = 0; k <= pairs; ++k) {
        std::size_t label = classes[k];
        if (label_count > 0) {
          std::uint16_t& given = scratch.label[classes[k]];
          if (given == 0) {
            const std::size_t at = labels + (word(1 + pairs + labels) * (label_count - labels) >> 32);
            given = static_cast<std::uint16_t>(scratch.unused[at] + 1);
            scratch.unused[at] = scratch.unused[labels];
            scratch.drawn[labels++] = static_cast<std::uint16_t>(at);
          }
          label = given - std::size_t{1};
        }
        row_tokens[2 * k] = classes[k];
        row_tokens[2 * k + 1] = static_cast<std::uint16_t>(class_count + label);
      }
      for (std::size_t k = 0; k < labels; ++k) scratch.unused[scratch.drawn[k]] = scratch.drawn[k];
      if (label_count > 0) {
        for (std::size_t k = 0; k <= pairs; ++k) scratch.label[classes[k]] = 0;
      }
      simd::write_values<V>(tokens, row, 0, row_tokens, length);
      simd::fill_values<V>(tokens, row, length, arguments.length - length, 0);
      if (mask.data == nullptr) continue;
      simd::fill_values<V>(mask, row, 0, arguments.length, 0);
      if (length == size) simd::fill_values<V>(mask, row, size - 1, 1, 1);
    }
  }
};

}  // namespace trajmill::laws::bursty_sequences
