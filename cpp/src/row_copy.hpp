// Copies of many short pieces of one size, which is looked at once and not once a piece. Internal to the core.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

namespace trajmill {

// Copies `size` bytes by `Count` moves of `Unit` bytes, and one more that overlaps them where they leave a rest: size
// is at least Unit * Count and at most Unit * (Count + 1).
template <std::size_t Unit, std::size_t Count>
struct Moves {
  static void copy(std::byte* to, const std::byte* from, std::size_t size) noexcept {
    for (std::size_t i = 0; i < Count; ++i) std::memcpy(to + Unit * i, from + Unit * i, Unit);
    std::memcpy(to + size - Unit, from + size - Unit, Unit);
  }
};

struct AnyMove {
  static void copy(std::byte* to, const std::byte* from, std::size_t size) noexcept { std::memcpy(to, from, size); }
};

inline constexpr std::size_t kMostMoves = 16;

// Family<Move>::call for the moves that suit pieces of `size` bytes.
template <template <class> class Family>
auto with_moves(std::size_t size) noexcept {
  using Call = decltype(&Family<AnyMove>::call);
  constexpr auto kWide = []<std::size_t... I>(std::index_sequence<I...>) {
    return std::array<Call, kMostMoves>{&Family<Moves<16, I + 1>>::call...};
  }(std::make_index_sequence<kMostMoves>());
  if (size == 1) return &Family<Moves<1, 1>>::call;
  if (size == 2) return &Family<Moves<2, 1>>::call;
  if (size < 4) return &Family<AnyMove>::call;
  if (size < 8) return &Family<Moves<4, 1>>::call;
  if (size < 16) return &Family<Moves<8, 1>>::call;
  return size / 16 <= kMostMoves ? kWide[size / 16 - 1] : &Family<AnyMove>::call;
}

// --- from places anywhere to consecutive ones
// -------------------------------------------------------------------------

inline constexpr std::size_t kGroupRows = 4;  // copied by one call; measured best of 1 to 32

using Gather = void (*)(std::byte* out, const std::byte* const* pieces, std::size_t count, std::size_t size) noexcept;

template <class Move>
struct GatherFamily {
  // pieces[i] to out + i * size, for i < count <= kGroupRows.
  static void call(std::byte* out, const std::byte* const* pieces, std::size_t count, std::size_t size) noexcept {
    if (count == kGroupRows) {
      for (std::size_t i = 0; i < kGroupRows; ++i) Move::copy(out + i * size, pieces[i], size);
    } else {
      for (std::size_t i = 0; i < count; ++i) Move::copy(out + i * size, pieces[i], size);
    }
  }
};

inline Gather gather_for(std::size_t size) noexcept { return with_moves<GatherFamily>(size); }

// --- from consecutive places to places at a stride
// --------------------------------------------------------------------

using Scatter = void (*)(std::byte* to, std::size_t stride, const std::byte* from, std::size_t count,
                         std::size_t size) noexcept;

template <class Move>
struct ScatterFamily {
  static void call(std::byte* to, std::size_t stride, const std::byte* from, std::size_t count,
                   std::size_t size) noexcept {
    for (std::size_t i = 0; i < count; ++i) Move::copy(to + i * stride, from + i * size, size);
  }
};

inline Scatter scatter_for(std::size_t size) noexcept { return with_moves<ScatterFamily>(size); }

}  // namespace trajmill
