// The words of training, and its batches without Python: shared by threads, fed ahead, refused.
#include <doctest.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "trajmill/batch_feed.hpp"
#include "trajmill/mixed_replay.hpp"
#include "trajmill/replay_buffer.hpp"
#include "trajmill/seeded_batches.hpp"
#include "trajmill/training_words.hpp"

using namespace trajmill;

namespace {

constexpr std::uint32_t kRows = 1000;

ReplaySettings settings() { return {.capacity = kRows, .columns = {{"number", DataType::i8, {}}}}; }

void add(ReplayBuffer& buffer, std::int64_t first, std::size_t count) {
  std::vector<std::int64_t> numbers(count);
  for (std::size_t i = 0; i < count; ++i) numbers[i] = first + static_cast<std::int64_t>(i);
  const std::byte* const columns[] = {reinterpret_cast<const std::byte*>(numbers.data())};
  buffer.add(count, columns);
}

// Room for a batch of numbers and, of a mixture, the number of each row's source.
struct Batch {
  explicit Batch(std::size_t size) : number(size), source(size) {}
  std::vector<std::byte*> columns() { return {reinterpret_cast<std::byte*>(number.data()), source.data()}; }
  std::vector<std::int64_t> number;
  std::vector<std::byte> source;
};

std::int64_t number_of(std::uint64_t seed, std::uint32_t update, std::uint32_t row) {
  const std::uint32_t word = philox4x32({row / 4, update, 0, 0x74726169}, seed)[row % 4];
  return static_cast<std::int64_t>(std::uint64_t{word} * kRows >> 32);
}

}  // namespace

TEST_CASE("words of training are Philox blocks at (lane, update, site, domain)") {
  const std::uint64_t seed = (std::uint64_t{1} << 40) + 5;
  std::vector<std::uint32_t> words(11);
  training_words(seed, 3, 17, words);
  for (std::uint32_t i = 0; i < words.size(); ++i) {
    CHECK(words[i] == philox4x32({i / 4, 17, 3, 0x74726169}, seed)[i % 4]);
  }
  const std::int64_t seeds[] = {static_cast<std::int64_t>(seed)}, lanes[] = {0, 1, 2}, sites[] = {3, 3, 3};
  std::vector<std::int64_t> blocks(12);
  philox_words(seeds, lanes, sites, 17, 1, kTrainingDomain, blocks.data());
  for (std::size_t i = 0; i < words.size(); ++i) CHECK(blocks[i] == words[i]);
  CHECK_THROWS_AS(philox_words(seeds, lanes, {}, 17, 1, 0, blocks.data()), std::invalid_argument);
}

TEST_CASE("threads share the updates of one source") {
  ReplayBuffer buffer(settings());
  add(buffer, 0, kRows);
  const std::vector<MixedColumn> columns = {{buffer.batch_columns()[0]}};
  MixedReplay mixture({{"first", &buffer, LinearWeight{1, 1, 0}}, {"second", &buffer, LinearWeight{2, 2, 0}}}, columns);
  const std::vector<std::uint64_t> seeds = {1, std::uint64_t{1} << 33};
  constexpr std::size_t kBatch = 10, kThreads = 4, kUpdates = 100;
  SeededBatches batches(mixture, seeds, kBatch, 0);
  std::vector<std::size_t> from_second(kThreads);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        Batch batch(seeds.size() * kBatch);
        for (std::size_t k = 0; k < kUpdates; ++k) {
          batches.sample(batch.number.size(), batch.columns(), 2);
          for (const std::byte source : batch.source) from_second[t] += std::to_integer<std::size_t>(source);
        }
      });
    }
  }
  std::size_t total = 0;
  for (const std::size_t count : from_second) total += count;
  CHECK(batches.update() == kThreads * kUpdates);
  CHECK(total == 2 * ((kThreads * kUpdates * kBatch * 2 + 1) / 3));
  CHECK(mixture.state().draw_count == kThreads * kUpdates);
  CHECK(buffer.draw_count() == 0);

  batches.set_update(12);
  Batch batch(seeds.size() * kBatch);
  batches.sample(batch.number.size(), batch.columns(), 1);
  for (std::uint32_t k = 0; k < seeds.size(); ++k) {
    for (std::uint32_t row = 0; row < kBatch; ++row) {
      CHECK(batch.number[k * kBatch + row] == number_of(seeds[k], 12, row));
    }
  }
}

TEST_CASE("rows are added while a feed chooses among them, and a stopped feed goes back") {
  ReplayBuffer buffer(settings());
  add(buffer, 0, kRows);
  SeededBatches batches(buffer, {7}, 64, 0);
  std::vector<Batch> ring(3, Batch(64));
  std::vector<BatchFeed::Slot> slots;
  for (Batch& batch : ring) slots.push_back({batch.columns()[0]});
  BatchFeed feed(batches, 64, slots, 1);
  std::jthread adding([&](const std::stop_token& stop) {  // the same numbers into the same slots
    for (std::uint32_t row = 0; !stop.stop_requested(); row = (row + 10) % kRows) add(buffer, row, 10);
  });
  std::size_t wrong = 0;
  for (std::uint32_t update = 0; update < 500; ++update) {
    const Batch& batch = ring[feed.next({})];
    for (std::uint32_t row = 0; row < 64; ++row) wrong += batch.number[row] != number_of(7, update, row);
    feed.release();
  }
  adding.request_stop();
  adding.join();
  CHECK(wrong == 0);
  feed.stop(1);
  CHECK(batches.update() == 499);
}

TEST_CASE("a source that only draws cannot be asked for rows by number") {
  class Drawing : public BatchSource {
   public:
    [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return columns_; }
    void sample(std::size_t, std::span<std::byte* const>, std::size_t) override {}

   private:
    std::vector<Column> columns_{{"number", DataType::i8, {}}};
  } source;
  SeededBatches batches(source, {1, 2}, 4, 0);
  Batch batch(8);
  CHECK_THROWS_WITH_AS(batches.sample(8, batch.columns(), 1),
                       "the source cannot be asked for rows by number; it only draws them itself",
                       std::invalid_argument);
  CHECK_THROWS_AS(batches.sample(4, batch.columns(), 1), std::invalid_argument);
  CHECK(batches.update() == 0);
  CHECK_THROWS_AS(require_choice((std::uint64_t{1} << 32) + 1), std::invalid_argument);
}
