// Nested brackets: V::kLanes sequences at a time, each with a stack of the types of its open brackets.
//
// numbers: key, pairs, max_depth (0: none), threshold of opening, initial_depth, longest_word (0: none), paired,
// balanced.
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::dyck {

inline constexpr std::size_t kNumbers = 8;
inline constexpr std::uint64_t kMostPairs = 1 << 15, kDeepest = 1 << 16, kLongest = std::uint64_t{1} << 32;

inline void check(const simd::LawView& law) {
  require(law.number_count == kNumbers && law.table_count == 0, "a Dyck law has ", kNumbers, " numbers and no table");
  const auto within = [&](std::size_t at, std::uint64_t least, std::uint64_t most) {
    require(law.numbers[at] >= least && law.numbers[at] <= most, "number ", at, " of a Dyck law must be ", least,
            " to ", most, ", got ", law.numbers[at]);
  };
  within(1, 1, kMostPairs);
  within(2, 0, kDeepest);
  within(3, law.numbers[1] + 1, kLongest - 1);  // more than the pairs: the reciprocal has 32 bits
  within(4, 0, law.numbers[2] == 0 ? kDeepest : law.numbers[2]);
  within(5, 0, kLongest);
  within(6, 0, 1);
  within(7, 0, 1);
}

template <class V>
struct Kernel {
  using Vec = typename V::Vec;
  using Mask = typename V::Mask;

  // The deepest that a sequence can get, in steps of whole blocks: those past the end are made, and not written.
  static std::size_t depth_limit(const simd::LawArguments& arguments) {
    const std::size_t wanted = arguments.law.numbers[2], steps = (arguments.length + 3) / 4 * 4;
    return wanted != 0 && wanted < steps ? wanted : steps;
  }

  // Slot 0 is below all brackets, and the slot above the deepest takes what is written without need.
  static std::size_t stack_slots(const simd::LawArguments& arguments) {
    return (depth_limit(arguments) + 2) * V::kLanes;
  }

  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    return stack_slots(arguments) * V::kGroups * sizeof(std::uint32_t);
  }

  template <bool narrow, int Groups>
  static void rows(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, std::uint32_t* scratch,
                   const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const auto pairs = static_cast<std::uint32_t>(numbers[1]);
    const auto threshold = static_cast<std::uint32_t>(numbers[3]);
    const std::uint64_t initial_depth = numbers[4];
    const std::uint32_t last_open = numbers[5] == 0 ? 0xFFFFFFFF : static_cast<std::uint32_t>(numbers[5] - 1);
    const bool balanced = numbers[7] != 0;
    // Choosing among `pairs` types by a word x below the threshold P: x pairs / P is at most x reciprocal / 2^32, and
    // less than one below it, so a rounded down product is right or one too large, which shows in the sign of
    // x pairs - P product.
    const auto reciprocal = static_cast<std::uint32_t>(((std::uint64_t{pairs} << 32) + threshold - 1) / threshold);

    const simd::SharedKeys<V> keys(numbers[0]);
    const Vec one = V::vec(1), zero = V::vec(0), lanes = V::vec(V::kLanes);
    const Vec deepest = V::vec(static_cast<std::uint32_t>(depth_limit(arguments)));
    const Vec closing = V::vec(numbers[6] != 0 ? pairs : 0);
    alignas(64) std::uint32_t lane_numbers[V::kLanes];
    for (std::uint32_t lane = 0; lane < V::kLanes; ++lane) lane_numbers[lane] = lane;
    const Vec lane = V::load(lane_numbers);

    simd::Stream<V> stream[Groups];
    Vec depth[Groups], place[Groups];  // place: that of the next token in its word
    std::uint32_t* stack[Groups];
    for (int g = 0; g < Groups; ++g) {
      stream[g].start(numbers[0], simd::load_group<V>(arguments.sequences, row, row_count, g));
      depth[g] = zero, place[g] = zero;
      stack[g] = scratch + static_cast<std::size_t>(g) * stack_slots(arguments);
      V::store(stack[g], zero);
    }

    simd::Tile<V, narrow, Groups> tokens;
    simd::Tile<V, false, Groups> depths;
    const bool wants_depth = arguments.columns[simd::kStates].data != nullptr;
    simd::Words<V, true> words[Groups];
    for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
         first += tokens.kSteps) {
      const std::size_t left = arguments.length - first;
      for (int block = 0; block < tokens.kSteps && static_cast<std::size_t>(block) < left; block += 4) {
        for (int g = 0; g < Groups; ++g) words[g].draw(keys, stream[g], first + static_cast<std::size_t>(block));
        simd::for_each_step([&](int step) __attribute__((always_inline)) {
          const std::size_t now = first + static_cast<std::size_t>(block + step);
          const Vec remaining = V::vec(static_cast<std::uint32_t>(arguments.length - now));
          for (int g = 0; g < Groups; ++g) {
            const auto word = words[g].word[0][step];
            Mask must_open = V::equal(depth[g], zero);
            place[g] = V::select(must_open, zero, place[g]);
            if (now < initial_depth) must_open = V::equal(zero, zero);
            Mask may_open = V::both(V::below(V::pack_low(word), V::vec(threshold)),
                                    V::both(V::below(depth[g], deepest), V::below(place[g], V::vec(last_open))));
            if (balanced) may_open = V::both(may_open, V::below(V::add(depth[g], one), remaining));
            const Mask opening = V::either(must_open, may_open);

            const auto multiplier = V::select(must_open, V::vec(pairs), V::vec(reciprocal));
            const Vec product = V::pack_high(V::multiply(word, V::spread(multiplier)));
            const auto rest =
                V::subtract(V::multiply(word, V::half(pairs)), V::multiply(V::spread(product), V::half(threshold)));
            const Vec type = V::add(product, V::select(must_open, zero, V::pack_high(rest)));

            const Vec slot = V::add(V::multiply_low(depth[g], lanes), lane);
            const Vec top = V::gather(stack[g], slot);
            V::scatter(stack[g], V::add(slot, lanes), type);
            tokens.put(block + step, g, V::select(opening, type, V::add(top, closing)));
            depth[g] = V::select(opening, V::add(depth[g], one), V::subtract(depth[g], one));
            place[g] = V::add(place[g], one);
            if constexpr (!narrow) depths.put(block + step, g, depth[g]);
          }
        });
      }
      const std::size_t count = left < tokens.kSteps ? left : tokens.kSteps;
      tokens.write(arguments.columns[simd::kTokens], row, row_count, first, count);
      if constexpr (!narrow) {
        if (wants_depth) depths.write(arguments.columns[simd::kStates], row, row_count, first, count);
      }
    }
  }

  template <bool narrow>
  static void all_rows(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::uint32_t* scratch,
                       const std::atomic<bool>& cancelled) {
    simd::split_rows<V, V::kGroups>(
        begin, end,
        [&](std::size_t row, std::size_t count) {
          rows<narrow, V::kGroups>(arguments, row, count, scratch, cancelled);
        },
        [&](std::size_t row, std::size_t count) { rows<narrow, 1>(arguments, row, count, scratch, cancelled); });
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* scratch,
                   const std::atomic<bool>& cancelled) {
    auto* const stacks = reinterpret_cast<std::uint32_t*>(scratch);
    const std::uint64_t vocabulary = arguments.law.numbers[1] * (arguments.law.numbers[6] + 1);
    if (vocabulary <= 256 && arguments.columns[simd::kStates].data == nullptr) {
      all_rows<true>(arguments, begin, end, stacks, cancelled);
    } else {
      all_rows<false>(arguments, begin, end, stacks, cancelled);
    }
  }
};

}  // namespace trajmill::laws::dyck
