// Sampling by rejection. Every lane makes one proposal at a time and moves on to its next value when it is accepted, so
// lanes drift apart; proposal n of a sequence is word n % 4 of block n / 4 of its stream, whatever it is for.
#pragma once

#include "sampling.hpp"

namespace trajmill::simd {

template <class V>
struct Proposal {
  typename V::Vec value;
  typename V::Mask accepted;
  typename V::Mask open;  // the top half of the uniform number does not decide
};

// Logit keys that differ from lane to lane.
template <class V>
struct LaneKeys {
  typename V::Pair even_key, odd_key;

  TRAJMILL_INLINE typename V::Pair even(int round) const {
    return V::add(even_key, V::half(static_cast<std::uint32_t>(round) * kPhiloxWeyl0));
  }
  TRAJMILL_INLINE typename V::Pair odd(int round) const {
    return V::add(odd_key, V::half(static_cast<std::uint32_t>(round) * kPhiloxWeyl1));
  }
};

// What `word`, the top half of a uniform number, proposes in the rows row_low + 2^32 row_high + 2^64 row_top of
// `columns` columns; row_high and row_top are 0 unless `wide`.
template <class V, bool wide, class Keys>
TRAJMILL_INLINE Proposal<V> propose(const Keys& keys, typename V::Pair word, typename V::Vec columns,
                                    typename V::Vec row_low, typename V::Vec row_high, const std::uint32_t* decisions,
                                    typename V::Vec first_decision, typename V::Pair row_top = V::same(V::half(0))) {
  constexpr int kLogitShift = 32 - kDecisionBits;
  const auto product = V::multiply(word, V::spread(columns));
  const auto column = V::pack_high(product);
  const auto fraction = V::pack_low(product);
  typename V::Pair c[4] = {V::spread(V::template shift_right<2>(column)), V::spread(row_low), V::spread(row_high),
                           row_top};
  if constexpr (wide) {
    philox_rounds<V, 0, kLogitRounds>(keys, c);
  } else {  // the first round, with what multiplies zero left out
    const auto product0 = V::multiply(c[0], V::half(kPhiloxMultiplier0));
    c[0] = V::exclusive_or(c[1], keys.even(0));
    c[1] = V::same(V::half(0));
    c[2] = V::exclusive_or(V::high(product0), keys.odd(0));
    c[3] = product0;
    philox_rounds<V, 1, kLogitRounds>(keys, c);
  }
  const auto odd = V::test(column, V::vec(1));
  const auto logit = V::select(V::test(column, V::vec(2)), V::select(odd, V::pack_low(c[3]), V::pack_low(c[2])),
                               V::select(odd, V::pack_low(c[1]), V::pack_low(c[0])));
  const auto decision = V::gather(decisions, V::add(first_decision, V::template shift_right<kLogitShift>(logit)));
  const auto accepted = V::below(fraction, V::template shift_left<16>(decision));
  const auto refused = V::both(V::below(V::bit_or(decision, V::vec(0xFFFF)), fraction),
                               V::below(fraction, V::subtract(V::vec(0), columns)));
  return {column, accepted, V::neither(accepted, refused)};
}

// The number of the row of one lane.
template <class V>
std::uint64_t row_of_lane(typename V::Vec row_low, typename V::Vec row_high, std::size_t lane) {
  alignas(64) std::uint32_t low[V::kLanes], high[V::kLanes];
  V::store(low, row_low), V::store(high, row_high);
  return low[lane] | std::uint64_t{high[lane]} << 32;
}

// What a chain is between two tokens. Without memory beyond one state (`deep` false) rows are numbered in 32 bits.
template <class V, bool deep>
class ChainWalk {
 public:
  using Arguments = ImplicitChainArguments;
  using Vec = typename V::Vec;
  struct Shared {
    SharedKeys<V> logit_keys;
    explicit Shared(const Arguments& arguments) : logit_keys(arguments.rows.logit_key) {}
  };

  static const Sequences& sequences(const Arguments& arguments) { return arguments.sequences; }
  static std::uint32_t first_value(const Arguments& arguments, std::uint64_t sequence) {
    return arguments.uniform_initial ? uniform_start(arguments.start_key, sequence, arguments.rows.column_count)
                                     : kNoValue;
  }

  void start(const Arguments& arguments, Vec first, std::size_t, std::size_t, int) {
    row_low_ = row_high_ = V::vec(0);
    if (deep) {
      for (std::uint32_t k = 0; k < arguments.order; ++k) history_[k] = V::vec(0);
    }
    if (arguments.uniform_initial) move(arguments, V::below(first, V::vec(kNoValue)), first);
  }

  TRAJMILL_INLINE Proposal<V> propose(const Arguments& arguments, const Shared& shared, typename V::Pair word) const {
    return simd::propose<V, deep>(shared.logit_keys, word, V::vec(arguments.rows.column_count), row_low_, row_high_,
                                  arguments.rows.decisions, V::vec(0));
  }
  TRAJMILL_INLINE Vec refusal_limit(const Arguments& arguments) const { return V::vec(arguments.rows.refusal_limit); }

  TRAJMILL_INLINE void advance(const Arguments& arguments, const Shared&, typename V::Mask accepted, Vec value) {
    move(arguments, accepted, value);
  }
  TRAJMILL_INLINE void move(const Arguments& arguments, typename V::Mask accepted, Vec value) {
    const Vec digit = V::add(value, V::vec(1));
    if constexpr (!deep) {
      if (arguments.order == 1) row_low_ = V::select(accepted, digit, row_low_);
    } else {
      const auto oldest = V::spread(history_[0]);
      const auto row = V::join(row_low_, row_high_);
      const auto next = V::subtract(multiply_64(row, arguments.radix), multiply_32(oldest, arguments.oldest_weight));
      const auto sum = V::add(next, V::join(digit, V::vec(0)));
      row_low_ = V::select(accepted, V::pack_low(sum), row_low_);
      row_high_ = V::select(accepted, V::pack_high(sum), row_high_);
      for (std::uint32_t k = 0; k < arguments.order; ++k) {
        history_[k] = V::select(accepted, k + 1 < arguments.order ? history_[k + 1] : digit, history_[k]);
      }
    }
  }

  static constexpr int kColumns = 1;
  TRAJMILL_INLINE Vec emitted(int, Vec value) const { return value; }
  static RowsView rows(const Arguments& arguments, int) { return arguments.tokens; }
  static std::size_t length(const Arguments& arguments, int) { return arguments.length; }

  // What the top half of proposal `number` of lane `lane` left open, or a scan in its place.
  std::uint32_t finish(const Arguments& arguments, std::size_t lane, std::uint64_t sequence, std::uint64_t number,
                       bool scan) const {
    return finish_rejected(*arguments.rows.rows, arguments.proposal_key, sequence, number,
                           row_of_lane<V>(row_low_, row_high_, lane), scan);
  }

 private:
  using Pair = typename V::Pair;

  static TRAJMILL_INLINE Pair multiply_32(Pair a, std::uint64_t b) {  // modulo 2^64, the low halves of a
    return V::add(V::multiply(a, V::half(static_cast<std::uint32_t>(b))),
                  V::to_high(V::multiply(a, V::half(static_cast<std::uint32_t>(b >> 32)))));
  }
  static TRAJMILL_INLINE Pair multiply_64(Pair a, std::uint64_t b) {
    return V::add(multiply_32(a, b), V::to_high(V::multiply(V::high(a), V::half(static_cast<std::uint32_t>(b)))));
  }

  Vec row_low_, row_high_;
  Vec history_[deep ? 32 : 1];  // the last `order` digits, oldest first
};

// What an MDP is between two draws: about to act in a state, or to move on from a state and an action.
template <class V>
class MDPWalk {
 public:
  using Arguments = ImplicitMDPArguments;
  using Vec = typename V::Vec;
  struct Shared {
    explicit Shared(const Arguments&) {}
  };

  static const Sequences& sequences(const Arguments& arguments) { return arguments.trajectories; }
  static std::uint32_t first_value(const Arguments& arguments, std::uint64_t trajectory) {
    return uniform_start(arguments.start_key, arguments.fixed_start ? 0 : trajectory,
                         arguments.transition.column_count);
  }

  void start(const Arguments&, Vec first, std::size_t, std::size_t, int) {
    row_low_ = first;
    row_high_ = V::vec(0);
    moving_ = V::vec(0);
  }

  TRAJMILL_INLINE Proposal<V> propose(const Arguments& arguments, const Shared&, typename V::Pair word) const {
    const auto& policy = arguments.policy;
    const auto& transition = arguments.transition;
    const LaneKeys<V> keys{V::spread(choose(static_cast<std::uint32_t>(policy.logit_key),
                                            static_cast<std::uint32_t>(transition.logit_key))),
                           V::spread(choose(static_cast<std::uint32_t>(policy.logit_key >> 32),
                                            static_cast<std::uint32_t>(transition.logit_key >> 32)))};
    return simd::propose<V, true>(keys, word, choose(policy.column_count, transition.column_count), row_low_, row_high_,
                                  arguments.decisions, choose(0, 1 << kDecisionBits));
  }
  TRAJMILL_INLINE Vec refusal_limit(const Arguments& arguments) const {
    return choose(arguments.policy.refusal_limit, arguments.transition.refusal_limit);
  }

  TRAJMILL_INLINE void advance(const Arguments& arguments, const Shared&, typename V::Mask accepted, Vec value) {
    const auto moving = is_moving();
    const auto pair =
        V::add(V::multiply(V::spread(row_low_), V::half(arguments.policy.column_count)), V::join(value, V::vec(0)));
    row_low_ = V::select(accepted, V::select(moving, value, V::pack_low(pair)), row_low_);
    row_high_ = V::select(accepted, V::select(moving, V::vec(0), V::pack_high(pair)), row_high_);
    moving_ = V::select(accepted, V::subtract(V::vec(1), moving_), moving_);
  }

  static constexpr int kColumns = 2;  // states, actions
  TRAJMILL_INLINE Vec emitted(int column, Vec value) const {
    return column == 0 ? V::select(is_moving(), value, V::vec(kNoValue))
                       : V::select(is_moving(), V::vec(kNoValue), value);
  }
  static RowsView rows(const Arguments& arguments, int column) {
    return column == 0 ? arguments.states : arguments.actions;
  }
  static std::size_t length(const Arguments& arguments, int column) { return arguments.length + (column == 0); }

  std::uint32_t finish(const Arguments& arguments, std::size_t lane, std::uint64_t trajectory, std::uint64_t number,
                       bool scan) const {
    alignas(64) std::uint32_t moving[V::kLanes];
    V::store(moving, moving_);
    return finish_rejected(moving[lane] == 0 ? *arguments.policy.rows : *arguments.transition.rows,
                           arguments.proposal_key, trajectory, number, row_of_lane<V>(row_low_, row_high_, lane), scan);
  }

 private:
  TRAJMILL_INLINE typename V::Mask is_moving() const { return V::test(moving_, V::vec(1)); }
  TRAJMILL_INLINE Vec choose(std::uint32_t policy, std::uint32_t transition) const {
    return V::select(is_moving(), V::vec(transition), V::vec(policy));
  }

  Vec row_low_, row_high_;  // the state, or state x action_count + action
  Vec moving_;              // 1 where the next draw is a state
};

// One output on its way: what each lane had accepted in kTries proposals, then values waiting to fill a cache line, so
// that rows are written a line at a time however far the lanes have drifted apart.
template <class V, int Groups>
class Sieve {
 public:
  static constexpr int kTries = 16;
  static constexpr std::size_t kLanes = Groups * V::kLanes;

  // What proposal `attempt` gave, or kNoValue.
  TRAJMILL_INLINE void put(int attempt, int group, typename V::Vec value) {
    V::store(words_[attempt] + group * V::kLanes, value);
  }

  // Appends one value to the row of lane `lane`.
  void push(std::size_t lane, std::uint32_t value) { waiting_[lane][waiting_count_[lane]++] = value; }

  // Moves what was accepted towards rows [row, row + row_count) of `length` values; true once all are full.
  bool flush(const RowsView& rows, std::size_t row, std::size_t row_count, std::size_t length) {
    switch (rows.element_size) {
      case 1: return flush_as<std::uint8_t>(rows, row, row_count, length);
      case 2: return flush_as<std::uint16_t>(rows, row, row_count, length);
      case 4: return flush_as<std::uint32_t>(rows, row, row_count, length);
      default: return flush_as<std::uint64_t>(rows, row, row_count, length);
    }
  }

  // Whether the row of lane `lane` needs no more values.
  [[nodiscard]] bool is_full(std::size_t lane, std::size_t length) const { return written_[lane] == length; }

 private:
  static constexpr std::size_t kBatch = 64;  // rarely enough for branch prediction, and whole cache lines

  void sift() {
    for (std::size_t first = 0; first < kLanes; first += V::kLanes) {
      if constexpr (requires { V::sift(words_[0], kLanes, waiting_[0], kWaiting, waiting_count_); }) {
        V::sift(words_[0] + first, kLanes, waiting_[first], kWaiting, waiting_count_ + first);
      } else {
        for (std::size_t lane = first; lane < first + V::kLanes; ++lane) {
          std::uint32_t count = waiting_count_[lane];
          for (int k = 0; k < kTries; ++k) {  // a refused value is overwritten by the next
            const std::uint32_t value = words_[k][lane];
            waiting_[lane][count] = value;
            count += value != kNoValue;
          }
          waiting_count_[lane] = count;
        }
      }
    }
  }

  template <class T>
  bool flush_as(const RowsView& rows, std::size_t row, std::size_t row_count, std::size_t length) {
    sift();
    bool full = true;
    for (std::size_t lane = row_count; lane < kLanes; ++lane) waiting_count_[lane] = 0;
    for (std::size_t lane = 0; lane < row_count; ++lane) {
      T* const out = reinterpret_cast<T*>(rows.data + (row + lane) * rows.row_bytes) + written_[lane];
      const std::size_t left = length - written_[lane];
      std::uint32_t* const waiting = waiting_[lane];
      if (waiting_count_[lane] >= kBatch && left >= kBatch) {
        for (std::size_t k = 0; k < kBatch; ++k) out[k] = static_cast<T>(waiting[k]);
        for (std::size_t k = 0; k < kTries; ++k) waiting[k] = waiting[kBatch + k];
        waiting_count_[lane] -= static_cast<std::uint32_t>(kBatch);
        written_[lane] += kBatch;
      } else if (waiting_count_[lane] >= left) {
        for (std::size_t k = 0; k < left; ++k) out[k] = static_cast<T>(waiting[k]);
        waiting_count_[lane] = 0;
        written_[lane] = length;
      }
      full = full && written_[lane] == length;
    }
    return full;
  }

  static constexpr std::size_t kWaiting = kBatch + kTries;  // less than a batch, and what comes next
  alignas(64) std::uint32_t words_[kTries][kLanes];
  alignas(64) std::uint32_t waiting_[kLanes][kWaiting];
  std::uint32_t waiting_count_[kLanes] = {};
  std::size_t written_[kLanes] = {};
};

// Finishes what the kernel rejected: lanes whose proposals the top half does not decide, and those that scan.
template <class V, class Walk>
__attribute__((noinline)) void finish_rejected_lanes(const typename Walk::Arguments& arguments, const Walk& walk,
                                                     Proposal<V>& proposal, std::uint32_t lanes, std::uint32_t scanning,
                                                     std::size_t row, std::uint64_t number) {
  const auto none = V::vec(kNoValue);
  alignas(64) std::uint32_t values[V::kLanes];
  V::store(values, V::select(proposal.accepted, proposal.value, none));
  for (std::size_t lane = 0; lane < V::kLanes; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    values[lane] =
        walk.finish(arguments, lane, Walk::sequences(arguments)[row + lane], number, (scanning >> lane & 1) != 0);
  }
  proposal.value = V::load(values);
  proposal.accepted = V::below(proposal.value, none);
}

template <class V, class Walk, int Groups>
void sample_implicit_rows(const typename Walk::Arguments& arguments, std::size_t row, std::size_t row_count,
                          const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  constexpr int kTries = Sieve<V, Groups>::kTries;
  const SharedKeys<V> keys(arguments.proposal_key);
  const typename Walk::Shared shared(arguments);
  const Vec none = V::vec(kNoValue);

  Stream<V> stream[Groups];
  Walk walk[Groups];
  Vec deadline[Groups];                   // the proposal that gives way to a scan
  std::uint32_t unfinished[Groups] = {};  // lanes, one bit each
  Sieve<V, Groups> sieve[Walk::kColumns];
  for (int g = 0; g < Groups; ++g) {
    const std::size_t before = static_cast<std::size_t>(g) * V::kLanes;
    stream[g].start(arguments.proposal_key, load_group<V>(Walk::sequences(arguments), row, row_count, g));
    alignas(64) std::uint32_t first[V::kLanes] = {};
    for (std::size_t lane = 0; lane < V::kLanes && before + lane < row_count; ++lane) {
      first[lane] = Walk::first_value(arguments, Walk::sequences(arguments)[row + before + lane]);
      if (first[lane] != kNoValue) sieve[0].push(before + lane, first[lane]);
      unfinished[g] |= std::uint32_t{1} << lane;
    }
    walk[g].start(arguments, V::load(first), row, row_count, g);
    deadline[g] = walk[g].refusal_limit(arguments);
  }

  for (std::uint64_t proposal = 0; !cancelled.load(std::memory_order_relaxed); proposal += kTries) {
    for (int block = 0; block < kTries; block += 4) {
      typename V::Pair words[Groups][4];
      for (int g = 0; g < Groups; ++g) stream[g].draw(keys, (proposal + static_cast<unsigned>(block)) / 4, words[g]);
      for_each_step([&](int step) __attribute__((always_inline)) {
        const std::uint64_t now = proposal + static_cast<unsigned>(block + step);
        const Vec here = V::vec(static_cast<std::uint32_t>(now)), next = V::vec(static_cast<std::uint32_t>(now + 1));
        Proposal<V> proposals[Groups];
        std::uint32_t open[Groups], any_open = 0;  // lanes
        for (int g = 0; g < Groups; ++g) {
          proposals[g] = walk[g].propose(arguments, shared, words[g][step]);
          open[g] = V::bits(V::either(proposals[g].open, V::equal(deadline[g], here))) & unfinished[g];
          any_open |= open[g];
        }
        if (any_open != 0) [[unlikely]] {
          for (int g = 0; g < Groups; ++g) {
            if (open[g] == 0) continue;
            finish_rejected_lanes<V>(arguments, walk[g], proposals[g], open[g], V::bits(V::equal(deadline[g], here)),
                                     row + static_cast<std::size_t>(g) * V::kLanes, now);
          }
        }
        for (int g = 0; g < Groups; ++g) {
          const auto [column, accepted, undecided] = proposals[g];
          const Vec value = V::select(accepted, column, none);
          for (int k = 0; k < Walk::kColumns; ++k) sieve[k].put(block + step, g, walk[g].emitted(k, value));
          walk[g].advance(arguments, shared, accepted, column);
          deadline[g] = V::select(accepted, V::add(next, walk[g].refusal_limit(arguments)), deadline[g]);
        }
      });
    }
    bool full = true;
    for (int k = 0; k < Walk::kColumns; ++k) {
      full &= sieve[k].flush(Walk::rows(arguments, k), row, row_count, Walk::length(arguments, k));
    }
    if (full) return;
    for (std::size_t lane = 0; lane < row_count; ++lane) {
      bool lane_full = true;
      for (int k = 0; k < Walk::kColumns; ++k) lane_full &= sieve[k].is_full(lane, Walk::length(arguments, k));
      if (lane_full) unfinished[lane / V::kLanes] &= ~(std::uint32_t{1} << lane % V::kLanes);
    }
  }
}

template <class V, class Walk>
void sample_implicit(const typename Walk::Arguments& arguments, std::size_t begin, std::size_t end,
                     const std::atomic<bool>& cancelled) {
  split_rows<V, V::kImplicitGroups>(
      begin, end,
      [&](std::size_t row, std::size_t count) {
        sample_implicit_rows<V, Walk, V::kImplicitGroups>(arguments, row, count, cancelled);
      },
      [&](std::size_t row, std::size_t count) { sample_implicit_rows<V, Walk, 1>(arguments, row, count, cancelled); });
}

template <class V>
void sample_implicit_chain(const ImplicitChainArguments& arguments, std::size_t begin, std::size_t end,
                           const std::atomic<bool>& cancelled) {
  return arguments.order > 1 ? sample_implicit<V, ChainWalk<V, true>>(arguments, begin, end, cancelled)
                             : sample_implicit<V, ChainWalk<V, false>>(arguments, begin, end, cancelled);
}

template <class V>
constexpr Kernels kernels_of() noexcept {
  return {sample_chain<V>,    sample_mdp<V>,     sample_implicit_chain<V>, sample_implicit<V, MDPWalk<V>>,
          philox_checksum<V>, lookup_checksum<V>};
}

}  // namespace trajmill::simd
