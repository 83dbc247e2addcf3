// Laws of token sequences by the name of their kind (cpp/src/laws/): one face for all of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trajmill/rows.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {

// Kinds that this build can draw, in alphabetical order.
[[nodiscard]] std::vector<std::string_view> law_kinds();

// Where the columns of rows go; those that are not wanted are left out.
struct LawColumns {
  Rows tokens;
  std::optional<Rows> loss_mask, task, states;
};

class Law {
 public:
  // Throws std::invalid_argument for a kind that there is not, or numbers that its kernel cannot trust.
  Law(std::string_view kind, std::vector<std::uint64_t> numbers, std::vector<std::vector<std::uint32_t>> tables);

  // Fills the columns. Row i depends on the law, its length and the number of its sequence alone. Throws
  // std::invalid_argument for columns of different numbers of rows, or not of the tokens' length (`task`: of one),
  // Interrupted when asked to stop.
  void draw(const Sequences& sequences, const LawColumns& columns, const RunOptions& options) const;

 private:
  std::size_t kind_;
  std::vector<std::uint64_t> numbers_;
  std::vector<std::vector<std::uint32_t>> tables_;
};

}  // namespace trajmill
