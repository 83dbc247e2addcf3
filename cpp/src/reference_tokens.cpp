#include "trajmill/reference_tokens.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "reference_rows.hpp"
#include "simd/reference_kernels.hpp"
#include "trajmill/error.hpp"
#include "trajmill/reference_random.hpp"

namespace trajmill {
namespace {

// Generator.multinomial(1, p) is a binomial draw of one trial for each token but the last, with the token's share q of
// the probability that is left. By inversion, NumPy compares u with exp(log(1 - q)), or, where q > 1/2, asks for the
// opposite event and compares with exp(log(1 - r)), r = 1 - q. Both arguments lie in [1/2, 1], where log and exp that
// are right to 0.6 of their last bit undo each other, and where NumPy's next comparison, which could ask for another u,
// never does. So u hits if it is above 1 - q or, in the second case, not above 1 - r. Multiplied by 2^53 all of these
// are integers, and one more bit tells the cases apart: the sign bit of threshold - u says hit.
std::uint64_t threshold(double hit_probability) noexcept {
  constexpr std::uint64_t kFlipped = std::uint64_t{1} << 63;
  constexpr double kCertain = 2.0;  // rounding can take what is left, and so q, out of [0, 1], or to 0 / 0
  const auto scaled = [=](double x) { return static_cast<std::uint64_t>(std::min(kCertain, x) * 0x1p53); };
  if (hit_probability <= 0.5) return scaled(1.0 - hit_probability);
  return scaled(1.0 - (1.0 - hit_probability)) + kFlipped;
}

struct TokenRow {
  std::vector<simd::Thresholds> thresholds;  // of the tokens that NumPy spends a draw on
  std::vector<std::uint32_t> tokens;         // of each threshold, and the last token; empty for 0, 1, 2, ...

  [[nodiscard]] std::size_t byte_count() const noexcept {
    return thresholds.size() * sizeof(simd::Thresholds) + tokens.size() * sizeof(std::uint32_t);
  }
  [[nodiscard]] std::uint32_t token(std::uint32_t hit) const noexcept { return tokens.empty() ? hit : tokens[hit]; }
};

void make_token_row(std::span<const double> probabilities, TokenRow& row) {
  using simd::Thresholds;
  Thresholds certain;
  std::ranges::fill(certain.value, Thresholds::kCertainHit);
  row.thresholds.assign((probabilities.size() + Thresholds::kCount - 1) / Thresholds::kCount, certain);
  row.tokens.clear();
  double remaining = 1.0;
  for (std::size_t j = 0; j + 1 < probabilities.size(); ++j) {
    const double hit_probability = probabilities[j] / remaining;
    remaining -= probabilities[j];
    if (hit_probability == 0.0) continue;  // NumPy spends no draw on it
    const std::size_t at = row.tokens.size();
    row.thresholds[at / Thresholds::kCount].value[at % Thresholds::kCount] = threshold(hit_probability);
    row.tokens.push_back(static_cast<std::uint32_t>(j));
  }
  row.tokens.push_back(static_cast<std::uint32_t>(probabilities.size() - 1));
  if (row.tokens.size() == probabilities.size()) row.tokens.clear();
}

// The draws of one generator, made ahead, and the tokens that rows make of them.
class DrawStream {
 public:
  static constexpr std::size_t kMostRows = 64;  // of one call of next

  DrawStream() : kernels_(simd::reference_kernels()), draws_(kCapacity) {}

  // Starts over with another generator, of which some `expected` draws will be needed.
  void start(const Pcg64& generator, std::size_t expected) noexcept {
    generator_ = generator;
    end_ = 0;
    expected_ = expected;
    cursor_ = {};
  }

  // The tokens that follow by `rows`, one after another.
  void next(std::span<const TokenRow* const> rows, std::uint32_t* tokens) noexcept {
    const simd::Thresholds* thresholds[kMostRows];
    for (std::size_t i = 0; i < rows.size(); ++i) thresholds[i] = rows[i]->thresholds.data();
    std::size_t done = 0;
    while ((done += kernels_.match(cursor_, thresholds + done, rows.size() - done, draws(), end_, tokens + done)) <
           rows.size()) {
      refill();
    }
    for (std::size_t i = 0; i < rows.size(); ++i) tokens[i] = rows[i]->token(tokens[i]);
  }

 private:
  struct alignas(64) Line {
    std::uint64_t value[8];
  };
  static constexpr std::size_t kCapacity = 512;  // lines
  static constexpr std::size_t kGrain = 64;      // draws

  std::uint64_t* draws() noexcept { return draws_.front().value; }

  void refill() noexcept {
    constexpr std::size_t kRoom = kCapacity * 8;
    if (kRoom - end_ < kGrain) {  // the draws not yet used move to the front
      const std::size_t used = cursor_.draw / 8 * 8;
      std::copy(draws() + used, draws() + end_, draws());
      cursor_.draw -= used;
      end_ -= used;
    }
    const std::size_t room = (kRoom - end_) / kGrain * kGrain;
    const std::size_t count = std::clamp(expected_ / kGrain * kGrain, kGrain, room);
    expected_ -= std::min(expected_, count);
    kernels_.draw(generator_, draws() + end_, count);
    end_ += count;
  }

  simd::ReferenceKernels kernels_;
  std::vector<Line> draws_;
  std::size_t end_ = 0;  // draws made
  std::size_t expected_ = 0;
  Pcg64 generator_{0, 1};
  simd::MatchCursor cursor_;
};

template <class Token>
void write_row(const std::uint32_t* tokens, std::size_t stride, std::byte* out, std::size_t count) noexcept {
  auto* typed = reinterpret_cast<Token*>(out);
  for (std::size_t i = 0; i < count; ++i) typed[i] = static_cast<Token>(tokens[i * stride]);
}

// tokens[0], tokens[stride], ... become row `row`.
void write_row(const std::uint32_t* tokens, std::size_t stride, const Rows& rows, std::size_t row) noexcept {
  std::byte* out = rows.data + row * rows.column_count * rows.element_size;
  switch (rows.element_size) {
    case 1: return write_row<std::uint8_t>(tokens, stride, out, rows.column_count);
    case 2: return write_row<std::uint16_t>(tokens, stride, out, rows.column_count);
    case 4: return write_row<std::uint32_t>(tokens, stride, out, rows.column_count);
    default: return write_row<std::uint64_t>(tokens, stride, out, rows.column_count);
  }
}

// Rows per worker.
std::size_t block_size(const ReferenceRound& round, const Rows& tokens, std::uint32_t state_count) {
  if (state_count == 0) throw std::invalid_argument("state_count must be >= 1, got 0");
  tokens.require_room_for(state_count);
  if (round.made_count == 0 || tokens.row_count % round.made_count != 0) {
    throw std::invalid_argument(message("rows must be an equal share of every worker, got ", tokens.row_count,
                                        " rows of ", round.made_count, " workers"));
  }
  if (round.first_worker > round.reference_worker_count ||
      round.made_count > round.reference_worker_count - round.first_worker) {
    throw std::invalid_argument(message("there are ", round.reference_worker_count, " workers, asked for ",
                                        round.made_count, " from number ", round.first_worker));
  }
  return tokens.row_count / round.made_count;
}

// The first of `count` seeds that belong to the round's iteration.
std::uint64_t first_seed(std::uint64_t seed, std::uint64_t iteration, std::uint64_t count) {
  const Uint128 last = Uint128{seed} + (Uint128{iteration} + 1) * count;
  if (last >> 64) {
    throw std::invalid_argument(message("seeds run past 64 bits: seed ", seed, ", iteration ", iteration, ", ", count,
                                        " seeds an iteration; use smaller numbers"));
  }
  return seed + iteration * count;
}

// A row is made of its probabilities; its thresholds and running sums take about as much again each.
void require_row_memory(std::uint32_t state_count, std::size_t memory_limit) {
  const double bytes = 4.0 * sizeof(double) * state_count;
  require_memory(bytes, static_cast<double>(memory_limit), "use fewer states", "the ", state_count, " states of a row");
}

}  // namespace

class ReferenceChain::Sampler {
 public:
  Sampler(std::uint32_t state_count, std::uint32_t order, Temperature temperature, std::uint64_t seed,
          std::size_t memory_limit)
      : state_count_(state_count),
        order_(order),
        temperature_(temperature.value()),
        seed_(seed),
        memory_limit_(memory_limit),
        cache_(context_count(state_count, order), memory_limit) {
    std::vector<double> probabilities(state_count);
    fill_probabilities({}, probabilities);
    first_row_.assign(probabilities);
  }

  // One worker's block, of which `out` gets rows [first_row, first_row + block).
  void sample_block(std::uint64_t first, std::size_t reference_worker_count, std::size_t first_row, std::size_t block,
                    const Rows& out, const std::atomic<bool>& cancelled) {
    std::vector<std::uint32_t> tokens(block * out.column_count);  // [step, row]
    DrawStream stream;
    TokenRow scratch;
    std::vector<double> probabilities(state_count_);
    for (std::size_t step = 0; step < out.column_count && !cancelled.load(std::memory_order_relaxed); ++step) {
      const std::uint64_t sampler_seed = first + reference_worker_count * step;
      Pcg64 generator({&sampler_seed, 1});
      std::uint32_t* now = tokens.data() + step * block;
      if (step == 0) {
        for (std::size_t row = 0; row < block; ++row) now[row] = first_row_.pick(generator.next_double());
        continue;
      }
      stream.start(generator, block * (state_count_ / 2));
      const auto history = [&](std::size_t row) {
        return History(now + row, block, std::min<std::size_t>(step, order_));
      };
      for (std::size_t row = 0; row < block;) {
        const TokenRow* rows[DrawStream::kMostRows];
        std::size_t count = 0;
        while (count < DrawStream::kMostRows && row + count < block &&
               (rows[count] = cache_.find(number(history(row + count))))) {
          ++count;
        }
        if (count == 0) {
          const auto build = [&](TokenRow& fresh) {
            fill_probabilities(history(row), probabilities);
            make_token_row(probabilities, fresh);
          };
          rows[count++] = &cache_.get(number(history(row)), scratch, build);
        }
        stream.next({rows, count}, now + row);
        row += count;
      }
    }
    for (std::size_t row = 0; row < block; ++row) write_row(tokens.data() + row, block, out, first_row + row);
  }

  [[nodiscard]] std::uint32_t state_count() const noexcept { return state_count_; }
  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }

  // Throws std::invalid_argument unless there is memory for so many tokens of workers at a time.
  void require_block_memory(double token_count) const {
    const double bytes = token_count * sizeof(std::uint32_t);
    require_memory(bytes, static_cast<double>(memory_limit_), "make fewer workers' at a time, or use fewer threads",
                   "the workers' blocks");
  }

 private:
  // The tokens before one place in a [step, row] block, oldest first.
  struct History {
    History() = default;
    History(const std::uint32_t* place, std::size_t stride_, std::size_t count_)
        : oldest(place - stride_ * count_), stride(stride_), count(count_) {}
    [[nodiscard]] std::uint32_t operator[](std::size_t k) const noexcept { return oldest[k * stride]; }
    const std::uint32_t* oldest = nullptr;
    std::size_t stride = 0;
    std::size_t count = 0;
  };

  // Contexts of 1 to `order` tokens; saturates far above what a cache holds.
  static std::uint64_t context_count(std::uint64_t state_count, std::uint32_t order) {
    constexpr std::uint64_t kMany = std::uint64_t{1} << 60;
    std::uint64_t all = 0, count = 1;
    for (std::uint32_t length = 1; length <= order; ++length) {
      count = std::min(kMany, count * state_count);  // state_count is below 2^32 and so is every count that matters
      all = std::min(kMany, all + count);
      if (count > kMany / state_count) return kMany;
    }
    return all;
  }

  // Contexts are numbered by length, then as numbers in base state_count. Beyond 64 bits, where nothing is kept, the
  // number wraps around and means nothing.
  [[nodiscard]] std::uint64_t number(const History& history) const noexcept {
    std::uint64_t number = 0;
    for (std::size_t k = 0; k < history.count; ++k) number = number * state_count_ + history[k] + 1;
    return number - 1;
  }

  void fill_probabilities(const History& history, std::span<double> row) const noexcept {
    std::array<std::uint64_t, kLargestOrder> entropy;
    for (std::size_t k = 0; k < history.count; ++k) entropy[k] = history[k] + 1 + seed_;
    if (history.count == 0) entropy[0] = seed_;
    Pcg64 generator({entropy.data(), std::max<std::size_t>(1, history.count)});
    for (double& x : row) x = generator.next_double() / temperature_;
    softmax_in_place(row);
  }

  std::uint32_t state_count_;
  std::uint32_t order_;
  double temperature_;
  std::uint64_t seed_;
  std::size_t memory_limit_;
  CumulativeRow first_row_;  // of no history
  RowCache<TokenRow> cache_;
};

ReferenceChain::ReferenceChain(std::uint32_t state_count, std::uint32_t order, Temperature temperature,
                               std::uint64_t seed, std::size_t memory_limit) {
  if (state_count == 0) throw std::invalid_argument("state_count must be >= 1, got 0");
  if (order == 0 || order > kLargestOrder) {
    throw std::invalid_argument(message("order must be between 1 and ", kLargestOrder, ", got ", order));
  }
  if (std::isinf(1.0 / temperature.value())) {
    throw std::invalid_argument(message("temperature is too small to divide by, got ", temperature.value()));
  }
  first_seed(seed, 0, state_count);
  require_row_memory(state_count, memory_limit);
  sampler_ = std::make_unique<Sampler>(state_count, order, temperature, seed, memory_limit);
}

ReferenceChain::~ReferenceChain() = default;
ReferenceChain::ReferenceChain(ReferenceChain&&) noexcept = default;

void ReferenceChain::sample(const ReferenceRound& round, const Rows& tokens, const RunOptions& options) const {
  const std::size_t block = block_size(round, tokens, sampler_->state_count());
  const std::size_t together = std::min(options.thread_count, round.made_count);
  sampler_->require_block_memory(static_cast<double>(together) * static_cast<double>(block) *
                                 static_cast<double>(tokens.column_count));
  const std::uint64_t first =
      first_seed(sampler_->seed(), round.iteration, std::uint64_t{tokens.column_count} * round.reference_worker_count);
  parallel_for(round.made_count, 1, options, [&](std::size_t made, std::size_t, const std::atomic<bool>& cancelled) {
    sampler_->sample_block(first + round.first_worker + made, round.reference_worker_count, made * block, block, tokens,
                           cancelled);
  });
}

void reference_iid_tokens(std::uint32_t state_count, std::uint64_t seed, const ReferenceRound& round,
                          const Rows& tokens, std::size_t memory_limit, const RunOptions& options) {
  const std::size_t block = block_size(round, tokens, state_count);
  require_row_memory(state_count, memory_limit);
  const std::uint64_t first = first_seed(seed, round.iteration, round.reference_worker_count);
  const std::vector<double> probabilities(state_count, 1.0 / state_count);
  TokenRow row;
  make_token_row(probabilities, row);
  std::array<const TokenRow*, DrawStream::kMostRows> rows;
  rows.fill(&row);
  const auto sample_block = [&](std::size_t made, std::size_t, const std::atomic<bool>& cancelled) {
    const std::uint64_t sampler_seed = first + round.first_worker + made;
    DrawStream stream;
    stream.start(Pcg64({&sampler_seed, 1}), block * tokens.column_count * (state_count / 2));
    std::vector<std::uint32_t> sequence(tokens.column_count);
    for (std::size_t i = 0; i < block && !cancelled.load(std::memory_order_relaxed); ++i) {
      for (std::size_t t = 0; t < sequence.size(); t += rows.size()) {
        const std::size_t count = std::min(rows.size(), sequence.size() - t);
        stream.next(std::span(rows).first(count), sequence.data() + t);
      }
      write_row(sequence.data(), 1, tokens, made * block + i);
    }
  };
  parallel_for(round.made_count, 1, options, sample_block);
}

}  // namespace trajmill
