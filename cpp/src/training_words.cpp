#include "trajmill/training_words.hpp"

#include <algorithm>

#include "trajmill/error.hpp"

namespace trajmill {

void training_words(std::uint64_t seed, std::uint32_t site, std::uint32_t update, std::span<std::uint32_t> words) {
  for (std::size_t i = 0; i < words.size(); i += 4) {
    const PhiloxBlock block = philox4x32({static_cast<std::uint32_t>(i / 4), update, site, kTrainingDomain}, seed);
    std::copy_n(block.begin(), std::min<std::size_t>(4, words.size() - i),
                words.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void require_update(std::uint64_t update) {
  require(update >> 32 == 0, "the number of an update must be below 2^32, got ", update);
}

void philox_words(std::span<const std::int64_t> seeds, std::span<const std::int64_t> lanes,
                  std::span<const std::int64_t> sites, std::uint64_t first_update, std::uint64_t update_count,
                  std::uint32_t domain, std::int64_t* words) {
  require(sites.size() == lanes.size(), "there must be one site for each of ", lanes.size(), " lanes, got ",
          sites.size());
  require(first_update <= ~std::uint64_t{0} - update_count, "steps must be below 2^64, got ", update_count, " from ",
          first_update);
  if (seeds.empty() || lanes.empty()) return;  // however many updates there are
  for (std::uint64_t update = first_update; update < first_update + update_count; ++update) {
    for (const std::int64_t seed : seeds) {
      for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
        const PhiloxBlock block =
            philox4x32({static_cast<std::uint32_t>(lanes[lane]), static_cast<std::uint32_t>(update),
                        static_cast<std::uint32_t>(sites[lane]), domain},
                       static_cast<std::uint64_t>(seed));
        words = std::ranges::copy(block, words).out;
      }
    }
  }
}

}  // namespace trajmill
