// The words of one row at a time, for laws that make one row after another: a vector holds V::kLanes blocks of the
// row's stream, one to a lane. And where such a row goes.
#pragma once

#include <cstring>

#include "philox_lanes.hpp"

namespace trajmill::simd {

template <class V>
class RowStream {
 public:
  using Pair = typename V::Pair;
  static constexpr std::size_t kWords = 4 * V::kLanes;  // that are drawn together: a chunk

  explicit RowStream(std::uint64_t key) : keys_(key) {
    alignas(64) std::uint32_t lanes[V::kLanes];
    for (std::uint32_t lane = 0; lane < V::kLanes; ++lane) lanes[lane] = lane;
    lanes_ = V::load(lanes);
  }

  TRAJMILL_INLINE void start(std::uint64_t sequence) {
    low_ = V::half(static_cast<std::uint32_t>(sequence));
    high_ = V::half(static_cast<std::uint32_t>(sequence >> 32));
  }

  // Word j of the blocks of a chunk is words[j].
  TRAJMILL_INLINE void draw(std::uint32_t chunk, Pair (&words)[4]) const {
    words[0] = V::spread(V::add(lanes_, V::vec(chunk * static_cast<std::uint32_t>(V::kLanes))));
    words[1] = V::same(low_), words[2] = V::same(high_), words[3] = V::same(V::half(0));
    philox_rounds<V, 0, kPhiloxRounds>(keys_, words);
  }

  // The words of a chunk as vectors hold them: of those drawn chunk after chunk from an aligned `out` on, word k is
  // out[where(k)].
  TRAJMILL_INLINE void draw_words(std::uint32_t chunk, std::uint32_t* out) const {
    Pair words[4];
    draw(chunk, words);
    for (std::size_t j = 0; j < 4; ++j) V::store(out + j * V::kLanes, V::pack_low(words[j]));
  }
  static TRAJMILL_INLINE std::size_t where(std::size_t k) {
    return k / kWords * kWords + k % 4 * V::kLanes + k % kWords / 4;
  }

  // least + word * count / 2^32 for the words of a chunk in order, in 8 or 16 bits, which the caller knows to be
  // enough; `out` is aligned.
  template <class Token>
  TRAJMILL_INLINE void draw_choices(std::uint32_t chunk, std::uint32_t count, std::uint32_t least, Token* out) const {
    Pair words[4];
    draw(chunk, words);
    typename V::Vec value[4];
    for (int j = 0; j < 4; ++j) value[j] = V::add(V::pack_high(V::multiply(words[j], V::half(count))), V::vec(least));
    constexpr int kBits = 8 * sizeof(Token);
    const auto low = V::bit_or(value[0], V::template shift_left<kBits>(value[1]));
    const auto high = V::bit_or(value[2], V::template shift_left<kBits>(value[3]));
    if constexpr (sizeof(Token) == 1) {
      V::store(reinterpret_cast<std::uint32_t*>(out), V::bit_or(low, V::template shift_left<16>(high)));
    } else {
      alignas(64) std::uint32_t halves[2][V::kLanes];
      V::store(halves[0], low), V::store(halves[1], high);
      for (std::size_t lane = 0; lane < V::kLanes; ++lane) {
        std::memcpy(out + 4 * lane, &halves[0][lane], sizeof(std::uint32_t));
        std::memcpy(out + 4 * lane + 2, &halves[1][lane], sizeof(std::uint32_t));
      }
    }
  }

 private:
  SharedKeys<V> keys_;
  typename V::Vec lanes_;
  typename V::Half low_, high_;
};

// Calls function(out) with rows[row][column ...] as a pointer to its own type of unsigned integers.
template <class F>
TRAJMILL_INLINE void at(const RowsView& rows, std::size_t row, std::size_t column, F&& function) {
  std::byte* const out = rows.data + row * rows.row_bytes + column * rows.element_size;
  switch (rows.element_size) {
    case 1: return function(reinterpret_cast<std::uint8_t*>(out));
    case 2: return function(reinterpret_cast<std::uint16_t*>(out));
    case 4: return function(reinterpret_cast<std::uint32_t*>(out));
    default: return function(reinterpret_cast<std::uint64_t*>(out));
  }
}

// rows[row][column ...] = values[0 .. count).
template <class V, class Value>
TRAJMILL_INLINE void write_values(const RowsView& rows, std::size_t row, std::size_t column, const Value* values,
                                  std::size_t count) {
  at(rows, row, column, [&]<class T>(T* out) {
    if constexpr (sizeof(T) == sizeof(Value)) {
      std::memcpy(out, values, count * sizeof(T));
    } else {
      for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<T>(values[k]);
    }
  });
}

// rows[row][column .. column + count) = value.
template <class V>
TRAJMILL_INLINE void fill_values(const RowsView& rows, std::size_t row, std::size_t column, std::size_t count,
                                 std::uint32_t value) {
  at(rows, row, column, [&]<class T>(T* out) {
    for (std::size_t k = 0; k < count; ++k) out[k] = static_cast<T>(value);
  });
}

}  // namespace trajmill::simd
