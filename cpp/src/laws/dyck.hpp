// Brackets: V::kLanes sequences at a time. A closing one closes the last that is open (nested; each row has a stack of
// types), or an open type that is drawn (crossing; each row has the counts of all types, and which of them are open).
//
// numbers: key, pairs, max_depth (0: none), threshold of opening, initial_depth, longest_word (0: none), paired,
// balanced, crossing. tables: none, or of the law of types the thresholds of its alias cells, out of 2^32 for every
// type and then out of the threshold of opening, and the aliases.
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::dyck {

inline constexpr std::size_t kNumbers = 9;
inline constexpr std::uint64_t kMostPairs = 1 << 15, kDeepest = 1 << 16, kLongest = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kMaskedTypes = 64;  // up to so many, the open types are the bits of two words

inline void check(const simd::LawView& law) {
  require(law.number_count == kNumbers && (law.table_count == 0 || law.table_count == 2), "a Dyck law has ", kNumbers,
          " numbers and no table or two");
  const auto within = [&](std::size_t at, std::uint64_t least, std::uint64_t most) {
    require(law.numbers[at] >= least && law.numbers[at] <= most, "number ", at, " of a Dyck law must be ", least,
            " to ", most, ", got ", law.numbers[at]);
  };
  within(1, 1, kMostPairs);
  within(2, 0, kDeepest);
  within(3, law.numbers[1] + 1, kLongest - 1);  // more than the pairs: the reciprocal has 32 bits
  within(4, 0, law.numbers[2] == 0 ? kDeepest : law.numbers[2]);
  within(5, 0, kLongest);
  for (std::size_t flag = 6; flag < kNumbers; ++flag) within(flag, 0, 1);
  if (law.table_count == 0) return;
  const std::uint64_t pairs = law.numbers[1];
  require(law.tables[0].size == 2 * pairs && law.tables[1].size == pairs,
          "the tables of a Dyck law must have two thresholds and one alias a type");
  for (std::size_t type = 0; type < pairs; ++type) {
    require(law.tables[1].words[type] < pairs, "an alias of a Dyck law must be below the number of types");
  }
}

// What is left of a word picks further: x n / P of a word x below the threshold P, and (x - P) m / (2^32 - P) of
// another, rounded down without a division.
template <class V>
struct Choices {
  using Vec = typename V::Vec;
  using Mask = typename V::Mask;

  Choices(std::uint32_t pairs_, std::uint32_t threshold_) : pairs(pairs_), threshold(threshold_) {
    reciprocal = static_cast<std::uint32_t>(((std::uint64_t{pairs} << 32) + threshold - 1) / threshold);
    scale = 1;
    while (closing() * scale < std::uint64_t{1} << 31) scale *= 2;
    const std::uint64_t scaled = closing() * scale;
    const std::uint64_t inverse = ((std::uint64_t{1} << 63) + scaled - 1) / scaled;
    closing_reciprocal = static_cast<std::uint32_t>(inverse > 0xFFFFFFFF ? 0xFFFFFFFF : inverse);
  }

  std::uint64_t closing() const { return (std::uint64_t{1} << 32) - threshold; }

  // x pairs / P, or x pairs / 2^32 in the lanes of `whole`; `rest` is what that leaves, out of P or 2^32.
  //
  // x pairs / P is at most x reciprocal / 2^32, and less than one below it, so a rounded down product is right or one
  // too large, which shows in the sign of x pairs - P product.
  TRAJMILL_INLINE Vec type(typename V::Pair word, Mask whole, Vec& rest) const {
    const auto product = V::multiply(word, V::half(pairs));
    const Vec quotient =
        V::pack_high(V::multiply(word, V::spread(V::select(whole, V::vec(pairs), V::vec(reciprocal)))));
    const auto remainder = V::subtract(product, V::multiply(V::spread(quotient), V::half(threshold)));
    const Vec less = V::select(whole, V::vec(0), V::pack_high(remainder));  // 0 or minus one
    rest = V::select(whole, V::pack_low(product), V::add(V::pack_low(remainder), V::bit_and(less, V::vec(threshold))));
    return V::add(quotient, less);
  }

  // (x - P) m / (2^32 - P) for m <= 2^15, or x m / 2^32 in the lanes of `whole`.
  //
  // With Q = 2^32 - P scaled to [2^31, 2^32), u = (x - P) / Q is known in 31 bits, less than two too large after one
  // has been added and never too small, so u m is right or one too large, which shows as above.
  TRAJMILL_INLINE Vec rank(Vec word, Mask whole, Vec m) const {
    const Vec left = V::subtract(word, V::vec(threshold));
    const Vec scaled = V::multiply_low(left, V::vec(scale));
    const Vec u = V::add(V::pack_high(V::multiply(V::spread(scaled), V::half(closing_reciprocal))), V::vec(1));
    const Vec quotient =
        V::pack_high(V::multiply(V::spread(V::select(whole, word, u)), V::spread(V::select(whole, m, V::add(m, m)))));
    const auto remainder =
        V::subtract(V::multiply(V::spread(left), V::spread(m)),
                    V::multiply(V::spread(quotient), V::half(static_cast<std::uint32_t>(closing()))));
    return V::add(quotient, V::select(whole, V::vec(0), V::pack_high(remainder)));
  }

  std::uint32_t pairs, threshold, reciprocal, scale, closing_reciprocal;
};

// The open types among 64 of V::kLanes rows.
template <class V>
struct OpenTypes {
  using Vec = typename V::Vec;
  Vec low = V::vec(0), high = V::vec(0);

  // The r-th smallest, counted from 0: halves that hold too few are passed over, by counts of bits.
  TRAJMILL_INLINE Vec at(Vec r) const {
    const auto pass = [&](Vec count, std::uint32_t width, Vec& position) __attribute__((always_inline)) {
      const auto here = V::below(r, count);
      r = V::select(here, r, V::subtract(r, count));
      position = V::select(here, position, V::add(position, V::vec(width)));
    };
    const Vec in_low = sixteens(eights(fours(twos(low))));
    const Vec low_count = V::bit_and(V::add(in_low, V::template shift_right<16>(in_low)), V::vec(63));
    Vec word = V::vec(0), position = V::vec(0);
    const auto is_low = V::below(r, low_count);
    pass(low_count, 32, word);
    const Vec ones = V::select(is_low, low, high);
    const Vec two = twos(ones), four = fours(two), eight = eights(four), sixteen = sixteens(eight);
    pass(V::bit_and(sixteen, V::vec(31)), 16, position);
    pass(V::bit_and(V::shift_right(eight, position), V::vec(15)), 8, position);
    pass(V::bit_and(V::shift_right(four, position), V::vec(7)), 4, position);
    pass(V::bit_and(V::shift_right(two, position), V::vec(3)), 2, position);
    pass(V::bit_and(V::shift_right(ones, position), V::vec(1)), 1, position);
    return V::add(word, position);
  }

  TRAJMILL_INLINE void put(Vec type, typename V::Mask open) {
    const Vec bit = V::shift_left(V::vec(1), V::bit_and(type, V::vec(31)));
    const auto is_low = V::below(type, V::vec(32));
    const Vec zero = V::vec(0);
    const Vec low_bit = V::select(is_low, bit, zero), high_bit = V::select(is_low, zero, bit);
    low = V::bit_or(low, low_bit), high = V::bit_or(high, high_bit);  // and out again where it is not open
    low = V::subtract(low, V::select(open, zero, low_bit));
    high = V::subtract(high, V::select(open, zero, high_bit));
  }

 private:
  // Counts of ones in every two, four, eight and sixteen bits.
  static TRAJMILL_INLINE Vec twos(Vec a) {
    return V::subtract(a, V::bit_and(V::template shift_right<1>(a), V::vec(0x55555555)));
  }
  static TRAJMILL_INLINE Vec fours(Vec a) {
    return V::add(V::bit_and(a, V::vec(0x33333333)), V::bit_and(V::template shift_right<2>(a), V::vec(0x33333333)));
  }
  static TRAJMILL_INLINE Vec eights(Vec a) {
    return V::bit_and(V::add(a, V::template shift_right<4>(a)), V::vec(0x0F0F0F0F));
  }
  static TRAJMILL_INLINE Vec sixteens(Vec a) {
    return V::bit_and(V::add(a, V::template shift_right<8>(a)), V::vec(0x00FF00FF));
  }
};

// What every row does, whichever bracket a closing one closes.
template <class V>
struct Rule {
  using Vec = typename V::Vec;
  using Mask = typename V::Mask;

  struct Rows {
    simd::Stream<V> stream;
    simd::Words<V, true> words;
    Vec depth = V::vec(0), place = V::vec(0);  // place: that of the next token in its word
  };

  struct Move {
    Mask opening, may_open;
    Vec type;   // of an opening bracket
    Vec depth;  // before it
  };

  explicit Rule(const simd::LawArguments& arguments)
      : numbers(arguments.law.numbers),
        length(arguments.length),
        choices(static_cast<std::uint32_t>(numbers[1]), static_cast<std::uint32_t>(numbers[3])),
        keys(numbers[0]),
        weights(arguments.law.table_count != 0 ? arguments.law.tables : nullptr),
        deepest(static_cast<std::uint32_t>(depth_limit(arguments))),
        last_open(numbers[5] == 0 ? 0xFFFFFFFF : static_cast<std::uint32_t>(numbers[5] - 1)) {}

  // The deepest that a sequence can get, in steps of whole blocks: those past the end are made, and not written.
  static std::size_t depth_limit(const simd::LawArguments& arguments) {
    const std::size_t wanted = arguments.law.numbers[2], steps = (arguments.length + 3) / 4 * 4;
    return wanted != 0 && wanted < steps ? wanted : steps;
  }

  TRAJMILL_INLINE Move next(Rows& rows, int step, std::size_t now) const {
    const Vec one = V::vec(1), zero = V::vec(0);
    const auto word = rows.words.word[0][step];
    Move move;
    move.depth = rows.depth;
    Mask must_open = V::equal(rows.depth, zero);
    rows.place = V::select(must_open, zero, rows.place);
    if (now < numbers[4]) must_open = V::equal(zero, zero);
    move.may_open = V::both(V::below(rows.depth, V::vec(deepest)), V::below(rows.place, V::vec(last_open)));
    if (numbers[7] != 0) {
      const Vec remaining = V::vec(static_cast<std::uint32_t>(length - now));
      move.may_open = V::both(move.may_open, V::below(V::add(rows.depth, one), remaining));
    }
    const Mask below = V::below(V::pack_low(word), V::vec(choices.threshold));
    move.opening = V::either(must_open, V::both(below, move.may_open));
    Vec rest;
    move.type = choices.type(word, must_open, rest);
    if (weights != nullptr) {  // alias cells; where none opens the type is any number
      const Vec cell = V::select(move.opening, move.type, zero);
      const Vec at = V::add(cell, V::select(must_open, zero, V::vec(choices.pairs)));
      const Mask kept = V::below(rest, V::gather(weights[0].words, at));
      move.type = V::select(kept, cell, V::gather(weights[1].words, cell));
    }
    rows.depth = V::select(move.opening, V::add(rows.depth, one), V::subtract(rows.depth, one));
    rows.place = V::add(rows.place, one);
    return move;
  }

  const std::uint64_t* numbers;
  std::size_t length;
  Choices<V> choices;
  simd::SharedKeys<V> keys;
  const simd::LawTable* weights;
  std::uint32_t deepest, last_open;
};

// Closes the last that is open. Slot 0 of a stack is below all brackets, and the slot above the deepest takes what is
// written without need.
template <class V>
struct Nested {
  using Vec = typename V::Vec;
  static std::size_t words(const simd::LawArguments& arguments) {
    return (Rule<V>::depth_limit(arguments) + 2) * V::kLanes;
  }

  TRAJMILL_INLINE void start(const simd::LawArguments&, std::uint32_t* scratch, Vec lane_) {
    stack = scratch, lane = lane_;
    V::store(stack, V::vec(0));
  }

  TRAJMILL_INLINE Vec next(const Rule<V>&, const typename Rule<V>::Move& move, typename V::Pair) {
    const Vec lanes = V::vec(V::kLanes), slot = V::add(V::multiply_low(move.depth, lanes), lane);
    const Vec top = V::gather(stack, slot);
    V::scatter(stack, V::add(slot, lanes), move.type);
    return V::select(move.opening, move.type, top);
  }

  std::uint32_t* stack;
  Vec lane;
};

// Closes the r-th smallest open type, of up to kMaskedTypes.
template <class V>
struct Crossing {
  using Vec = typename V::Vec;
  static std::size_t words(const simd::LawArguments& arguments) { return arguments.law.numbers[1] * V::kLanes; }

  TRAJMILL_INLINE void start(const simd::LawArguments& arguments, std::uint32_t* scratch, Vec lane_) {
    counts = scratch, lane = lane_, open = {}, open_count = V::vec(0);
    for (std::size_t type = 0; type < arguments.law.numbers[1]; ++type) V::store(counts + type * V::kLanes, open_count);
  }

  TRAJMILL_INLINE Vec next(const Rule<V>& rule, const typename Rule<V>::Move& move, typename V::Pair word) {
    const Vec one = V::vec(1), zero = V::vec(0);
    const Vec r = rule.choices.rank(V::pack_low(word), V::neither(move.may_open, V::below(one, zero)), open_count);
    const Vec type = V::select(move.opening, move.type, open.at(r));
    const Vec slot = V::add(V::multiply_low(type, V::vec(V::kLanes)), lane);
    const Vec before = V::gather(counts, slot);
    const Vec after = V::select(move.opening, V::add(before, one), V::subtract(before, one));
    V::scatter(counts, slot, after);
    open.put(type, V::below(zero, after));
    open_count = V::add(open_count, V::select(V::equal(before, zero), one, zero));
    open_count = V::subtract(open_count, V::select(V::equal(after, zero), one, zero));
    return type;
  }

  std::uint32_t* counts;
  Vec lane, open_count;
  OpenTypes<V> open;
};

// The same of any number of types: those that are open are a sorted list, one row after another.
template <class V>
struct CrossingMany {
  using Vec = typename V::Vec;
  static std::size_t most_open(const simd::LawArguments& arguments) {
    const std::size_t pairs = arguments.law.numbers[1], deepest = Rule<V>::depth_limit(arguments);
    return pairs < deepest ? pairs : deepest;
  }
  static std::size_t words(const simd::LawArguments& arguments) {
    return (arguments.law.numbers[1] + most_open(arguments)) * V::kLanes;
  }

  TRAJMILL_INLINE void start(const simd::LawArguments& arguments, std::uint32_t* scratch, Vec) {
    pairs = arguments.law.numbers[1], most = most_open(arguments);
    counts = scratch, lists = scratch + pairs * V::kLanes, open_count = V::vec(0);
    for (std::size_t type = 0; type < pairs; ++type) V::store(counts + type * V::kLanes, open_count);
  }

  TRAJMILL_INLINE Vec next(const Rule<V>& rule, const typename Rule<V>::Move& move, typename V::Pair word) {
    alignas(64) std::uint32_t ranks[V::kLanes], types[V::kLanes], open_counts[V::kLanes];
    const auto forced = V::neither(move.may_open, V::below(open_count, V::vec(0)));
    V::store(ranks, rule.choices.rank(V::pack_low(word), forced, open_count));
    V::store(types, move.type);
    V::store(open_counts, open_count);
    const std::uint32_t opening = V::bits(move.opening);
    for (std::uint32_t lane = 0; lane < V::kLanes; ++lane) {
      std::uint32_t* const list = lists + lane * most;
      std::uint32_t& open = open_counts[lane];
      if ((opening >> lane & 1) != 0) {
        if (counts[types[lane] * V::kLanes + lane]++ != 0) continue;
        std::size_t at = open++;
        for (; at > 0 && list[at - 1] > types[lane]; --at) list[at] = list[at - 1];
        list[at] = types[lane];
      } else {
        types[lane] = list[ranks[lane]];
        if (--counts[types[lane] * V::kLanes + lane] != 0) continue;
        --open;
        for (std::size_t at = ranks[lane]; at < open; ++at) list[at] = list[at + 1];
      }
    }
    open_count = V::load(open_counts);
    return V::load(types);
  }

  std::size_t pairs, most;
  std::uint32_t *counts, *lists;
  Vec open_count;
};

template <class V>
struct Kernel {
  using Vec = typename V::Vec;

  static bool is_crossing(const simd::LawArguments& arguments) { return arguments.law.numbers[8] != 0; }
  static bool is_masked(const simd::LawArguments& arguments) { return arguments.law.numbers[1] <= kMaskedTypes; }

  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    const std::size_t words = !is_crossing(arguments) ? V::kGroups * Nested<V>::words(arguments)
                              : is_masked(arguments)  ? V::kGroups * Crossing<V>::words(arguments)
                                                      : CrossingMany<V>::words(arguments);
    return words * sizeof(std::uint32_t);
  }

  template <class Closing, bool narrow, int Groups>
  static void rows(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, std::uint32_t* scratch,
                   const std::atomic<bool>& cancelled) {
    const Rule<V> rule(arguments);
    const Vec closing = V::vec(arguments.law.numbers[6] != 0 ? rule.choices.pairs : 0);
    alignas(64) std::uint32_t lane_numbers[V::kLanes];
    for (std::uint32_t lane = 0; lane < V::kLanes; ++lane) lane_numbers[lane] = lane;
    typename Rule<V>::Rows state[Groups];
    Closing closes[Groups];
    for (int g = 0; g < Groups; ++g) {
      state[g].stream.start(arguments.law.numbers[0], simd::load_group<V>(arguments.sequences, row, row_count, g));
      closes[g].start(arguments, scratch + static_cast<std::size_t>(g) * Closing::words(arguments),
                      V::load(lane_numbers));
    }

    simd::Tile<V, narrow, Groups> tokens;
    simd::Tile<V, false, Groups> depths;
    for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
         first += tokens.kSteps) {
      const std::size_t left = arguments.length - first;
      for (int block = 0; block < tokens.kSteps && static_cast<std::size_t>(block) < left; block += 4) {
        for (int g = 0; g < Groups; ++g) {
          state[g].words.draw(rule.keys, state[g].stream, first + static_cast<std::size_t>(block));
        }
        simd::for_each_step([&](int step) __attribute__((always_inline)) {
          for (int g = 0; g < Groups; ++g) {
            const auto move = rule.next(state[g], step, first + static_cast<std::size_t>(block + step));
            const Vec type = closes[g].next(rule, move, state[g].words.word[0][step]);
            tokens.put(block + step, g, V::select(move.opening, type, V::add(type, closing)));
            if constexpr (!narrow) depths.put(block + step, g, state[g].depth);
          }
        });
      }
      const std::size_t count = left < tokens.kSteps ? left : tokens.kSteps;
      tokens.write(arguments.columns[simd::kTokens], row, row_count, first, count);
      if constexpr (!narrow) {
        if (arguments.columns[simd::kStates].data != nullptr) {
          depths.write(arguments.columns[simd::kStates], row, row_count, first, count);
        }
      }
    }
  }

  template <class Closing, int Groups>
  static void all_rows(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::uint32_t* scratch,
                       const std::atomic<bool>& cancelled) {
    const bool narrow = arguments.law.numbers[1] * (arguments.law.numbers[6] + 1) <= 256 &&
                        arguments.columns[simd::kStates].data == nullptr;
    simd::split_rows<V, Groups>(
        begin, end,
        [&](std::size_t row, std::size_t count) {
          narrow ? rows<Closing, true, Groups>(arguments, row, count, scratch, cancelled)
                 : rows<Closing, false, Groups>(arguments, row, count, scratch, cancelled);
        },
        [&](std::size_t row, std::size_t count) {
          narrow ? rows<Closing, true, 1>(arguments, row, count, scratch, cancelled)
                 : rows<Closing, false, 1>(arguments, row, count, scratch, cancelled);
        });
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* bytes,
                   const std::atomic<bool>& cancelled) {
    auto* const scratch = reinterpret_cast<std::uint32_t*>(bytes);
    if (!is_crossing(arguments)) return all_rows<Nested<V>, V::kGroups>(arguments, begin, end, scratch, cancelled);
    if (is_masked(arguments)) return all_rows<Crossing<V>, V::kGroups>(arguments, begin, end, scratch, cancelled);
    all_rows<CrossingMany<V>, 1>(arguments, begin, end, scratch, cancelled);
  }
};

}  // namespace trajmill::laws::dyck
