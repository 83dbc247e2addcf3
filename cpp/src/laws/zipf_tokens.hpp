// Tokens that do not depend on one another: a chain of order 0, drawn from an alias table of one row.
//
// numbers: key, values. tables: the alias table of the law.
#pragma once

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::zipf_tokens {

inline constexpr std::uint64_t kMostValues = 1 << 24, kMostNarrow = 256;

inline void check(const simd::LawView& law) {
  require(law.number_count == 2 && law.table_count == 1, "a law of Zipf has two numbers and a table");
  const std::uint64_t values = law.numbers[1];
  require(values >= 1 && values <= kMostValues, "a law of Zipf has 1 to ", kMostValues, " values, got ", values);
  const std::uint64_t words = values <= kMostNarrow ? values : 2 * values;
  require(law.tables[0].size == words, "the table of a law of Zipf must have ", words, " words, got ",
          law.tables[0].size);
}

template <class V>
struct Kernel {
  static std::size_t scratch_bytes(const simd::LawArguments&) { return 0; }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte*,
                   const std::atomic<bool>& cancelled) {
    const std::uint64_t values = arguments.law.numbers[1];
    const simd::ChainArguments chain{
        .table = {arguments.law.tables[0].words, static_cast<std::uint32_t>(values), values <= kMostNarrow},
        .order = 0,
        .oldest_weight = 0,
        .token_key = arguments.law.numbers[0],
        .sequences = arguments.sequences,
        .length = arguments.length,
        .tokens = arguments.columns[simd::kTokens],
    };
    simd::sample_chain<V>(chain, begin, end, cancelled);
  }
};

}  // namespace trajmill::laws::zipf_tokens
