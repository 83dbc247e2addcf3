// Batches whose rows come from several sources in exact proportions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "trajmill/batch_source.hpp"
#include "trajmill/shares.hpp"

namespace trajmill {

// The relative weight of a source at a draw, >= 0.
using Weight = std::function<double(std::uint64_t draw)>;

// From `start` at draw 0 in a straight line to `end` at draw `step_count`, and that ever after.
struct LinearWeight {
  double start;
  double end;
  std::uint64_t step_count;

  double operator()(std::uint64_t draw) const noexcept;
};

// Changes the rows of one source in a batch.
using Transform = std::function<void(std::size_t row_count, std::span<std::byte* const> columns)>;

struct MixedSource {
  std::string name;
  BatchSource* source;  // outlives the mixture
  Weight weight;
  Transform transform = {};  // of its rows, in the mixture's columns without `source`
};

struct MixedColumn {
  Column column;
  std::vector<std::byte> fill = {};  // a row for the sources that lack the column; empty: all must have it
};

// Every batch holds the rows of source 0, then those of source 1 and so on, written by the sources in place; how many
// of each, Shares decides. What a source has beyond the columns of the mixture is thrown away.
class MixedReplay final : public BatchSource {
 public:
  // A batch has `columns` and `source` (u1), the number of each row's source. Throws std::invalid_argument if sources
  // are none or more than 256, or disagree with the columns.
  MixedReplay(std::vector<MixedSource> sources, const std::vector<MixedColumn>& columns);

  [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return columns_; }

  // Draws from one source after another. Throws std::invalid_argument if a weight is negative or not finite, or none is
  // positive, and std::logic_error if one of the mixture's own functions draws from it; then, and if a source or a
  // transform throws, the draw does not count, though sources before may have moved on.
  void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) override;

  // Every group is split alike, by one step of the shares, which is one draw of the mixture; a group holds the rows of
  // source 0, then those of source 1 and so on, each chosen by the words at their places in the group. A transform gets
  // the rows of its source of one group at a time. Throws as sample() does.
  void choose(std::span<const std::uint32_t> words, const RowGroups& groups, std::span<std::byte* const> columns,
              std::size_t thread_count) override;
  void restart_choices() override;  // draws and credit at 0, for its sources too
  void skip_choices(std::uint64_t count, std::size_t group_size) override;
  void skip_draws(std::uint64_t count, std::size_t batch_size) override;  // of every source that would have given rows

  // Where the mixture itself is; the sources have states of their own.
  struct State {
    std::uint64_t draw_count;
    std::vector<double> credit;  // of each source: rows it was owed less those it got
  };
  [[nodiscard]] State state() const;
  void set_state(const State& state);  // throws std::invalid_argument unless Shares takes the credit
  [[nodiscard]] std::vector<std::uint64_t> position() const override;  // with those of the sources
  void seek(std::span<const std::uint64_t> position) override;

 private:
  struct Part {
    MixedSource mixed;
    std::vector<std::size_t> targets;             // the mixture's number of each of its columns, or kDropped
    std::vector<std::vector<std::byte>> dropped;  // rows of its columns that the mixture does not have
    std::vector<std::size_t> filled;              // the mixture's columns that it lacks
    std::vector<std::byte*> pointers;             // where its rows go
  };
  static constexpr std::size_t kDropped = static_cast<std::size_t>(-1);

  [[nodiscard]] Part part_of(MixedSource mixed) const;
  [[nodiscard]] std::vector<double> weights() const;
  void require_idle() const;  // throws std::logic_error while a draw is under way
  template <class Make>
  void make_draw(std::size_t row_count, const Make& make);
  std::span<std::byte* const> pointers_of(Part& part, std::size_t first_row, std::size_t row_count,
                                          std::span<std::byte* const> columns) const;
  void finish(std::size_t number, const RowGroups& groups, std::span<std::byte* const> columns) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::byte>> fills_;  // of each column before `source`
  std::vector<std::size_t> row_sizes_;         // the same, in bytes
  std::vector<Part> parts_;

  mutable ForkLock mutex_;  // over all below and the parts' buffers: one draw at a time
  bool drawing_ = false;
  std::uint64_t draw_count_ = 0;
  Shares shares_;
};

}  // namespace trajmill
