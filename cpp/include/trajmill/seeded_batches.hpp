// The batches of training: each training seed draws rows of its own, at any update, whatever runs beside it.
//
// Update n of seed k takes `batch_size` rows of the source, by the words of a site (training_words.hpp): row r is row
// number word[r] * row_count >> 32 of the source. A batch holds those of seeds[0], then those of seeds[1] and so on. So
// rows depend on the seed and the update alone, and a trainer that draws them on a device gets the same ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "trajmill/batch_source.hpp"

namespace trajmill {

class SeededBatches final : public BatchSource {
 public:
  // `source` outlives this and can be asked for rows by number. Throws std::invalid_argument without seeds or rows.
  SeededBatches(BatchSource& source, std::vector<std::uint64_t> seeds, std::size_t batch_size, std::uint32_t site);

  [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return source_.batch_columns(); }
  [[nodiscard]] std::size_t row_count() const noexcept { return seeds_.size() * batch_size_; }  // of all seeds

  // Makes the next update; throws std::invalid_argument unless `row_count` is row_count(). An update that the source
  // could not make does not count; where mixtures hold mixtures, set_update() puts back what has moved on.
  void sample(std::size_t row_count, std::span<std::byte* const> columns, std::size_t thread_count) override;

  // Number of the next update, from 0 on.
  [[nodiscard]] std::uint64_t update() const;

  // Makes update `update` < 2^32 the next one and puts the source where so many updates from the start lead it. Shares
  // of a mixture depend on all draws before, so these are split again, without drawing: about 0.2 us each, and calls of
  // weights that are functions. `interrupted` is asked now and then; true throws Interrupted. Nothing changes if it
  // throws.
  void set_update(std::uint64_t update, const std::function<bool()>& interrupted = {});
  void skip_draws(std::uint64_t count, std::size_t batch_size) override;

  [[nodiscard]] std::vector<std::uint64_t> position() const override;  // with that of the source
  void seek(std::span<const std::uint64_t> position) override;

 private:
  BatchSource& source_;
  const std::vector<std::uint64_t> seeds_;
  const std::size_t batch_size_;
  const std::uint32_t site_;
  mutable ForkLock mutex_;  // over all below: one update at a time
  std::uint64_t update_ = 0;
  std::vector<std::uint32_t> words_;
};

}  // namespace trajmill
