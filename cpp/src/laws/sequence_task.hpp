// Sequence tasks: an input of uniform tokens, a separator, and what a rule makes of the input.
//
// numbers: key, task (the order of Task, which is that of the Python class), alphabet, shortest input, longest input,
// pack.
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/row_stream.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::sequence_task {

enum class Task : std::uint64_t {
  copy,
  reverse,
  sort,
  set,
  deduplicate,
  duplicate,
  set_union,
  difference,
  intersect,
  remove,
  search,
  count,
  first,
  last,
  stack,
};

inline constexpr std::uint64_t kLargestAlphabet = 65'534, kLongestInput = 65'536;  // tokens have 16 bits

inline void check(const simd::LawView& law) {
  require(law.number_count == 6 && law.table_count == 0, "a sequence task has 6 numbers and no table");
  const auto within = [&](std::size_t at, std::uint64_t least, std::uint64_t most) {
    require(law.numbers[at] >= least && law.numbers[at] <= most, "number ", at, " of a sequence task must be ", least,
            " to ", most, ", got ", law.numbers[at]);
  };
  within(1, 0, static_cast<std::uint64_t>(Task::stack));
  const bool stack = law.numbers[1] == static_cast<std::uint64_t>(Task::stack);
  within(2, stack ? 3 : 2, kLargestAlphabet);
  within(4, 0, kLongestInput);
  within(3, stack ? 3 : 0, law.numbers[4]);
  within(5, 0, 1);
}

template <class V>
struct Kernel {
  using Stream = simd::RowStream<V>;
  static constexpr std::size_t kChunk = Stream::kWords;

  // What the making of one example needs.
  template <class Token>
  struct Scratch {
    std::uint32_t* words;   // of an input and of what stands beside it on its chunks
    std::uint32_t* counts;  // 256
    std::uint16_t* places;  // an input's length
    std::uint8_t* seen;     // one for each token: the stamp of the last example that saw it
    Token* free;            // in ascending order, all tokens between examples
    Token* other;           // an input's length
    Token* example;
  };

  static constexpr std::size_t kTokens = 65'536;
  static std::size_t longest(const simd::LawArguments& arguments) { return (arguments.law.numbers[4] + 63) / 64 * 64; }
  static std::size_t word_bytes(const simd::LawArguments& arguments) {
    return (longest(arguments) + 64 + 2 * kChunk) * sizeof(std::uint32_t);
  }
  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    return word_bytes(arguments) + 256 * sizeof(std::uint32_t) + kTokens +
           (kTokens + 5 * longest(arguments) + 64) * sizeof(std::uint16_t);
  }

  template <class Token>
  static Scratch<Token> scratch_of(const simd::LawArguments& arguments, std::byte* memory) {
    const auto part = [&]<class T>(T*& pointer, std::size_t count) __attribute__((always_inline)) {
      pointer = reinterpret_cast<T*>(memory);
      memory += count * sizeof(T);
    };
    Scratch<Token> scratch;
    part(scratch.words, word_bytes(arguments) / sizeof(std::uint32_t));
    part(scratch.counts, 256);
    part(scratch.places, longest(arguments));
    part(scratch.seen, kTokens);
    part(scratch.free, kTokens);
    part(scratch.other, longest(arguments));
    part(scratch.example, 3 * longest(arguments) + 64);
    std::memset(scratch.seen, 0, kTokens);
    for (std::size_t k = 0; k + 1 < arguments.law.numbers[2]; ++k) scratch.free[k] = static_cast<Token>(k + 1);
    return scratch;
  }

  // Stable, by eight bits of the tokens.
  template <class Token>
  static void sort_by(const Token* in, std::size_t count, Token* out, int shift, std::size_t bins,
                      std::uint32_t* counts) {
    std::memset(counts, 0, bins * sizeof(std::uint32_t));
    for (std::size_t k = 0; k < count; ++k) ++counts[in[k] >> shift & 0xFF];
    std::uint32_t before = 0;
    for (std::size_t bin = 0; bin < bins; ++bin) {
      const std::uint32_t here = counts[bin];
      counts[bin] = before, before += here;
    }
    for (std::size_t k = 0; k < count; ++k) out[counts[in[k] >> shift & 0xFF]++] = in[k];
  }

  template <class Token>
  static void see(const Token* in, std::size_t count, std::uint8_t* seen, std::uint8_t stamp) {
    for (std::size_t k = 0; k < count; ++k) seen[in[k]] = stamp;
  }

  // Appends the tokens of `in` that have not been seen to the first `size` of `out`, and has seen them; how many `out`
  // has then.
  template <class Token>
  static std::size_t append_new(const Token* in, std::size_t count, Token* out, std::size_t size, std::uint8_t* seen,
                                std::uint8_t stamp) {
    for (std::size_t k = 0; k < count; ++k) {
      const Token token = in[k];
      out[size] = token;
      size += seen[token] != stamp;
      seen[token] = stamp;
    }
    return size;
  }

  // `count` pushes and pops, and the separator; then what is on the stack, from the top. How many are.
  //
  // `free` holds the tokens that are not on the stack in ascending order. The last to leave it is the first to come
  // back, so its place is where it was.
  template <class Token>
  static std::size_t push_and_pop(const std::uint32_t* words, std::size_t first, std::size_t count,
                                  std::uint32_t alphabet, Token* out, const Scratch<Token>& scratch) {
    constexpr std::uint64_t kQuarter = std::uint64_t{1} << 30;
    Token *const stack = scratch.other, *const free = scratch.free;
    std::size_t depth = 0, left = alphabet - 1;
    const auto pop = [&]() __attribute__((always_inline)) {
      const std::size_t place = scratch.places[--depth];
      std::memmove(free + place + 1, free + place, (left++ - place) * sizeof(Token));
      return free[place] = stack[depth];
    };
    for (std::size_t step = 0; step < count; ++step) {
      const std::uint64_t word = words[Stream::where(first + step)];
      const std::uint64_t limit = step < 2 * count / 3 ? 3 * kQuarter : kQuarter;
      const bool must_push = depth < 2, may_push = step + 1 < count && word < limit && left > 0;
      if (must_push || may_push) {
        const std::size_t place = must_push ? word * left >> 32 : word * left / limit;
        stack[depth] = out[step] = free[place];
        scratch.places[depth++] = static_cast<std::uint16_t>(place);
        std::memmove(free + place, free + place + 1, (--left - place) * sizeof(Token));
      } else {
        pop();
        out[step] = 0;
      }
    }
    out[count] = static_cast<Token>(alphabet);
    const std::size_t size = depth;
    for (std::size_t k = 0; k < size; ++k) out[count + 1 + k] = pop();
    return size;
  }

  // How an example of an input of `count` tokens begins: positions whose tokens are drawn, and the separators.
  struct Prompt {
    std::size_t size;       // with the separator before the answer
    std::size_t separator;  // another one's place, or size - 1
  };
  static Prompt prompt_of(Task task, std::size_t count) {
    switch (task) {
      case Task::set_union:
      case Task::difference:
      case Task::intersect: return {count / 2 * 2 + 2, count / 2};
      case Task::remove:
      case Task::search:
      case Task::count: return {count + 3, count};
      default: return {count + 1, count};
    }
  }

  // The answer to the prompt `in` with an input of `count` tokens; its size. No token has been seen with this stamp.
  template <class Token>
  static std::size_t answer(Task task, const Token* in, std::size_t count, std::uint32_t alphabet, Token* out,
                            const Scratch<Token>& scratch, std::uint8_t stamp) {
    std::uint8_t* const seen = scratch.seen;
    const std::size_t half = count / 2;
    const Token* const second = in + half + 1;
    const Token given = in[count + 1];  // a token where one is given
    std::size_t size = 0;
    switch (task) {
      case Task::copy: std::memcpy(out, in, count * sizeof(Token)); return count;
      case Task::reverse:
        for (std::size_t k = 0; k < count; ++k) out[k] = in[count - 1 - k];
        return count;
      case Task::sort:
        if constexpr (sizeof(Token) == 1) {
          sort_by(in, count, out, 0, alphabet, scratch.counts);
        } else {
          sort_by(in, count, scratch.other, 0, 256, scratch.counts);
          sort_by(scratch.other, count, out, 8, alphabet / 256 + 1, scratch.counts);
        }
        return count;
      case Task::set: return append_new(in, count, out, 0, seen, stamp);
      case Task::deduplicate:
        for (std::size_t k = 0; k < count; ++k) {
          out[size] = in[k];
          size += in[k + 1] != in[k];  // the separator is behind the last one
        }
        return size;
      case Task::duplicate:
        for (std::size_t k = 0; k < count; ++k) out[2 * k] = out[2 * k + 1] = in[k];
        return 2 * count;
      case Task::set_union:
        return append_new(second, half, out, append_new(in, half, out, 0, seen, stamp), seen, stamp);
      case Task::difference: see(second, half, seen, stamp); return append_new(in, half, out, 0, seen, stamp);
      case Task::intersect:
        see(second, half, seen, stamp);
        for (std::size_t k = 0; k < half; ++k) {
          out[size] = in[k];
          size += seen[in[k]] == stamp;
          seen[in[k]] = 0;
        }
        return size;
      case Task::remove:
        for (std::size_t k = 0; k < count; ++k) {
          out[size] = in[k];
          size += size < k || in[k] != given;  // once one is missing, all others stay
        }
        return size;
      case Task::search:
        for (std::size_t k = 0; k < count; ++k) size |= in[k] == given;
        return out[0] = static_cast<Token>(size), 1;
      case Task::count:
        for (std::size_t k = 0; k < count; ++k) size += in[k] == given;
        return out[0] = static_cast<Token>(size), 1;
      case Task::first: return out[0] = in[0], count > 0;
      case Task::last: return out[0] = in[count > 0 ? count - 1 : 0], count > 0;
      case Task::stack: break;
    }
    return 0;
  }

  template <class Token>
  static void rows(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* memory,
                   const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const auto task = static_cast<Task>(numbers[1]);
    const auto alphabet = static_cast<std::uint32_t>(numbers[2]);
    const std::size_t shortest = numbers[3], lengths = numbers[4] - shortest + 1;
    const bool pack = numbers[5] != 0;
    const simd::RowsView &tokens = arguments.columns[simd::kTokens], &mask = arguments.columns[simd::kLossMask];
    const std::size_t length = arguments.length, largest = 3 * numbers[4] + 4;
    const bool in_place = tokens.element_size == sizeof(Token);
    const Scratch<Token> scratch = scratch_of<Token>(arguments, memory);
    Token* const drawn = reinterpret_cast<Token*>(scratch.words);

    std::uint8_t stamp = 0;  // of an example, from 1 on
    Stream stream(numbers[0]);
    for (std::size_t row = begin; row < end; ++row) {
      stream.start(arguments.sequences[row]);
      alignas(64) std::uint32_t length_words[kChunk];
      std::size_t position = 0;
      for (std::size_t number = 0; position < length && (pack || number == 0); ++number) {
        if (cancelled.load(std::memory_order_relaxed)) return;
        std::size_t count = shortest;
        if (lengths > 1) {  // block 2^31 and those after it
          constexpr std::uint32_t kFirst = (std::uint32_t{1} << 31) / V::kLanes;
          if (number % kChunk == 0) {
            stream.draw_words(kFirst + static_cast<std::uint32_t>(number / kChunk), length_words);
          }
          count += length_words[Stream::where(number % kChunk)] * lengths >> 32;
        }
        const Prompt prompt = prompt_of(task, count);
        // Straight into the row where all of the example surely fits.
        Token* out = scratch.example;
        if (in_place && length - position >= largest) {
          out = reinterpret_cast<Token*>(tokens.data + row * tokens.row_bytes) + position;
        }
        const std::size_t first = position % kChunk;  // of the example on its first chunk
        std::size_t size = prompt.size;
        for (std::size_t k = 0; k + 1 < first + size; k += kChunk) {  // no word is the last separator's
          const auto chunk = static_cast<std::uint32_t>((position + k) / kChunk);
          if (task == Task::stack) {
            stream.draw_words(chunk, scratch.words + k);
          } else {
            stream.draw_choices(chunk, alphabet - 1, 1, drawn + k);
          }
        }
        if (task == Task::stack) {
          size += push_and_pop(scratch.words, first, count, alphabet, out, scratch);
        } else {
          Token* const in = drawn + first;
          in[prompt.separator] = in[size - 1] = static_cast<Token>(alphabet);
          std::memcpy(out, in, size * sizeof(Token));
          if (++stamp == 0) std::memset(scratch.seen, 0, kTokens), stamp = 1;
          size += answer(task, in, count, alphabet, out + size, scratch, stamp);
        }
        const std::size_t left = length - position, kept = size < left ? size : left;
        const std::size_t asked = prompt.size < left ? prompt.size : left;
        if (out == scratch.example) simd::write_values<V>(tokens, row, position, out, kept);
        if (mask.data != nullptr) {
          simd::fill_values<V>(mask, row, position, asked, 0);
          simd::fill_values<V>(mask, row, position + asked, kept - asked, 1);
        }
        position += kept;
      }
      simd::fill_values<V>(tokens, row, position, length - position, alphabet + 1);
      if (mask.data != nullptr) simd::fill_values<V>(mask, row, position, length - position, 0);
    }
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* scratch,
                   const std::atomic<bool>& cancelled) {
    if (arguments.law.numbers[2] + 2 <= 256) {
      rows<std::uint8_t>(arguments, begin, end, scratch, cancelled);
    } else {
      rows<std::uint16_t>(arguments, begin, end, scratch, cancelled);
    }
  }
};

}  // namespace trajmill::laws::sequence_task
