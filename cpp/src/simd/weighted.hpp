// Choices with chances of their own, among few enough for a table: one word proposes one of them.
#pragma once

#include "law_kernel.hpp"
#include "row_stream.hpp"

namespace trajmill::simd {

// The table has, for every choice but the last, how many of the 2^32 words propose it or one before it; then 0.
class Weighted {
 public:
  // Four to eight entries of the guide for a choice.
  static TRAJMILL_INLINE int guide_shift(std::size_t count) {
    return __builtin_clz(static_cast<std::uint32_t>(count)) - 2;
  }
  static TRAJMILL_INLINE std::size_t guide_size(std::size_t count) {
    return (std::size_t{1} << 32) >> guide_shift(count);
  }

  // Of 1 to 65,536 choices. The guide has what the first word of each of its parts proposes.
  TRAJMILL_INLINE Weighted(const LawTable& table, std::uint16_t* guide)
      : limits_(table.words), size_(table.size), guide_(guide), shift_(guide_shift(table.size)) {
    for (std::size_t part = 0, choice = 0; part < guide_size(size_); ++part) {
      while (choice + 1 < size_ && limits_[choice] <= part << shift_) ++choice;
      guide[part] = static_cast<std::uint16_t>(choice);
    }
  }

  [[nodiscard]] TRAJMILL_INLINE std::size_t size() const { return size_; }
  [[nodiscard]] TRAJMILL_INLINE std::size_t operator()(std::uint32_t word) const {
    std::size_t choice = guide_[word >> shift_];
    while (choice + 1 < size_ && limits_[choice] <= word) ++choice;
    return choice;
  }
  [[nodiscard]] TRAJMILL_INLINE std::uint32_t weight(std::size_t choice) const {
    return limits_[choice] - (choice > 0 ? limits_[choice - 1] : 0);
  }

 private:
  const std::uint32_t* limits_;
  std::size_t size_;
  const std::uint16_t* guide_;
  int shift_;
};

// `wanted` different choices, each with a chance by its weight among those that are left, by the words of a row from
// the `first` on: a choice that is taken is refused, and once there have been eight words for each, every other one
// chooses among the free ones alone. `words` holds a chunk, that of the first word at the beginning; `taken` has a 0
// for every choice, before and after.
template <class V>
TRAJMILL_INLINE void draw_distinct(const Weighted& law, const RowStream<V>& stream, std::size_t first,
                                   std::size_t wanted, std::uint32_t* words, std::uint16_t* chosen,
                                   std::uint8_t* taken) {
  constexpr std::size_t kChunk = RowStream<V>::kWords;
  std::size_t found = 0, number = first;
  const auto next = [&]() __attribute__((always_inline)) {
    const std::uint32_t word = words[RowStream<V>::where(number % kChunk)];
    if (++number % kChunk == 0) stream.draw_words(static_cast<std::uint32_t>(number / kChunk), words);
    return word;
  };
  while (found < wanted && number < first + 8 * wanted) {
    const std::size_t choice = law(next());
    chosen[found] = static_cast<std::uint16_t>(choice);
    found += 1 - taken[choice];
    taken[choice] = 1;
  }
  for (; found < wanted; ++found) {
    std::uint64_t sum = 0, before = 0;
    for (std::size_t choice = 0; choice < law.size(); ++choice) sum += taken[choice] != 0 ? 0 : law.weight(choice);
    const std::uint64_t target = next() * sum >> 32;
    std::size_t last = 0;
    for (std::size_t choice = 0; choice < law.size() && before <= target; ++choice) {
      if (taken[choice] != 0) continue;
      last = choice;
      before += law.weight(choice);
    }
    chosen[found] = static_cast<std::uint16_t>(last);
    taken[last] = 1;
  }
  for (std::size_t k = 0; k < wanted; ++k) taken[chosen[k]] = 0;
}

}  // namespace trajmill::simd
