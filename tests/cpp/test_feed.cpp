// Drawing ahead: order, limits, failures, interrupts.
#include <doctest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "trajmill/batch_feed.hpp"
#include "trajmill/error.hpp"

using namespace trajmill;

namespace {

// Draw n holds the number n in every row; draw `last` fails.
class Counting : public BatchSource {
 public:
  explicit Counting(std::uint64_t last = ~std::uint64_t{0}) : last_(last) {}

  [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return columns_; }

  void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t) override {
    const std::uint64_t number = count_++;
    if (number == last_) throw std::runtime_error("no more");
    for (std::size_t row = 0; row < batch_size; ++row) std::memcpy(columns[0] + row * 8, &number, 8);
  }

  std::atomic<std::uint64_t> count_ = 0;

 private:
  std::vector<Column> columns_{{"number", DataType::u8, {}}};
  std::uint64_t last_;
};

struct Ring {
  Ring(std::size_t slot_count, std::size_t batch_size) : memory(slot_count, std::vector<std::uint64_t>(batch_size)) {
    for (auto& slot : memory) slots.push_back({reinterpret_cast<std::byte*>(slot.data())});
  }
  std::vector<std::vector<std::uint64_t>> memory;
  std::vector<BatchFeed::Slot> slots;
};

}  // namespace

TEST_CASE("a feed hands out every draw once, in order, unchanged while in use") {
  Counting source;
  Ring ring(3, 5);
  BatchFeed feed(source, 5, ring.slots, 1);
  for (std::uint64_t number = 0; number < 2000; ++number) {
    const std::size_t slot = feed.next({});
    REQUIRE(slot == number % 3);
    for (const std::uint64_t value : ring.memory[slot]) REQUIRE(value == number);
    if (number > 0) feed.release();  // one stays in use
  }
}

TEST_CASE("a feed draws no further ahead than its slots") {
  Counting source;
  Ring ring(3, 1);
  BatchFeed feed(source, 1, ring.slots, 1);
  static_cast<void>(feed.next({}));
  while (source.count_ < 3) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(source.count_ == 3);
  CHECK(feed.ready());
  static_cast<void>(feed.next({}));
  static_cast<void>(feed.next({}));
  CHECK(!feed.ready());
  CHECK_THROWS_AS(static_cast<void>(feed.next({})), std::logic_error);
  for (int slot = 0; slot < 3; ++slot) feed.release();
  CHECK_THROWS_AS(feed.release(), std::logic_error);
}

TEST_CASE("what a source throws comes once, after the batches drawn before") {
  Counting source(2);
  Ring ring(4, 1);
  BatchFeed feed(source, 1, ring.slots, 1);
  CHECK(feed.next({}) == 0);
  CHECK(feed.next({}) == 1);
  CHECK_THROWS_WITH(static_cast<void>(feed.next({})), "no more");
  CHECK_THROWS_WITH(static_cast<void>(feed.next({})), "the source failed before; open a new feed");
}

TEST_CASE("waiting for a batch can be interrupted") {
  class Slow : public Counting {
    void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t threads) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      Counting::sample(batch_size, columns, threads);
    }
  } source;
  Ring ring(2, 1);
  BatchFeed feed(source, 1, ring.slots, 1);
  CHECK_THROWS_AS(static_cast<void>(feed.next([] { return true; })), Interrupted);
  CHECK(feed.next({}) == 0);
}

TEST_CASE("a feed refuses slots it cannot fill") {
  Counting source;
  CHECK_THROWS_AS(BatchFeed(source, 1, {}, 1), std::invalid_argument);
  CHECK_THROWS_AS(BatchFeed(source, 1, {BatchFeed::Slot{}}, 1), std::invalid_argument);
  Ring ring(1, 1);
  CHECK_THROWS_AS(BatchFeed(source, 1, ring.slots, 0), std::invalid_argument);
}
