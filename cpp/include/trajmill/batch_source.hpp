// What batches are drawn from: a replay buffer, a trajectory buffer, a mixture. One interface, so that mixing and
// feeding a GPU work for all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace trajmill {

enum class DataType : std::uint8_t { boolean, u1, u2, u4, u8, i1, i2, i4, i8, f2, f4, f8 };

// Bytes of one element.
[[nodiscard]] std::size_t size_of(DataType type) noexcept;

// One named array of a batch: row r is an array of `shape` and `type`; rows follow one another without gaps.
struct Column {
  std::string name;
  DataType type;
  std::vector<std::size_t> shape;  // of one row; empty for a number

  [[nodiscard]] std::size_t element_count() const noexcept;  // of one row
  [[nodiscard]] std::size_t byte_count() const noexcept;     // of one row
  bool operator==(const Column&) const = default;
};

// Throws std::invalid_argument unless a draw may have this size, 1 to 2^33 rows, and this many threads, at least 1.
void require_draw(std::size_t batch_size, std::size_t thread_count);

class BatchSource {
 public:
  BatchSource() = default;
  BatchSource(const BatchSource&) = delete;
  BatchSource& operator=(const BatchSource&) = delete;
  virtual ~BatchSource() = default;

  // The columns of a batch; they never change.
  [[nodiscard]] virtual const std::vector<Column>& batch_columns() const noexcept = 0;

  // Makes the next draw: `batch_size` rows, column c into columns[c], which has room for them. The rows do not depend
  // on `thread_count`. Safe to call from several threads; draws then come in the order of the calls. Throws
  // std::invalid_argument if there is nothing to draw from.
  virtual void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) = 0;

  // Which draw is next, in numbers that only seek() of this source understands; none where the source cannot tell.
  [[nodiscard]] virtual std::vector<std::uint64_t> position() const { return {}; }

  // Makes the draw of an earlier position() the next one; does nothing where the source cannot.
  virtual void seek(std::span<const std::uint64_t> position) { static_cast<void>(position); }
};

}  // namespace trajmill
