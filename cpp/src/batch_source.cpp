#include "trajmill/batch_source.hpp"

#include <functional>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "trajmill/error.hpp"

namespace trajmill {

void require_draw(std::size_t batch_size, std::size_t thread_count) {
  constexpr std::size_t kLargest = std::size_t{1} << 33;  // so that a row's block has a number of 32 bits
  require(batch_size >= 1 && batch_size <= kLargest, "batch_size must be between 1 and 2^33, got ", batch_size);
  require(thread_count >= 1, "threads must be at least 1, got 0");
}

void require_choice(std::uint64_t row_count) {
  require(row_count > 0, "the source is empty, so no row can be chosen");
  require(row_count <= std::uint64_t{1} << 32, "words of 32 bits can choose among at most 2^32 rows, the source has ",
          row_count);
}

void require_sizes(std::span<const Column> columns, std::size_t count) {
  constexpr std::size_t kMost = std::size_t{1} << 48;
  for (const Column& column : columns) {
    std::size_t size = size_of(column.type);
    bool fits = !__builtin_mul_overflow(size, count, &size);
    for (const std::size_t axis : column.shape) fits = fits && !__builtin_mul_overflow(size, axis, &size);
    require(fits && size < kMost, "a row of column '", column.name, "' must have fewer than 2^48 bytes");
  }
}

void BatchSource::share(std::size_t worker, std::size_t worker_count) {
  require(worker < worker_count && worker_count <= (1 << 16), "worker must be below worker_count <= 65536, got ",
          worker, " of ", worker_count);
  const std::scoped_lock lock(turn_);
  if (is_shared()) throw std::logic_error("the source is that of a worker already");
  worker_count_ = worker_count;
  others_before_ = worker;
}

void BatchSource::find_turn(std::size_t batch_size) {
  const std::scoped_lock lock(turn_);
  if (others_before_ > 0) skip_draws(others_before_, batch_size);
  others_before_ = 0;
}

void BatchSource::go_back(std::span<const std::uint64_t> position) {
  const std::scoped_lock lock(turn_);
  seek(position);
  others_before_ = 0;
}

void BatchSource::choose(std::span<const std::uint32_t>, const RowGroups&, std::span<std::byte* const>, std::size_t) {
  throw std::invalid_argument("the source cannot be asked for rows by number; it only draws them itself");
}

void BatchSource::skip_choices(std::uint64_t, std::size_t) {}

std::size_t size_of(DataType type) noexcept {
  switch (type) {
    case DataType::boolean:
    case DataType::u1:
    case DataType::i1: return 1;
    case DataType::u2:
    case DataType::i2:
    case DataType::f2: return 2;
    case DataType::u4:
    case DataType::i4:
    case DataType::f4: return 4;
    case DataType::u8:
    case DataType::i8:
    case DataType::f8: return 8;
  }
  return 0;  // no other value exists
}

std::size_t Column::element_count() const noexcept {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

std::size_t Column::byte_count() const noexcept { return element_count() * size_of(type); }

}  // namespace trajmill
