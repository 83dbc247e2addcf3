// What the kernel of a law is given, and what a law's header (cpp/src/laws/KIND.hpp) offers. Internal to the core.
//
// namespace trajmill::laws::KIND {
// void check(const simd::LawView&);              throws std::invalid_argument unless kernels may trust the numbers
// template <class V> struct Kernel {             nothing in it calls the standard library (philox_lanes.hpp)
//   static std::size_t scratch_bytes(const simd::LawArguments&);
//   static void draw(const simd::LawArguments&, std::size_t begin, std::size_t end, std::byte* scratch,
//                    const std::atomic<bool>& cancelled);
// };
// }
//
// A header is found by its name: CMake writes a file for every law and instruction set, and the list of all laws.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "trajmill/rows.hpp"

namespace trajmill::simd {

struct LawTable {
  const std::uint32_t* words;
  std::size_t size;
};

// A law as its Python class hands it over (Law.core): what the numbers mean is the law's own affair.
struct LawView {
  const std::uint64_t* numbers;
  std::size_t number_count;
  const LawTable* tables;
  std::size_t table_count;
};

enum LawColumn : std::size_t { kTokens, kLossMask, kTask, kStates, kLawColumns };

struct LawArguments {
  LawView law;
  Sequences sequences;
  std::size_t length;                 // of every column but kTask, which has one number a row
  RowsView columns[kLawColumns];      // without data where a column is not wanted; kTokens always is
  std::atomic<const char*>* failure;  // where a kernel says why rows cannot be drawn, which is thrown then
};

struct LawKernel {
  // Bytes that one call of `draw` needs to itself.
  std::size_t (*scratch_bytes)(const LawArguments&);
  // Rows [begin, end) of the columns; returns early, leaving rows unfinished, once `cancelled` is true. The scratch is
  // aligned to 64 bytes and holds anything.
  void (*draw)(const LawArguments&, std::size_t begin, std::size_t end, std::byte* scratch,
               const std::atomic<bool>& cancelled);
};

}  // namespace trajmill::simd
