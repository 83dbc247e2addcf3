// Elementary cellular automata: 64 cells of a ring to a word, the words of V::kLanes sequences side by side.
//
// numbers: key of the cells, key of the tasks, cells, first cell and cells of the window, stride, burn_in,
// row_separator, sequences_per_task (0: a rule is drawn for each). tables: the rules.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::cellular_automaton {

inline constexpr std::size_t kNumbers = 9;
inline constexpr std::uint64_t kMost = 1 << 16;  // cells, steps between rows, steps before them

inline void check(const simd::LawView& law) {
  require(law.number_count == kNumbers && law.table_count == 1, "a cellular automaton has ", kNumbers,
          " numbers and a table of rules");
  const auto within = [&](std::size_t at, std::uint64_t least, std::uint64_t most) {
    require(law.numbers[at] >= least && law.numbers[at] <= most, "number ", at, " of a cellular automaton must be ",
            least, " to ", most, ", got ", law.numbers[at]);
  };
  within(2, 1, kMost);
  within(3, 0, law.numbers[2] - 1);
  within(4, 1, law.numbers[2] - law.numbers[3]);
  within(5, 1, kMost);
  within(6, 0, kMost);
  within(7, 0, 1);
  require(law.tables[0].size >= 1 && law.tables[0].size <= 256, "a cellular automaton has 1 to 256 rules, got ",
          law.tables[0].size);
  for (std::size_t k = 0; k < law.tables[0].size; ++k) {
    require(law.tables[0].words[k] < 256, "a rule must be below 256, got ", law.tables[0].words[k]);
  }
}

template <class V>
struct Kernel {
  static constexpr std::size_t kRows = V::kLanes;
  using Word = std::uint64_t;

  // A word more than hold the cells and the copy of cell 0 behind them: windows are read in whole words.
  static std::size_t word_count(const simd::LawArguments& arguments) { return arguments.law.numbers[2] / 64 + 2; }

  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    return word_count(arguments) * kRows * sizeof(Word);
  }

  // Cell c of a sequence is bit c % 32 of word c / 32 of its stream.
  static void start(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, Word* cells) {
    const simd::SharedKeys<V> keys(arguments.law.numbers[0]);
    simd::Stream<V> stream;
    stream.start(arguments.law.numbers[0], simd::load_sequences<V>(arguments.sequences, row, row_count));
    const std::size_t words = word_count(arguments);
    for (std::size_t word = 0; word < words; word += 2) {
      typename V::Pair drawn[4];
      stream.draw(keys, word / 2, drawn);
      for (std::size_t half = 0; half < 2 && word + half < words; ++half) {
        alignas(64) std::uint32_t low[kRows], high[kRows];
        V::store(low, V::pack_low(drawn[2 * half]));
        V::store(high, V::pack_low(drawn[2 * half + 1]));
        for (std::size_t lane = 0; lane < kRows; ++lane) {
          cells[(word + half) * kRows + lane] = low[lane] | Word{high[lane]} << 32;
        }
      }
    }
  }

  // The number of each sequence's rule in the list of rules.
  static void choose_rules(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count,
                           std::uint64_t (&tasks)[kRows]) {
    const std::uint64_t count = arguments.law.tables[0].size, period = arguments.law.numbers[8];
    if (period != 0) {
      for (std::size_t lane = 0; lane < kRows; ++lane) {
        tasks[lane] = arguments.sequences[row + (lane < row_count ? lane : row_count - 1)] / period % count;
      }
      return;
    }
    simd::Stream<V> stream;
    stream.start(arguments.law.numbers[1], simd::load_sequences<V>(arguments.sequences, row, row_count));
    typename V::Pair drawn[4];
    stream.draw(simd::SharedKeys<V>(arguments.law.numbers[1]), 0, drawn);
    alignas(64) std::uint32_t high[kRows], low[kRows];
    V::store(high, V::pack_low(drawn[0]));
    V::store(low, V::pack_low(drawn[1]));
    for (std::size_t lane = 0; lane < kRows; ++lane)
      tasks[lane] = (high[lane] * count + (low[lane] * count >> 32)) >> 32;
  }

  // One step of every sequence. rules[n] is all ones where the rule makes neighbourhood n a one.
  static void advance(std::size_t cell_count, const Word (&rules)[8][kRows], Word* cells) {
    const std::size_t last = (cell_count - 1) / 64, behind = cell_count / 64;
    const unsigned last_bit = (cell_count - 1) % 64, behind_bit = cell_count % 64;
    Word before[kRows];  // in bit 63, the cell left of the word
    for (std::size_t lane = 0; lane < kRows; ++lane) {
      before[lane] = cells[last * kRows + lane] << (63 - last_bit);
      Word& beyond = cells[behind * kRows + lane];
      beyond = (beyond & ~(Word{1} << behind_bit)) | (cells[lane] & 1) << behind_bit;  // the ring closes
    }
    for (std::size_t word = 0; word <= last; ++word) {
      Word* const here = cells + word * kRows;
      for (std::size_t lane = 0; lane < kRows; ++lane) {
        const Word cell = here[lane];
        const Word left = cell << 1 | before[lane] >> 63, right = cell >> 1 | here[kRows + lane] << 63;
        const auto choose = [](Word by, Word one, Word zero) { return zero ^ ((zero ^ one) & by); };
        const auto of_pair = [&](int pair) __attribute__((always_inline)) {
          return choose(cell, choose(right, rules[pair + 3][lane], rules[pair + 2][lane]),
                        choose(right, rules[pair + 1][lane], rules[pair][lane]));
        };
        here[lane] = choose(left, of_pair(4), of_pair(0));
        before[lane] = cell;
      }
    }
  }

  // 64 bits as bytes of 0 and 1.
  static TRAJMILL_INLINE void spread(Word bits, std::uint8_t* out) {
#if defined(__AVX2__)
    const __m256i each = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    const __m256i ones = _mm256_set1_epi8(1);
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i all = _mm256_set1_epi32(static_cast<int>(bits >> (32 * half)));
      const __m256i mine = _mm256_and_si256(_mm256_shuffle_epi8(all, byte_of), each);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * half), _mm256_min_epu8(mine, ones));
    }
#else
    for (int k = 0; k < 64; k += 8) {
      const Word mine = (bits >> k & 0xFF) * 0x0101010101010101 & 0x8040201008040201;  // bit j of byte j
      const Word bytes = (mine + 0x00406070787C7E7F) >> 7 & 0x0101010101010101;
      __builtin_memcpy(out + k, &bytes, 8);
    }
#endif
  }

  // Cells [first, first + count) of the sequence in lane 0 of `cells`, and up to 63 numbers behind them before `end`.
  template <class T>
  static TRAJMILL_INLINE void write_cells(const Word* cells, std::size_t first, std::size_t count, T* out, T* end) {
    const unsigned shift = first % 64;
    for (cells += first / 64 * kRows;; cells += kRows, out += 64, count -= 64) {
      const Word bits = cells[0] >> shift | cells[kRows] << 1 << (63 - shift);
      if (sizeof(T) == 1 && end - out >= 64) {
        spread(bits, reinterpret_cast<std::uint8_t*>(out));
      } else {
        std::uint8_t bytes[64];
        spread(bits, bytes);
        const std::size_t here = count < 64 ? count : 64;
        if (sizeof(T) == 1 && here >= 8) {
          for (std::size_t k = 0; k + 8 < here; k += 8) __builtin_memcpy(out + k, bytes + k, 8);
          __builtin_memcpy(out + here - 8, bytes + here - 8, 8);
        } else {
          for (std::size_t k = 0; k < here; ++k) out[k] = static_cast<T>(bytes[k]);
        }
      }
      if (count <= 64) return;
    }
  }

  // The part of a visible row that lies in tokens [at, at + ...) of a sequence, and its separator.
  template <class T>
  static void write_row(const simd::LawArguments& arguments, const Word* cells, std::size_t row, std::size_t at) {
    const simd::RowsView& rows = arguments.columns[simd::kTokens];
    const std::size_t left = arguments.length - at, width = arguments.law.numbers[4];
    T* const out = reinterpret_cast<T*>(rows.data + row * rows.row_bytes) + at;
    write_cells(cells, arguments.law.numbers[3], width < left ? width : left, out, out + left);
    if (arguments.law.numbers[7] != 0 && width < left) out[width] = 2;
  }

  template <class T>
  static void fill(const simd::RowsView& rows, std::size_t row, std::size_t at, std::size_t count,
                   std::uint64_t number) {
    T* const out = reinterpret_cast<T*>(rows.data + row * rows.row_bytes) + at;
    for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<T>(number);
  }

  static void fill(const simd::RowsView& rows, std::size_t row, std::size_t at, std::size_t count,
                   std::uint64_t number) {
    switch (rows.element_size) {
      case 1: return fill<std::uint8_t>(rows, row, at, count, number);
      case 2: return fill<std::uint16_t>(rows, row, at, count, number);
      case 4: return fill<std::uint32_t>(rows, row, at, count, number);
      default: return fill<std::uint64_t>(rows, row, at, count, number);
    }
  }

  template <class T>
  static void draw_rows(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, Word* cells,
                        const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    std::uint64_t tasks[kRows];
    choose_rules(arguments, row, row_count, tasks);
    alignas(64) Word rules[8][kRows];
    for (std::size_t lane = 0; lane < kRows; ++lane) {
      const std::uint32_t rule = arguments.law.tables[0].words[tasks[lane]];
      for (int n = 0; n < 8; ++n) rules[n][lane] = (rule >> n & 1) != 0 ? ~Word{0} : 0;
    }
    if (arguments.columns[simd::kTask].data != nullptr) {
      for (std::size_t lane = 0; lane < row_count; ++lane) {
        fill(arguments.columns[simd::kTask], row + lane, 0, 1, tasks[lane]);
      }
    }
    start(arguments, row, row_count, cells);
    const std::size_t row_tokens = numbers[4] + numbers[7];
    std::uint64_t steps = numbers[6], number = 0;
    for (std::size_t at = 0; at < arguments.length; at += row_tokens, steps = numbers[5]) {
      number += steps;
      for (; steps > 0; --steps) {
        if (cancelled.load(std::memory_order_relaxed)) return;
        advance(numbers[2], rules, cells);
      }
      for (std::size_t lane = 0; lane < row_count; ++lane) {
        write_row<T>(arguments, cells + lane, row + lane, at);
        if (arguments.columns[simd::kStates].data == nullptr) continue;
        const std::size_t left = arguments.length - at;
        fill(arguments.columns[simd::kStates], row + lane, at, row_tokens < left ? row_tokens : left, number);
      }
    }
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* scratch,
                   const std::atomic<bool>& cancelled) {
    auto* const cells = reinterpret_cast<Word*>(scratch);
    for (; begin < end && !cancelled.load(std::memory_order_relaxed); begin += kRows) {
      const std::size_t count = end - begin < kRows ? end - begin : kRows;
      switch (arguments.columns[simd::kTokens].element_size) {
        case 1: draw_rows<std::uint8_t>(arguments, begin, count, cells, cancelled); break;
        case 2: draw_rows<std::uint16_t>(arguments, begin, count, cells, cancelled); break;
        case 4: draw_rows<std::uint32_t>(arguments, begin, count, cells, cancelled); break;
        default: draw_rows<std::uint64_t>(arguments, begin, count, cells, cancelled);
      }
    }
  }
};

}  // namespace trajmill::laws::cellular_automaton
