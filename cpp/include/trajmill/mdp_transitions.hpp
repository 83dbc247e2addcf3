// Transitions of a discrete MDP as vectors: rows of (state, action, target) looked up in codebooks. The target is what
// a model learns to predict: the next state, or anything else that has a number.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "trajmill/batch_source.hpp"

namespace trajmill {

// One row of float32 numbers for each state, action or target.
struct Codebook {
  std::vector<float> vectors;
  std::size_t dimension;

  [[nodiscard]] std::size_t row_count() const noexcept { return dimension == 0 ? 0 : vectors.size() / dimension; }
};

class MDPTransitions final : public BatchSource {
 public:
  // From `row_count` >= 1 rows of three unsigned integers of `element_size` bytes (1, 2 or 4), one after another, which
  // are copied. Without `targets`, targets are states. Batches have `observation`, `action`
  // and `next_observation`, the target's vector. Throws std::invalid_argument if a number has no vector.
  MDPTransitions(const std::byte* rows, std::size_t row_count, std::size_t element_size, Codebook states,
                 Codebook actions, std::optional<Codebook> targets, std::uint64_t seed);

  [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return columns_; }
  void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) override;

  void choose(std::span<const std::uint32_t> words, const RowGroups& groups, std::span<std::byte* const> columns,
              std::size_t thread_count) override;

  [[nodiscard]] const std::byte* rows() const noexcept { return rows_.data(); }
  [[nodiscard]] std::size_t row_count() const noexcept { return row_count_; }
  [[nodiscard]] std::size_t element_size() const noexcept { return element_size_; }
  [[nodiscard]] const Codebook& states() const noexcept { return states_; }
  [[nodiscard]] const Codebook& actions() const noexcept { return actions_; }
  [[nodiscard]] const Codebook& targets() const noexcept { return targets_ ? *targets_ : states_; }
  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }

  // Draws made so far, which is also the number of the next: row i of draw n depends on (seed, n, i) alone.
  [[nodiscard]] std::uint64_t draw_count() const noexcept { return draw_count_; }
  void set_draw_count(std::uint64_t count) noexcept { draw_count_ = count; }
  void skip_draws(std::uint64_t count, std::size_t) override { draw_count_ += count; }
  [[nodiscard]] std::vector<std::uint64_t> position() const override { return {draw_count()}; }
  void seek(std::span<const std::uint64_t> position) override { set_draw_count(position[0]); }

 private:
  template <class F>
  auto with_rows(F&& use) const;
  template <class NumbersOf>
  void copy_rows(const RowGroups& groups, std::span<std::byte* const> columns, std::size_t thread_count,
                 const NumbersOf& numbers_of) const;

  std::vector<std::byte> rows_;
  std::size_t row_count_;
  std::size_t element_size_;
  Codebook states_;
  Codebook actions_;
  std::optional<Codebook> targets_;  // none: those of the states
  std::vector<Column> columns_;
  std::uint64_t seed_;
  std::uint64_t key_;
  std::atomic<std::uint64_t> draw_count_ = 0;
};

}  // namespace trajmill
