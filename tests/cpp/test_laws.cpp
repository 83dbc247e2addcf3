// Every law draws the same rows with every instruction set, and those that are on record (also on Arm, emulated).
#include <doctest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "trajmill/law.hpp"
#include "trajmill/simd.hpp"

using namespace trajmill;

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

constexpr std::size_t kRows = 19;
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
      CAPTURE(each.name);
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
    }
  }
  set_simd_level(used);
}
