// Associative recall: pairs of a key and a value, then every key once more with its value after it.
//
// numbers: key, vocabulary, pairs, uniform_filler. table: for every place of a query but the last, how many of the 2^32
// words propose it or one before it; then 0.
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/row_stream.hpp"
#include "simd/weighted.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::associative_recall {

inline constexpr std::uint64_t kLargestVocabulary = 65'536, kMostPlaces = 65'536;

inline void check(const simd::LawView& law) {
  require(law.number_count == 4 && law.table_count == 1, "associative recall has 4 numbers and a table");
  const std::uint64_t* const numbers = law.numbers;
  require(numbers[1] >= 4 && numbers[1] <= kLargestVocabulary, "the vocabulary of associative recall must be 4 to ",
          kLargestVocabulary, ", got ", numbers[1]);
  require(numbers[2] >= 1 && numbers[2] < numbers[1] / 2, "pairs of associative recall must be 1 to ",
          numbers[1] / 2 - 1, ", got ", numbers[2]);
  require(numbers[3] <= 1, "the filler of associative recall must be 0 or 1, got ", numbers[3]);
  require(law.tables[0].size >= numbers[2] && law.tables[0].size <= kMostPlaces,
          "places of associative recall must be ", numbers[2], " to ", kMostPlaces, ", got ", law.tables[0].size);
}

template <class V>
struct Kernel {
  using Stream = simd::RowStream<V>;
  static constexpr std::size_t kChunk = Stream::kWords;

  // The word from which on places are proposed, and the chunk from which on fillers are drawn.
  static constexpr std::size_t kFirstProposal = std::size_t{4} << 30;
  static constexpr std::uint32_t kFillerChunk = (std::uint32_t{1} << 31) / V::kLanes;

  struct Scratch {
    std::uint16_t* guide;      // of Weighted
    std::uint32_t* words;      // of all keys and values
    std::uint16_t* unused[2];  // keys and values: 0, 1, ... between rows
    std::uint16_t* drawn;      // where the keys stood among them, and the values
    std::uint16_t* place;      // of every query
    std::uint16_t* tokens;     // of the row
    std::uint8_t* taken;       // places, 0 between rows
  };

  // Its parts one after another; how many bytes they take.
  static std::size_t parts(const simd::LawArguments& arguments, std::byte* memory, Scratch& scratch) {
    const std::size_t vocabulary = arguments.law.numbers[1], pairs = arguments.law.numbers[2];
    const std::size_t places = arguments.law.tables[0].size;
    std::size_t bytes = 0;
    const auto part = [&]<class T>(T*& pointer, std::size_t count) __attribute__((always_inline)) {
      pointer = reinterpret_cast<T*>(memory + bytes);
      bytes += count * sizeof(T);
    };
    part(scratch.words, (2 * pairs + kChunk) / kChunk * kChunk);
    part(scratch.guide, simd::Weighted::guide_size(places));
    part(scratch.unused[0], vocabulary);
    part(scratch.unused[1], vocabulary);
    part(scratch.drawn, 2 * pairs);
    part(scratch.place, pairs);
    part(scratch.tokens, 2 * pairs + 2 * places + kChunk);
    part(scratch.taken, places);
    return bytes;
  }
  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    alignas(64) std::byte nothing[64];
    Scratch scratch;
    return parts(arguments, nothing, scratch);
  }

  // Writes, by as many words from the `first` on, `pairs` different numbers below `count` to every second place of
  // `out`, each plus `least`: the first of a shuffle by Fisher and Yates.
  static TRAJMILL_INLINE void shuffle(const std::uint32_t* words, std::size_t first, std::size_t pairs,
                                      std::size_t count, std::size_t least, std::uint16_t* unused, std::uint16_t* drawn,
                                      std::uint16_t* out) {
    for (std::size_t k = 0; k < pairs; ++k) {
      const std::size_t at = k + (words[Stream::where(first + k)] * std::uint64_t{count - k} >> 32);
      out[2 * k] = static_cast<std::uint16_t>(least + unused[at]);
      unused[at] = unused[k];
      drawn[k] = static_cast<std::uint16_t>(at);
    }
    for (std::size_t k = 0; k < pairs; ++k) unused[drawn[k]] = drawn[k];
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* memory,
                   const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const std::size_t vocabulary = numbers[1], pairs = numbers[2], places = arguments.law.tables[0].size;
    const simd::RowsView &tokens = arguments.columns[simd::kTokens], &mask = arguments.columns[simd::kLossMask];
    const std::size_t size = 2 * pairs + 2 * places, length = size < arguments.length ? size : arguments.length;
    Scratch scratch;
    parts(arguments, memory, scratch);
    const simd::Weighted law(arguments.law.tables[0], scratch.guide);
    for (std::size_t k = 0; k < vocabulary; ++k) {
      scratch.unused[0][k] = scratch.unused[1][k] = static_cast<std::uint16_t>(k);
    }
    std::memset(scratch.taken, 0, places);

    Stream stream(numbers[0]);
    std::uint16_t* const row_tokens = scratch.tokens;
    for (std::size_t row = begin; row < end && !cancelled.load(std::memory_order_relaxed); ++row) {
      stream.start(arguments.sequences[row]);
      if (numbers[3] != 0) {
        for (std::size_t k = 2 * pairs / kChunk * kChunk; k < size; k += kChunk) {
          const std::uint32_t chunk = kFillerChunk + static_cast<std::uint32_t>(k / kChunk);
          stream.draw_choices(chunk, static_cast<std::uint32_t>(vocabulary), 0, row_tokens + k);
        }
      } else {
        std::memset(row_tokens + 2 * pairs, 0, 2 * places * sizeof(std::uint16_t));
      }
      for (std::size_t k = 0; k < 2 * pairs; k += kChunk) {
        stream.draw_words(static_cast<std::uint32_t>(k / kChunk), scratch.words + k);
      }
      const std::size_t half = vocabulary / 2;
      shuffle(scratch.words, 0, pairs, half - 1, 1, scratch.unused[0], scratch.drawn, row_tokens);
      shuffle(scratch.words, pairs, pairs, vocabulary - half, half, scratch.unused[1], scratch.drawn, row_tokens + 1);
      alignas(64) std::uint32_t words[kChunk];
      stream.draw_words(kFirstProposal / kChunk, words);
      simd::draw_distinct<V>(law, stream, kFirstProposal, pairs, words, scratch.place, scratch.taken);
      for (std::size_t k = 0; k < pairs; ++k) {
        std::memcpy(row_tokens + 2 * (pairs + scratch.place[k]), row_tokens + 2 * k, 2 * sizeof(std::uint16_t));
      }
      simd::write_values<V>(tokens, row, 0, row_tokens, length);
      simd::fill_values<V>(tokens, row, length, arguments.length - length, 0);
      if (mask.data == nullptr) continue;
      simd::fill_values<V>(mask, row, 0, arguments.length, 0);
      simd::at(mask, row, 0, [&]<class T>(T* out) {
        for (std::size_t k = 0; k < pairs; ++k) {
          const std::size_t value = 2 * (pairs + scratch.place[k]) + 1;
          if (value < length) out[value] = 1;
        }
      });
    }
  }
};

}  // namespace trajmill::laws::associative_recall
