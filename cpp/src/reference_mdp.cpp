#include "trajmill/reference_mdp.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "reference_rows.hpp"
#include "simd/reference_kernels.hpp"
#include "trajmill/error.hpp"
#include "trajmill/reference_random.hpp"

namespace trajmill {
namespace {

// The authors seed NumPy anew for nearly every draw; these are their seeds.
constexpr std::uint64_t kSeedsPerTrajectory = 1000, kSeedsPerStep = 333;
constexpr std::uint32_t kFirstActionSeed = 42, kFirstNextStateSeed = 666;
constexpr std::uint64_t kSeedsPerState = 888, kSeedsPerAction = 777;
constexpr std::uint64_t kSeedsPerRow = 111;  // divides both, so pairs of equal 8 * state + 7 * action share a row

constexpr std::uint64_t row_number(std::uint64_t state, std::uint64_t action) {
  return (kSeedsPerState * state + kSeedsPerAction * action) / kSeedsPerRow;
}

// The law of one kind of draw, actions or next states: a row of `value_count` for each seed that `seeds_per_row`
// divides.
class SeededRows {
 public:
  SeededRows(std::uint64_t row_count, std::uint32_t value_count, std::uint64_t seeds_per_row, Temperature temperature,
             std::size_t memory_limit)
      : value_count_(value_count),
        seeds_per_row_(seeds_per_row),
        temperature_(temperature.value()),
        cache_(std::isinf(temperature_) ? 0 : row_count, memory_limit) {}

  // NumPy's choice() under a seed whose first two words are these: by row `number`, or uniformly.
  std::uint32_t choose(std::uint64_t number, std::uint32_t seed, std::uint32_t first, std::uint32_t second,
                       CumulativeRow& scratch) {
    if (std::isinf(temperature_)) return choose_uniformly(seed, first, second);
    const auto build = [&](CumulativeRow& fresh) { fill(static_cast<std::uint32_t>(number * seeds_per_row_), fresh); };
    return cache_.get(number, scratch, build).pick(Mt19937::to_double(first, second));
  }

 private:
  [[nodiscard]] std::uint32_t choose_uniformly(std::uint32_t seed, std::uint32_t first,
                                               std::uint32_t second) const noexcept {
    const std::uint32_t mask = Mt19937::mask_below(value_count_);
    if ((first & mask) < value_count_) return first & mask;
    if ((second & mask) < value_count_) return second & mask;
    return Mt19937(seed).next_below(value_count_);
  }

  // Logits in double precision, their softmax in single, its running sums in double.
  void fill(std::uint32_t seed, CumulativeRow& row) const {
    Mt19937 generator(seed);
    std::vector<float> probabilities(value_count_);
    for (float& x : probabilities) x = static_cast<float>(generator.next_double() / temperature_);
    softmax_in_place(std::span(probabilities));
    row.assign(std::vector<double>(probabilities.begin(), probabilities.end()));
  }

  std::uint32_t value_count_;
  std::uint64_t seeds_per_row_;
  double temperature_;
  RowCache<CumulativeRow> cache_;
};

void require_valid(const ReferenceMDPLaw& law, const ReferenceTransitions& out) {
  if (law.state_count == 0 || law.action_count == 0) {
    throw std::invalid_argument(
        message("state_count and action_count must be >= 1, got ", law.state_count, " and ", law.action_count));
  }
  if (std::isinf(law.policy_temperature.value()) && std::isinf(law.transition_temperature.value())) {
    throw std::invalid_argument(
        "with both temperatures infinite the authors' program draws without a seed, so there is nothing to reproduce; "
        "use trajmill.MDP for uniform transitions");
  }
  for (const Temperature& temperature : {law.policy_temperature, law.transition_temperature}) {
    if (std::isinf(static_cast<float>(1.0 / temperature.value()))) {
      throw std::invalid_argument(
          message("a temperature is too small for logits in single precision, got ", temperature.value()));
    }
  }
  if (Uint128{out.first_trajectory} + out.trajectory_count > law.trajectory_count) {
    throw std::invalid_argument(message("there are ", law.trajectory_count, " trajectories, asked for ",
                                        out.trajectory_count, " from number ", out.first_trajectory));
  }
  const Uint128 last_draw =
      kFirstNextStateSeed + kSeedsPerTrajectory * Uint128{law.trajectory_count} + kSeedsPerStep * Uint128{out.length};
  const Uint128 last_row = kSeedsPerState * Uint128{law.state_count} + kSeedsPerAction * Uint128{law.action_count};
  if (last_draw >> 32 || last_row >> 32) {
    throw std::invalid_argument(
        message("seeds of the authors' program must stay below 2^32: 666 + 1000 * trajectory_count + 333 * length and "
                "888 * state_count + 777 * action_count, got ",
                law.trajectory_count, ", ", out.length, ", ", law.state_count, " and ", law.action_count));
  }
}

}  // namespace

void reference_mdp_transitions(const ReferenceMDPLaw& law, std::size_t memory_limit, const ReferenceTransitions& out,
                               const RunOptions& options) {
  require_valid(law, out);
  SeededRows policy(law.state_count, law.action_count, 1, law.policy_temperature, memory_limit / 2);
  SeededRows transition(row_number(law.state_count, law.action_count), law.state_count, kSeedsPerRow,
                        law.transition_temperature, memory_limit / 2);
  const simd::ReferenceKernels kernels = simd::reference_kernels();
  const auto start_state = [&](std::uint64_t trajectory) {
    const std::uint64_t seed = law.random_start ? trajectory : law.trajectory_count;
    return Mt19937(static_cast<std::uint32_t>(seed)).next_below(law.state_count);
  };

  // Trajectories advance together, because their seeds are known beforehand and their draws do not wait for each other.
  constexpr std::size_t kGroup = 64;
  const auto sample_group = [&](std::size_t first, std::size_t count, const std::atomic<bool>& cancelled) {
    std::uint32_t states[kGroup], action_seeds[kGroup], next_seeds[kGroup];
    std::uint32_t action_words[2][kGroup], next_words[2][kGroup];
    CumulativeRow scratch;
    for (std::size_t k = 0; k < count; ++k) states[k] = start_state(out.first_trajectory + first + k);
    for (std::size_t t = 0; t < out.length && !cancelled.load(std::memory_order_relaxed); ++t) {
      for (std::size_t k = 0; k < kGroup; ++k) {
        const auto seed =
            static_cast<std::uint32_t>(kSeedsPerTrajectory * (out.first_trajectory + first + k) + kSeedsPerStep * t);
        action_seeds[k] = kFirstActionSeed + seed;
        next_seeds[k] = kFirstNextStateSeed + seed;
      }
      kernels.first_words(action_seeds, action_words[0], action_words[1], kGroup);
      kernels.first_words(next_seeds, next_words[0], next_words[1], kGroup);
      for (std::size_t k = 0; k < count; ++k) {
        const std::size_t at = (first + k) * out.length + t;
        out.observations[at] = states[k];
        const std::uint32_t action =
            policy.choose(states[k], action_seeds[k], action_words[0][k], action_words[1][k], scratch);
        states[k] = transition.choose(row_number(states[k], action), next_seeds[k], next_words[0][k], next_words[1][k],
                                      scratch);
        out.actions[at] = action;
        out.next_observations[at] = states[k];
      }
    }
  };
  parallel_for(out.trajectory_count, kGroup, options,
               [&](std::size_t begin, std::size_t end, const std::atomic<bool>& cancelled) {
                 sample_group(begin, end - begin, cancelled);
               });
}

}  // namespace trajmill
