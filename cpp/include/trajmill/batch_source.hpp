// What batches are drawn from: a replay buffer, a trajectory buffer, a mixture. One interface, so that mixing and
// feeding a GPU work for all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trajmill/fork_lock.hpp"

namespace trajmill {

enum class DataType : std::uint8_t { boolean, u1, u2, u4, u8, i1, i2, i4, i8, f2, f4, f8 };

// Bytes of one element.
[[nodiscard]] std::size_t size_of(DataType type) noexcept;

// One named array of a batch: row r is an array of `shape` and `type`; rows follow one another without gaps. A row has
// fewer than 2^48 bytes: every class that is given columns asks require_sizes().
struct Column {
  std::string name;
  DataType type;
  std::vector<std::size_t> shape;  // of one row; empty for a number

  [[nodiscard]] std::size_t element_count() const noexcept;  // of one row
  [[nodiscard]] std::size_t byte_count() const noexcept;     // of one row
  bool operator==(const Column&) const = default;
};

// Throws std::invalid_argument unless a row of each column, `count` times over, has fewer than 2^48 bytes.
void require_sizes(std::span<const Column> columns, std::size_t count = 1);

// Throws std::invalid_argument unless a draw may have this size, 1 to 2^33 rows, and this many threads, at least 1.
void require_draw(std::size_t batch_size, std::size_t thread_count);

// Throws std::invalid_argument unless rows of a source that has `row_count` can be named by words of 32 bits.
void require_choice(std::uint64_t row_count);

// Rows [begin, end) of each of `count` groups of `stride` rows, which follow one another in a batch.
struct RowGroups {
  std::size_t count, stride, begin, end;

  [[nodiscard]] std::size_t size() const noexcept { return end - begin; }  // of one group's rows that are asked for
  [[nodiscard]] static RowGroups whole(std::size_t row_count) noexcept { return {1, row_count, 0, row_count}; }
};

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

  // Makes the rows that words stand for, instead of a draw: row r is row number words[r] * row_count >> 32 of the
  // source, in the order in which its draws count rows. `words` and `columns` are those of a whole batch; only the rows
  // of `groups`, at least one, are made. A source with parts treats all groups alike: there is one for each training
  // seed. Throws std::invalid_argument, as this default does, if the source cannot be asked for rows by number.
  virtual void choose(std::span<const std::uint32_t> words, const RowGroups& groups,
                      std::span<std::byte* const> columns, std::size_t thread_count);

  // For sources whose choices depend on the choices before, as those of mixtures do: go back to before the first one,
  // and pass over the next `count`, of groups of `group_size` rows. Others have nothing to do.
  virtual void restart_choices() {}
  virtual void skip_choices(std::uint64_t count, std::size_t group_size);

  // Passes over the next `count` draws of `batch_size` rows; what makes rows by a function has nothing to pass over.
  virtual void skip_draws(std::uint64_t count, std::size_t batch_size) {
    static_cast<void>(count), static_cast<void>(batch_size);
  }

  // From now on this source is that of worker `worker` of `worker_count`, which together make the draws that it would
  // have made: this one draws number `worker` of those to come, and then every worker_count-th. Once; throws
  // std::invalid_argument unless worker < worker_count <= 2^16, and std::logic_error the second time.
  void share(std::size_t worker, std::size_t worker_count);
  [[nodiscard]] bool is_shared() const noexcept { return worker_count_ > 1; }

  // Whether this is asked for the first time in this process.
  [[nodiscard]] bool is_new_here() noexcept { return std::exchange(asked_after_, fork_count()) != fork_count(); }

  // sample() as its worker makes it.
  void draw(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) {
    in_turn(batch_size, [&] { sample(batch_size, columns, thread_count); });
  }

  // Calls make() for the next draw of this worker, with the draws of the others passed over.
  template <class Make>
  void in_turn(std::size_t batch_size, const Make& make) {
    if (!is_shared()) return make();
    const std::scoped_lock lock(turn_);
    find_turn(batch_size);
    make();
    others_before_ = worker_count_ - 1;
  }

  // Passes over the draws of other workers before the next one of this; then position() is that of this draw, and
  // go_back() to it makes it again.
  void find_turn(std::size_t batch_size);
  void go_back(std::span<const std::uint64_t> position);

  // Which draw is next, in numbers that only seek() of this source understands; none where the source cannot tell.
  [[nodiscard]] virtual std::vector<std::uint64_t> position() const { return {}; }

  // Makes the draw of an earlier position() the next one; does nothing where the source cannot.
  virtual void seek(std::span<const std::uint64_t> position) { static_cast<void>(position); }

 private:
  ForkLock turn_;
  std::uint64_t asked_after_ = ~std::uint64_t{0};  // forks
  std::size_t worker_count_ = 1;
  std::size_t others_before_ = 0;  // draws of other workers before the next one of this
};

}  // namespace trajmill
