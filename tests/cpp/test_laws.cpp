// Every law draws the same rows with every instruction set, and those that are on record (also on Arm, emulated).
#include <doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "trajmill/law.hpp"
#include "trajmill/simd.hpp"

using namespace trajmill;

// Scratch of kernels is aligned memory: in these tests it holds garbage, with which lanes without a row must cope.
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto step = static_cast<std::size_t>(alignment);
  void* const memory = std::aligned_alloc(step, (size + step) / step * step);
  if (memory == nullptr) throw std::bad_alloc();
  std::uint32_t chance = 1;
  for (std::size_t at = 0; at + 4 <= size; at += 4) {  // numbers below eight, which may pass for tokens, and any others
    chance = chance * 1664525 + 1013904223;
    const std::uint32_t word = chance >> 30 != 0 ? chance >> 16 & 7 : chance;
    std::memcpy(static_cast<char*>(memory) + at, &word, 4);
  }
  return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

struct Case {
  const char* name;
  const char* kind;
  std::vector<std::uint64_t> numbers;
  std::vector<std::vector<std::uint32_t>> tables;
  std::size_t length;
  unsigned columns;  // 1: loss_mask, 2: states
  std::uint64_t digest;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
#include "law_cases.inc"
  };
  return all;
}

constexpr std::size_t kRows = 19;  // not a multiple of any number of lanes
constexpr std::uint64_t kFirst = 5;

std::uint64_t digest_of(std::uint64_t digest, const std::vector<std::uint32_t>& values) {
  for (const std::uint32_t value : values) digest = (digest ^ value) * 0x100000001B3;
  return digest;
}

}  // namespace

TEST_CASE("laws draw the rows on record with every instruction set") {
  const SimdLevel used = simd_level();
  for (const SimdLevel level : available_simd_levels()) {
    set_simd_level(level);
    for (const Case& each : cases()) {
      CAPTURE(std::string(each.name));
      CAPTURE(std::string(name(level)));
      const Law law(each.kind, each.numbers, each.tables);
      std::vector<std::uint32_t> tokens(kRows * each.length), mask(tokens.size()), states(tokens.size());
      const auto rows = [&](std::vector<std::uint32_t>& values) {
        return Rows{reinterpret_cast<std::byte*>(values.data()), kRows, each.length, sizeof(std::uint32_t)};
      };
      LawColumns columns{rows(tokens), {}, {}, {}};
      if ((each.columns & 1) != 0) columns.loss_mask = rows(mask);
      if ((each.columns & 2) != 0) columns.states = rows(states);
      law.draw({kFirst}, columns, {});
      std::uint64_t digest = digest_of(0xCBF29CE484222325, tokens);
      if ((each.columns & 1) != 0) digest = digest_of(digest, mask);
      if ((each.columns & 2) != 0) digest = digest_of(digest, states);
      CHECK(digest == each.digest);
      std::vector<std::uint32_t> few(3 * each.length);  // most lanes have no row
      law.draw({kFirst}, {{reinterpret_cast<std::byte*>(few.data()), 3, each.length, 4}, {}, {}, {}}, {});
      CHECK(std::equal(few.begin(), few.end(), tokens.begin()));
    }
  }
  set_simd_level(used);
}
