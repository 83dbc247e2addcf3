// What the kernels leave to portable code: the few proposals that need all 64 bits, scans, uniform starts.
#include "kernels.hpp"
#include "trajmill/implicit_rows.hpp"
#include "trajmill/philox.hpp"

namespace trajmill::simd {
namespace {

constexpr std::uint64_t kLowHalves = std::uint64_t{1} << 63;  // blocks from here on hold the low halves

std::uint32_t proposal_word(std::uint64_t key, std::uint64_t sequence, std::uint64_t block, std::uint64_t proposal) {
  const PhiloxBlock words =
      philox4x32({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(sequence),
                  static_cast<std::uint32_t>(sequence >> 32), static_cast<std::uint32_t>(block >> 32)},
                 key);
  return words[proposal % 4];
}

}  // namespace

std::uint32_t finish_rejected(const ImplicitLaw& law, std::uint64_t proposal_key, std::uint64_t sequence,
                              std::uint64_t proposal, std::uint64_t row, bool scan, std::uint32_t row_top) {
  const std::uint64_t block = proposal / 4;
  const std::uint64_t uniform = std::uint64_t{proposal_word(proposal_key, sequence, block, proposal)} << 32 |
                                proposal_word(proposal_key, sequence, block | kLowHalves, proposal);
  return scan ? law.scan(row, uniform, row_top) : law.propose(row, uniform, row_top).value_or(kNoValue);
}

std::uint32_t uniform_start(std::uint64_t start_key, std::uint64_t sequence, std::uint32_t count) noexcept {
  const PhiloxBlock words =
      philox4x32({0, static_cast<std::uint32_t>(sequence), static_cast<std::uint32_t>(sequence >> 32), 0}, start_key);
  const std::uint64_t carry = std::uint64_t{words[1]} * count >> 32;
  return static_cast<std::uint32_t>((std::uint64_t{words[0]} * count + carry) >> 32);
}

}  // namespace trajmill::simd
