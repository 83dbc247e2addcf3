// The sum tree against its sums, and the replay buffer under many threads and with memory that outlives it.
#include <doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "row_copy.hpp"
#include "trajmill/philox.hpp"
#include "trajmill/replay_buffer.hpp"
#include "trajmill/sum_tree.hpp"

using namespace trajmill;

namespace {

// Random numbers by position: the test's own stream.
std::uint32_t word(std::uint32_t position) { return philox4x32({position, 0, 0, 0}, 99)[0]; }

std::vector<double> padded_weights(std::size_t count) { return std::vector<double>(SumTree::padded(count), 0.0); }

struct Row {
  std::int64_t number;
  double observation, next_observation;
};

ReplaySettings settings_of(std::size_t capacity, bool is_shared, bool is_prioritized) {
  ReplaySettings settings{.capacity = capacity,
                          .columns = {{"number", DataType::i8, {}},
                                      {"observation", DataType::f8, {}},
                                      {"next_observation", DataType::f8, {}},
                                      {"copies", DataType::i8, {5}}}};
  if (is_shared) settings.shared = {{"next_observation", "observation"}};
  if (is_prioritized) settings.alpha = 0.6;
  return settings;
}

// Rows whose columns all follow from one number; every seventh begins an episode.
void add(ReplayBuffer& buffer, std::int64_t first, std::size_t count) {
  std::vector<std::int64_t> number(count), copies;
  std::vector<double> observation(count), next(count);
  for (std::size_t i = 0; i < count; ++i) {
    number[i] = first + static_cast<std::int64_t>(i);
    observation[i] = static_cast<double>(number[i]);
    next[i] = number[i] % 7 == 6 ? -observation[i] : observation[i] + 1;
    copies.insert(copies.end(), 5, number[i]);
  }
  const auto bytes = [](const auto& values) { return reinterpret_cast<const std::byte*>(values.data()); };
  const std::byte* const columns[] = {bytes(number), bytes(observation), bytes(next), bytes(copies)};
  buffer.add(count, columns);
}

// How many rows of one draw are not as add() made them.
std::size_t count_torn_rows(ReplayBuffer& buffer, std::size_t batch_size, std::size_t thread_count) {
  std::vector<std::int64_t> number(batch_size), copies(5 * batch_size), indexes(batch_size);
  std::vector<double> observation(batch_size), next(batch_size);
  std::vector<float> weights(batch_size);
  const auto bytes = [](auto& values) { return reinterpret_cast<std::byte*>(values.data()); };
  std::byte* const columns[] = {bytes(number), bytes(observation), bytes(next),
                                bytes(copies), bytes(indexes),     bytes(weights)};
  buffer.sample(batch_size, std::span(columns).first(buffer.batch_columns().size()), thread_count);
  std::size_t torn = 0;
  for (std::size_t i = 0; i < batch_size; ++i) {
    const auto value = static_cast<double>(number[i]);
    const bool is_whole = observation[i] == value && next[i] == (number[i] % 7 == 6 ? -value : value + 1) &&
                          std::all_of(&copies[5 * i], &copies[5 * i] + 5, [&](auto copy) { return copy == number[i]; });
    torn += is_whole ? 0 : 1;
  }
  return torn;
}

}  // namespace

TEST_CASE("pieces of every size are copied whole, and nothing beside them") {
  for (std::size_t size = 0; size < 300; ++size) {
    std::vector<std::byte> from(4 * 320), gathered(4 * size + 1, std::byte{0xEE}), scattered(4 * 320, std::byte{0xEE});
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(word(static_cast<std::uint32_t>(i)));
    const std::byte* const pieces[] = {&from[3], &from[640], &from[321], &from[960]};
    for (std::size_t count = 1; count <= kGroupRows; ++count) {
      gather_for(size)(gathered.data(), pieces, count, size);
      for (std::size_t i = 0; i < count; ++i) CHECK(std::equal(pieces[i], pieces[i] + size, &gathered[i * size]));
    }
    CHECK(gathered[4 * size] == std::byte{0xEE});
    scatter_for(size)(scattered.data(), 320, gathered.data(), 4, size);
    for (std::size_t i = 0; i < 4; ++i) {
      CHECK(std::equal(&gathered[i * size], &gathered[i * size] + size, &scattered[i * 320]));
      CHECK(std::all_of(&scattered[i * 320 + size], &scattered[i * 320] + 320,
                        [](std::byte byte) { return byte == std::byte{0xEE}; }));
    }
  }
}

TEST_CASE("a sum tree finds what its sums say, and is equal to one built afresh") {
  for (const std::size_t count : {1u, 7u, 8u, 9u, 64u, 65u, 1000u, 5000u}) {
    auto weights = padded_weights(count);
    SumTree tree(weights);
    CHECK(tree.total() == 0.0);
    for (std::uint32_t round = 0; round < 30; ++round) {
      std::vector<std::int64_t> indexes;
      std::vector<double> values;
      for (std::uint32_t i = 0; i < 40; ++i) {
        indexes.push_back(word(1000 * round + 2 * i) % count);
        const std::uint32_t value = word(1000 * round + 2 * i + 1);
        values.push_back(value % 3 == 0 ? 0.0 : value * 0x1p-20);
      }
      tree.set(indexes, values);
      for (std::size_t i = 0; i < 40; ++i) {
        const auto last = std::find(indexes.rbegin(), indexes.rend(), indexes[i]);
        CHECK(tree.weight(static_cast<std::size_t>(indexes[i])) ==
              values[static_cast<std::size_t>(indexes.rend() - last - 1)]);
      }
    }
    tree.fill(count / 3, count / 2, 0.75);
    auto copy = weights;
    const SumTree fresh(copy);
    CHECK(fresh.total() == tree.total());
    CHECK(tree.total() == doctest::Approx(std::accumulate(weights.begin(), weights.end(), 0.0)).epsilon(1e-12));
    if (tree.total() == 0.0) continue;
    std::vector<double> targets;
    for (std::uint32_t i = 0; i < 500; ++i) targets.push_back(tree.total() * word(i) * 0x1p-32);
    targets.insert(targets.end(), {0.0, tree.total(), std::nextafter(tree.total(), 0.0)});
    std::vector<std::int64_t> found(targets.size()), found_fresh(targets.size());
    tree.find(targets, found.data());
    fresh.find(targets, found_fresh.data());
    CHECK(found == found_fresh);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const auto index = static_cast<std::size_t>(found[i]);
      REQUIRE(index < count);
      CHECK(weights[index] > 0.0);
      const double before = std::accumulate(weights.begin(), weights.begin() + found[i], 0.0);
      CHECK(targets[i] >= before - 1e-9 * tree.total());
      CHECK(targets[i] <= before + weights[index] + 1e-9 * tree.total());
    }
  }
}

TEST_CASE("weights from the smallest to the largest number: zero is never found") {
  for (std::uint32_t round = 0; round < 200; ++round) {
    auto weights = padded_weights(600);
    for (std::uint32_t i = 0; i < 600; ++i) {
      const std::uint32_t kind = word(round * 600 + i) % 8;
      weights[i] = kind < 5 ? 0.0 : kind == 5 ? 5e-324 : kind == 6 ? 1.0 / (1 + i) : SumTree::kLargestWeight;
      if (round % 4 == 0 && kind > 5) weights[i] = 0.0;
      if (round % 4 == 1 && i > 10) weights[i] = 0.0;
    }
    const SumTree tree(weights);
    if (tree.total() == 0.0) continue;
    std::vector<double> targets;
    for (std::uint32_t i = 0; i <= 64; ++i) targets.push_back(tree.total() * (i / 64.0));
    std::vector<std::int64_t> found(targets.size());
    tree.find(targets, found.data());
    for (const std::int64_t index : found) CHECK(weights[static_cast<std::size_t>(index)] > 0.0);
  }
}

TEST_CASE("a buffer in the caller's memory is there again, and holds no half of a change") {
  for (const bool is_shared : {false, true}) {
    const ReplaySettings settings = settings_of(20, is_shared, true);
    const std::size_t size = ReplayBuffer::layout(settings).byte_count;
    const std::unique_ptr<std::byte, decltype(&std::free)> memory(
        static_cast<std::byte*>(std::aligned_alloc(4096, size)), &std::free);
    std::memset(memory.get(), 0, size);
    {
      ReplayBuffer buffer(settings, {memory.get(), size});
      add(buffer, 0, 15);
      add(buffer, 15, 11);
      CHECK(count_torn_rows(buffer, 40, 1) == 0);
    }
    ReplayBuffer again(settings, {memory.get(), size});
    CHECK(again.size() == 20);
    CHECK(again.row_count() == 26);
    CHECK(again.draw_count() == 1);
    CHECK(count_torn_rows(again, 40, 1) == 0);
    add(again, 26, 9);
    CHECK(count_torn_rows(again, 40, 1) == 0);
    const std::vector<std::byte> before(memory.get(), memory.get() + size);
    add(again, 35, 4);
    again.close();
    CHECK_THROWS_AS(static_cast<void>(again.size()), std::invalid_argument);
    // as if the process had died while it overwrote rows 15 to 18: the record before the last holds, by which they are
    // out, and what they hold does not matter
    constexpr std::size_t kPage = 4096;
    std::memcpy(memory.get() + kPage, before.data() + kPage, size - kPage);
    std::uint64_t which = 0;
    std::memcpy(&which, memory.get(), sizeof(which));
    which = ~which;
    std::memcpy(memory.get(), &which, sizeof(which));
    const std::size_t stride = ReplayBuffer::layout(settings).row_stride;
    std::memset(memory.get() + ReplayBuffer::layout(settings).rows + 15 * stride, 0xFF, 4 * stride);
    ReplayBuffer torn(settings, {memory.get(), size});
    CHECK(torn.size() == 16);
    for (int i = 0; i < 20; ++i) CHECK(count_torn_rows(torn, 40, 1) == 0);
    add(torn, 35, 3);
    for (int i = 0; i < 20; ++i) CHECK(count_torn_rows(torn, 40, 1) == 0);
    for (std::size_t word = 0; word < 2; ++word) {  // which record holds, and the number of draws
      std::byte& changed = memory.get()[word * sizeof(std::uint64_t) + 3];
      changed ^= std::byte{4};
      CHECK_THROWS_AS(ReplayBuffer(settings, {memory.get(), size}), std::invalid_argument);
      changed ^= std::byte{4};
    }
    CHECK_THROWS_AS(ReplayBuffer(settings, {memory.get(), size - 1}), std::invalid_argument);
  }
}

TEST_CASE("eight threads sample, add and update: every row is whole, no side starves") {
  const char* const asked = std::getenv("TRAJMILL_STRESS_SECONDS");
  const double seconds = asked == nullptr ? 0.3 : std::atof(asked);
  for (const bool is_shared : {false, true}) {
    for (const bool is_prioritized : {false, true}) {
      ReplayBuffer buffer(settings_of(1000, is_shared, is_prioritized));
      add(buffer, 0, 700);
      std::atomic<bool> is_over = false;
      std::atomic<std::size_t> torn = 0, added = 0, drawn = 0;
      std::mutex numbering;
      std::int64_t next_number = 700;
      const auto adder = [&](std::size_t count) {
        while (!is_over) {
          const std::scoped_lock lock(numbering);  // rows follow one another, whoever adds them
          add(buffer, next_number, count);
          next_number += static_cast<std::int64_t>(count);
          ++added;
        }
      };
      const auto sampler = [&](std::size_t batch_size, std::size_t thread_count) {
        while (!is_over) torn += count_torn_rows(buffer, batch_size, thread_count), ++drawn;
      };
      const auto updater = [&] {
        const std::vector<std::int64_t> slots{3, 1, 3, 600};
        while (!is_over) {
          if (is_prioritized) buffer.update_priorities(slots, std::vector<double>{0.1, 0.0, 7.0, 2.0});
          static_cast<void>(buffer.size() + buffer.draw_count());
        }
      };
      std::vector<std::thread> threads;
      for (const std::size_t count : {1, 7, 300}) threads.emplace_back(adder, count);
      for (const std::size_t batch_size : {1, 256, 300}) threads.emplace_back(sampler, batch_size, 1);
      threads.emplace_back(sampler, 5000, 2);
      threads.emplace_back(updater);
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds / 4));
      is_over = true;
      for (std::thread& thread : threads) thread.join();
      CHECK(torn == 0);
      CHECK(added > 0);
      CHECK(drawn > 0);
      CHECK(buffer.draw_count() == drawn);
      CHECK(buffer.row_count() == static_cast<std::uint64_t>(next_number));
    }
  }
}
