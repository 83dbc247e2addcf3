// The random words of training: those of python/trajmill/training/philox.py, word for word.
//
// Word i of a site at update n of a training seed is word i % 4 of the Philox4x32-10 block at counter
// (i / 4, n, site, kTrainingDomain) under the seed itself. A site is a named place in an algorithm that consumes
// chance; site 0 draws the batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "trajmill/philox.hpp"

namespace trajmill {

inline constexpr std::uint32_t kTrainingDomain = 0x74726169;  // ASCII "trai": never shared with other users of a seed

// The first words of a site at an update of a seed.
void training_words(std::uint64_t seed, std::uint32_t site, std::uint32_t update, std::span<std::uint32_t> words);

// Throws std::invalid_argument unless an update has a number of 32 bits.
void require_update(std::uint64_t update);

// Words of the blocks at counters (lanes[l], update, sites[l], domain) under each seed, for `update_count` updates from
// `first_update` on: [update][seed][lane][4]. All are 32-bit numbers, seeds 64-bit ones, in the integers that torch
// has. Throws std::invalid_argument unless there is one site for each lane.
void philox_words(std::span<const std::int64_t> seeds, std::span<const std::int64_t> lanes,
                  std::span<const std::int64_t> sites, std::uint64_t first_update, std::uint64_t update_count,
                  std::uint32_t domain, std::int64_t* words);

}  // namespace trajmill
