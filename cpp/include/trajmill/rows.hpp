// Where samples go, and which sequences they are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trajmill {

// Rows of unsigned integers, one row a sequence, without gaps. The caller owns the memory.
struct Rows {
  std::byte* data;
  std::size_t row_count;
  std::size_t column_count;
  std::size_t element_size;  // bytes: 1, 2, 4 or 8

  // Throws std::invalid_argument unless elements can hold every number below `count`.
  void require_room_for(std::uint64_t count) const;
};

// The sequence of each row: first, first + 1, ..., or the listed ones, one for each row.
struct Sequences {
  std::uint64_t first;
  const std::uint64_t* listed = nullptr;

  // Always inline: a copy of its own could be linked from a file compiled for another instruction set.
  [[nodiscard]] __attribute__((always_inline)) std::uint64_t operator[](std::size_t row) const {
    return listed == nullptr ? first + row : listed[row];
  }
};

// Where the rows of a law are: in alias tables, or nowhere (implicit_rows.hpp). Both draw from the same law, but not
// the same values. `automatic` is dense where that was measured to be faster; its choice depends on the law alone.
enum class Backend { automatic, dense, implicit };

}  // namespace trajmill
