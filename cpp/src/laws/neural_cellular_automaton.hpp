// Grids that a small random network steps, one sequence at a time: the lanes are the network's hidden units.
//
// numbers: key of the starts, key of the weights, key of the tasks, colours, height, width, patch, burn_in,
// sequences_per_task (0: a task is drawn for each), task_count, first_task, fewest and most phrases. tables: e^g for
// the 1,021 sums of four bytes that stand for a normal number g, in whole numbers.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "simd/law_kernel.hpp"
#include "simd/sampling.hpp"
#include "trajmill/error.hpp"

namespace trajmill::laws::neural_cellular_automaton {

inline constexpr std::size_t kNumbers = 13, kSums = 1021;
inline constexpr std::uint64_t kMostColours = 16, kLongestSide = 256, kMostBurnIn = 1 << 16, kMostWeight = 1 << 24;
inline constexpr std::uint64_t kMostPatches = (std::uint64_t{1} << 32) - 2;

inline void check(const simd::LawView& law) {
  require(law.number_count == kNumbers && law.table_count == 1 && law.tables[0].size == kSums,
          "a neural automaton has ", kNumbers, " numbers and a table of ", kSums, " words");
  const auto within = [&](std::size_t at, std::uint64_t least, std::uint64_t most) {
    require(law.numbers[at] >= least && law.numbers[at] <= most, "number ", at, " of a neural automaton must be ",
            least, " to ", most, ", got ", law.numbers[at]);
  };
  within(3, 2, kMostColours);
  within(4, 1, kLongestSide);
  within(5, 1, kLongestSide);
  within(6, 1, kLongestSide);
  within(7, 0, kMostBurnIn);
  within(11, 0, law.numbers[12]);
  const std::uint64_t patch = law.numbers[6];
  require(law.numbers[4] % patch == 0 && law.numbers[5] % patch == 0, "a neural automaton's grid must be of patches");
  std::uint64_t patches = 1;
  for (std::uint64_t cell = 0; cell < patch * patch; ++cell) {
    require(patches <= kMostPatches / law.numbers[3], "a neural automaton has too many patches for a token");
    patches *= law.numbers[3];
  }
  for (std::size_t sum = 0; sum < kSums; ++sum) {
    const std::uint32_t weight = law.tables[0].words[sum];
    require(weight >= 1 && weight <= kMostWeight, "a weight of a neural automaton must be 1 to ", kMostWeight);
  }
}

template <class V>
struct Kernel {
  static constexpr std::size_t kHidden = 16, kFeatures = 4, kPlaces = 9;
  static constexpr std::size_t kCells = 4;                                       // that are stepped together
  static constexpr std::uint32_t kAttempts = 1 << 12, kAttemptBlocks = 1 << 20;  // at a task's network
  static constexpr std::size_t kMeasured = 10;                                   // grids
  static constexpr int kHiddenShift = 10;  // of hidden units, before the last map: they have 16 bits then

  struct Network {
    std::int32_t hidden[kPlaces][kMostColours][kHidden];  // what a colour at a place adds to each unit
    std::int16_t last[kHidden / 2][kMostColours][2];      // what pairs of units add to 16 times a colour's worth
    std::int32_t ties[kMostColours];                      // 15 - colour, or less than any worth
  };

  struct Counter {
    std::uint32_t block, second, third, fourth;
  };

  // Words 0 to 4 V::kLanes - 1 of the blocks from a counter's on.
  template <int rounds>
  static TRAJMILL_INLINE void draw_words(const simd::SharedKeys<V>& keys, const Counter& counter, std::uint32_t* out) {
    alignas(64) std::uint32_t lanes[V::kLanes];
    for (std::size_t lane = 0; lane < V::kLanes; ++lane) lanes[lane] = counter.block + static_cast<std::uint32_t>(lane);
    typename V::Pair words[4] = {V::spread(V::load(lanes)), V::same(V::half(counter.second)),
                                 V::same(V::half(counter.third)), V::same(V::half(counter.fourth))};
    simd::philox_rounds<V, 0, rounds>(keys, words);
    for (int word = 0; word < 4; ++word) {
      V::store(lanes, V::pack_low(words[word]));
      for (std::size_t lane = 0; lane < V::kLanes; ++lane) out[4 * lane + static_cast<std::size_t>(word)] = lanes[lane];
    }
  }

  // The sum of a word's bytes.
  static TRAJMILL_INLINE std::uint32_t sum(std::uint32_t word) {
    return (word & 0xFF) + (word >> 8 & 0xFF) + (word >> 16 & 0xFF) + (word >> 24);
  }

  static constexpr std::size_t kWeights =
      kPlaces * kMostColours * kFeatures + kFeatures * kHidden + kHidden * kMostColours;

  // Weights of a task are sums of bytes less 510: colours to features at each place, features to units, units to
  // colours. Nothing bends between the first two maps, so that they are one.
  static void make(const simd::LawArguments& arguments, const Counter& first, Network& network) {
    const std::size_t colours = arguments.law.numbers[3];
    const std::size_t count = kPlaces * colours * kFeatures + kFeatures * kHidden + kHidden * colours;
    std::int32_t weights[kWeights + 4 * V::kLanes];
    const simd::SharedKeys<V> keys(arguments.law.numbers[1]);
    for (std::size_t n = 0; n < count; n += 4 * V::kLanes) {
      std::uint32_t words[4 * V::kLanes];
      Counter counter = first;
      counter.block += static_cast<std::uint32_t>(n / 4);
      draw_words<kLogitRounds>(keys, counter, words);
      for (std::size_t k = 0; k < 4 * V::kLanes; ++k) weights[n + k] = static_cast<std::int32_t>(sum(words[k])) - 510;
    }
    const std::int32_t* const to_hidden = weights + kPlaces * colours * kFeatures;
    const std::int32_t* const to_colours = to_hidden + kFeatures * kHidden;
    for (std::size_t input = 0; input < kPlaces * colours; ++input) {
      for (std::size_t unit = 0; unit < kHidden; ++unit) {
        std::int32_t total = 0;
        for (std::size_t feature = 0; feature < kFeatures; ++feature) {
          total += weights[input * kFeatures + feature] * to_hidden[feature * kHidden + unit];
        }
        network.hidden[input / colours][input % colours][unit] = total;
      }
    }
    for (std::size_t colour = 0; colour < kMostColours; ++colour) {
      const bool exists = colour < colours;
      network.ties[colour] = exists ? 15 - static_cast<std::int32_t>(colour) : -0x7FFFFFFF;
      for (std::size_t unit = 0; unit < kHidden; ++unit) {
        network.last[unit / 2][colour][unit % 2] =
            static_cast<std::int16_t>(exists ? 16 * to_colours[unit * colours + colour] : 0);
      }
    }
  }

  // Cells of a row of the grid: those of whole steps, and one on each side. Those that are beyond the width, which are
  // stepped with the last ones, hold any colour.
  static std::size_t line_of(std::size_t width) { return (width + kCells - 1) / kCells * kCells + 2; }

  // Copies of the cells of the other side around the grid.
  static void close(std::size_t height, std::size_t width, std::uint8_t* grid) {
    const std::size_t line = line_of(width);
    for (std::size_t y = 1; y <= height; ++y) {
      grid[y * line] = grid[y * line + width];
      grid[y * line + width + 1] = grid[y * line + 1];
    }
    for (std::size_t x = 0; x < line; ++x) {
      grid[x] = grid[height * line + x];
      grid[(height + 1) * line + x] = grid[line + x];
    }
  }

  // A first grid: colours in proportion to e^g, g normal numbers of its own; by the words from a counter's block on.
  template <int rounds>
  static void start(const simd::LawArguments& arguments, std::uint64_t key, Counter counter, std::uint8_t* grid) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const std::size_t colours = numbers[3], height = numbers[4], width = numbers[5];
    const simd::SharedKeys<V> keys(key);
    constexpr std::size_t kDrawn = 4 * V::kLanes;
    const auto draw = [&](std::uint32_t* words) __attribute__((always_inline)) {
      draw_words<rounds>(keys, counter, words);
      counter.block += V::kLanes;
    };
    const std::uint32_t cells = counter.block + kMostColours / 4;
    std::uint32_t words[kDrawn > kMostColours ? kDrawn : kMostColours];
    for (std::size_t word = 0; word < kMostColours; word += kDrawn) draw(words + word);
    std::uint32_t sums[kMostColours], total = 0;  // of the weights up to each colour
    for (std::size_t colour = 0; colour < kMostColours; ++colour) {
      if (colour < colours) total += arguments.law.tables[0].words[sum(words[colour])];
      sums[colour] = total;
    }
    std::size_t used = kDrawn;
    counter.block = cells;
    for (std::size_t y = 0; y < height; ++y) {
      for (std::size_t x = 0; x < width; ++x) {
        if (used == kDrawn) draw(words), used = 0;
        const auto value = static_cast<std::uint32_t>(std::uint64_t{words[used++]} * total >> 32);
        std::uint32_t colour = 0;
        for (std::size_t c = 0; c + 1 < kMostColours; ++c) colour += value >= sums[c];
        grid[(y + 1) * line_of(width) + x + 1] = static_cast<std::uint8_t>(colour);
      }
    }
    close(height, width, grid);
  }

#if defined(__AVX2__)
  // What each colour is worth to a cell whose neighbourhood begins at `corner`: the larger one of two by two.
  static TRAJMILL_INLINE __m256i worths(const Network& network, const std::uint8_t* corner, std::size_t line) {
    const auto adds = [&](std::size_t place) __attribute__((always_inline)) {
      return network.hidden[place][corner[place / 3 * line + place % 3]];
    };
    const auto load = [](const void* from) __attribute__((always_inline)) {
      return _mm256_loadu_si256(static_cast<const __m256i*>(from));
    };
    __m256i low = load(adds(0)), high = load(adds(0) + 8);
#pragma GCC unroll 8
    for (std::size_t place = 1; place < kPlaces; ++place) {
      low = _mm256_add_epi32(low, load(adds(place)));
      high = _mm256_add_epi32(high, load(adds(place) + 8));
    }
    const __m256i zero = _mm256_setzero_si256();
    low = _mm256_srai_epi32(_mm256_max_epi32(low, zero), kHiddenShift);
    high = _mm256_srai_epi32(_mm256_max_epi32(high, zero), kHiddenShift);
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0b11011000);  // of units, in order
    low = load(network.ties), high = load(network.ties + 8);
#pragma GCC unroll 8
    for (int pair = 0; pair < 8; ++pair) {
      const __m256i both = _mm256_permutevar8x32_epi32(pairs, _mm256_set1_epi32(pair));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(both, load(network.last[pair])));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(both, load(network.last[pair] + 8)));
    }
    return _mm256_max_epi32(low, high);
  }

  // The colours of most worth, the smaller one of two, to kCells cells whose neighbourhoods begin at `corner`.
  static TRAJMILL_INLINE void next_colours(const Network& network, const std::uint8_t* corner, std::size_t line,
                                           std::uint8_t* out) {
    const __m256i cells[kCells] = {worths(network, corner, line), worths(network, corner + 1, line),
                                   worths(network, corner + 2, line), worths(network, corner + 3, line)};
    const auto larger = [](__m256i a, __m256i b) __attribute__((always_inline)) {  // numbers of a and b in turn
      return _mm256_max_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    };
    const __m256i first = larger(cells[0], cells[1]), second = larger(cells[2], cells[3]);
    const __m256i halves = _mm256_max_epi32(_mm256_unpacklo_epi64(first, second), _mm256_unpackhi_epi64(first, second));
    const __m128i best = _mm_max_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    const __m128i colours = _mm_andnot_si128(best, _mm_set1_epi32(15));
    const int bytes = _mm_cvtsi128_si32(_mm_shuffle_epi8(colours, _mm_set1_epi32(0x0C080400)));
    std::memcpy(out, &bytes, kCells);
  }
#else
  static TRAJMILL_INLINE std::uint8_t next_colour(const Network& network, const std::uint8_t* corner,
                                                  std::size_t line) {
    const auto adds = [&](std::size_t place) __attribute__((always_inline)) {
      return network.hidden[place][corner[place / 3 * line + place % 3]];
    };
    std::int32_t units[kHidden] = {};
    for (std::size_t place = 0; place < kPlaces; ++place) {
      for (std::size_t unit = 0; unit < kHidden; ++unit) units[unit] += adds(place)[unit];
    }
    std::int32_t worth[kMostColours];
    for (std::size_t colour = 0; colour < kMostColours; ++colour) worth[colour] = network.ties[colour];
    for (std::size_t unit = 0; unit < kHidden; ++unit) {
      const std::int32_t kept = units[unit] > 0 ? units[unit] >> kHiddenShift : 0;
      for (std::size_t colour = 0; colour < kMostColours; ++colour) {
        worth[colour] += kept * network.last[unit / 2][colour][unit % 2];
      }
    }
    std::int32_t best = worth[0];
    for (std::size_t colour = 1; colour < kMostColours; ++colour) best = worth[colour] > best ? worth[colour] : best;
    return static_cast<std::uint8_t>(15 - (best & 15));
  }

  // The colours of most worth, the smaller one of two, to kCells cells whose neighbourhoods begin at `corner`.
  static TRAJMILL_INLINE void next_colours(const Network& network, const std::uint8_t* corner, std::size_t line,
                                           std::uint8_t* out) {
    for (std::size_t cell = 0; cell < kCells; ++cell) out[cell] = next_colour(network, corner + cell, line);
  }
#endif

  // One step of `grid`, which then changes places with `next`.
  static void advance(const Network& network, const std::uint64_t* numbers, std::uint8_t*& grid, std::uint8_t*& next) {
    const std::size_t height = numbers[4], width = numbers[5], line = line_of(width);
    for (std::size_t y = 0; y < height; ++y) {
      for (std::size_t x = 0; x < width; x += kCells) {
        next_colours(network, grid + y * line + x, line, next + (y + 1) * line + x + 1);
      }
    }
    close(height, width, next);
    std::uint8_t* const former = grid;
    grid = next, next = former;
  }

  static void put(const simd::RowsView& rows, std::size_t row, std::size_t at, std::uint32_t number) {
    std::byte* const out = rows.data + row * rows.row_bytes + at * rows.element_size;
    switch (rows.element_size) {
      case 1: *reinterpret_cast<std::uint8_t*>(out) = static_cast<std::uint8_t>(number); break;
      case 2: *reinterpret_cast<std::uint16_t*>(out) = static_cast<std::uint16_t>(number); break;
      case 4: *reinterpret_cast<std::uint32_t*>(out) = number; break;
      default: *reinterpret_cast<std::uint64_t*>(out) = number;
    }
  }

  // One grid as the tokens from `at` on: start, patches, end. Returns where the next one begins.
  static std::size_t write(const simd::LawArguments& arguments, std::size_t row, std::size_t at,
                           const std::uint8_t* grid) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const std::size_t height = numbers[4], width = numbers[5], patch = numbers[6], line = line_of(width);
    const auto colours = static_cast<std::uint32_t>(numbers[3]);
    const bool is_first = at == 0;
    std::uint32_t patches = 1;
    for (std::size_t cell = 0; cell < patch * patch; ++cell) patches *= colours;
    const auto token = [&](std::uint32_t number, bool target) __attribute__((always_inline)) {
      if (at < arguments.length) {
        put(arguments.columns[simd::kTokens], row, at, number);
        if (arguments.columns[simd::kLossMask].data != nullptr) {
          put(arguments.columns[simd::kLossMask], row, at, target ? 1 : 0);
        }
      }
      ++at;
    };
    token(patches, false);
    for (std::size_t y = 0; y < height && at < arguments.length; y += patch) {
      for (std::size_t x = 0; x < width; x += patch) {
        std::uint32_t number = 0;
        for (std::size_t dy = patch; dy > 0; --dy) {
          for (std::size_t dx = patch; dx > 0; --dx) number = number * colours + grid[(y + dy) * line + x + dx];
        }
        token(number, !is_first);
      }
    }
    token(patches + 1, false);
    return at;
  }

  // The first words of a sequence.
  static Counter counter_of(std::uint64_t sequence) {
    return {0, static_cast<std::uint32_t>(sequence), static_cast<std::uint32_t>(sequence >> 32), 0};
  }

  // The task of a sequence, less the first one.
  static std::uint64_t task_of(const simd::LawArguments& arguments, std::uint64_t sequence) {
    const std::uint64_t period = arguments.law.numbers[8], count = arguments.law.numbers[9];
    if (period != 0) return sequence / period;
    std::uint32_t words[4 * V::kLanes];
    draw_words<kPhiloxRounds>(simd::SharedKeys<V>(arguments.law.numbers[2]), counter_of(sequence), words);
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(Wide{std::uint64_t{words[0]} << 32 | words[1]} * count >> 64);
  }

  static std::size_t grid_bytes(const simd::LawArguments& arguments) {
    return (arguments.law.numbers[4] + 2) * line_of(arguments.law.numbers[5]);
  }

  static std::size_t measured_cells(const simd::LawArguments& arguments) {
    return kMeasured * arguments.law.numbers[4] * arguments.law.numbers[5];
  }
  static bool takes_any_network(const simd::LawArguments& arguments) {
    return arguments.law.numbers[11] == 0 && arguments.law.numbers[12] >= measured_cells(arguments);
  }

  // How many phrases the parse of Lempel and Ziv (1978) finds in the cells of the first grids of a task; the last one
  // may be cut. children[phrase * colours + colour] is the phrase that is longer by this colour, or 0.
  static std::size_t phrases(const Network& network, const std::uint64_t* numbers, std::uint8_t*& grid,
                             std::uint8_t*& next, std::uint32_t* children) {
    const std::size_t colours = numbers[3], height = numbers[4], width = numbers[5];
    std::size_t count = 0, phrase = 0;
    std::memset(children, 0, colours * sizeof(std::uint32_t));
    for (std::size_t step = 0; step < kMeasured; ++step) {
      if (step > 0) advance(network, numbers, grid, next);
      for (std::size_t y = 1; y <= height; ++y) {
        for (std::size_t x = 1; x <= width; ++x) {
          std::uint32_t& longer = children[phrase * colours + grid[y * line_of(width) + x]];
          phrase = longer;
          if (longer != 0) continue;
          longer = static_cast<std::uint32_t>(++count);
          std::memset(children + count * colours, 0, colours * sizeof(std::uint32_t));
        }
      }
    }
    return count + (phrase != 0);
  }

  // The network of a task: the first attempt whose phrases are as many as are wanted. Whether there is one.
  static bool choose(const simd::LawArguments& arguments, std::uint64_t task, Network& network, std::uint8_t*& grid,
                     std::uint8_t*& next, std::uint32_t* children, const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    const auto low = static_cast<std::uint32_t>(task), high = static_cast<std::uint32_t>(task >> 32);
    for (std::uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
      make(arguments, {attempt * kAttemptBlocks, 0, low, high}, network);
      if (takes_any_network(arguments)) return true;
      if (cancelled.load(std::memory_order_relaxed)) return false;
      start<kLogitRounds>(arguments, numbers[1], {attempt * kAttemptBlocks, 1, low, high}, grid);
      const std::size_t count = phrases(network, numbers, grid, next, children);
      if (numbers[11] <= count && count <= numbers[12]) return true;
    }
    arguments.failure->store("no network of the wanted complexity was found for a task in 4096 attempts");
    return false;
  }

  static std::size_t children_count(const simd::LawArguments& arguments) {
    return takes_any_network(arguments) ? 0 : (measured_cells(arguments) + 1) * arguments.law.numbers[3];
  }
  static std::size_t scratch_bytes(const simd::LawArguments& arguments) {
    return sizeof(Network) + children_count(arguments) * sizeof(std::uint32_t) + 2 * grid_bytes(arguments);
  }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* scratch,
                   const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    auto& network = *reinterpret_cast<Network*>(scratch);
    auto* const children = reinterpret_cast<std::uint32_t*>(scratch + sizeof(Network));
    auto* grid = reinterpret_cast<std::uint8_t*>(children + children_count(arguments));
    std::uint8_t* next = grid + grid_bytes(arguments);
    std::memset(grid, 0, 2 * grid_bytes(arguments));
    std::uint64_t made = 0;
    for (std::size_t row = begin; row < end; ++row) {
      const std::uint64_t sequence = arguments.sequences[row], task = task_of(arguments, sequence);
      if ((row == begin || task != made) &&
          !choose(arguments, numbers[10] + task, network, grid, next, children, cancelled)) {
        return;
      }
      made = task;
      if (arguments.columns[simd::kTask].data != nullptr) {
        put(arguments.columns[simd::kTask], row, 0, static_cast<std::uint32_t>(task));
      }
      start<kPhiloxRounds>(arguments, numbers[0], counter_of(sequence), grid);
      std::uint64_t steps = numbers[7];
      for (std::size_t at = 0; at < arguments.length; steps = 1) {
        for (; steps > 0; --steps) {
          if (cancelled.load(std::memory_order_relaxed)) return;
          advance(network, numbers, grid, next);
        }
        at = write(arguments, row, at, grid);
      }
    }
  }
};

}  // namespace trajmill::laws::neural_cellular_automaton
