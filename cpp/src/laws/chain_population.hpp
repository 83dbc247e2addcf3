// Populations of chains. Task z has a law of its own for every context of a token, a context being the number with the
// digits state + 1 to the base of the states, oldest first, 0 where there is no token yet.
//
// Three ways to draw: from tables, of a pool of tasks or made for each sequence; by proposals against hashed logits
// (simd/implicit.hpp); and from urns, which need no rows at all.
#pragma once

#include "simd/implicit.hpp"
#include "simd/law_kernel.hpp"
#include "trajmill/error.hpp"
#include "trajmill/implicit_rows.hpp"

namespace trajmill::laws::chain_population {

enum Number : std::size_t {
  kBackend,
  kStates,
  kInitial,
  kByParents,  // the first table holds parents + 1, and lags otherwise
  kPerTask,    // sequences of one task
  kTaskCount,  // of a pool, 0 without
  kFirstTask,
  kTaskKey,  // which task of the pool a sequence has
  kDrawKey,  // tokens or proposals
  kRowKey,   // logits, exponential variates or urns
  kGammaKey,
  kParameter,  // implicit: temperature; made tables: alpha (0.0 where the second table has factors of a softmax);
               // urn: states x alpha x 2^16, 0 for infinity
  kNumbers
};
enum Backend : std::uint64_t { kTable, kImplicit, kUrn };
enum Initial : std::uint64_t { kRow, kUniform, kStationary };

// Tables: lags or parents; and what the backend needs, namely decisions of proposals, factors of exponentials, or alias
// cells of a pool, row z contexts + c.
inline constexpr std::size_t kTables = 2;
inline constexpr std::uint32_t kMostStates = 16, kFactors = 4096;  // of made tables; in each half of the factors
inline constexpr std::uint64_t kLongestLag = 1 << 16, kLongestTree = 1 << 20, kMostMadeRows = 4096;
inline constexpr std::uint32_t kNever = 0xFFFFFFFF;

TRAJMILL_INLINE std::uint64_t context_count(const simd::LawView& law) {
  const std::uint64_t states = law.numbers[kStates], digits = law.numbers[kByParents] != 0 ? 1 : law.tables[0].size;
  std::uint64_t count = 1;
  for (std::uint64_t k = 0; k < digits && count >> 32 == 0; ++k) count = count * states + 1;
  return count;
}

inline void check(const simd::LawView& law) {
  require(law.number_count == kNumbers && law.table_count == kTables, "a population of chains has ",
          std::size_t{kNumbers}, " numbers and ", kTables, " tables");
  const auto within = [&](Number at, std::uint64_t least, std::uint64_t most) {
    require(law.numbers[at] >= least && law.numbers[at] <= most, "number ", std::size_t{at},
            " of a population of chains must be ", least, " to ", most, ", got ", law.numbers[at]);
  };
  const std::uint64_t* const numbers = law.numbers;
  const simd::LawTable past = law.tables[0], other = law.tables[1];
  within(kBackend, kTable, kUrn);
  within(kStates, 1, 0xFFFFFFFF);
  within(kInitial, kRow, kStationary);
  within(kByParents, 0, 1);
  within(kPerTask, 1, std::uint64_t{1} << 32);
  within(kTaskCount, 0, 0xFFFFFFFF);
  if (numbers[kByParents] != 0) {
    require(past.size <= kLongestTree, "a tree may have ", kLongestTree, " tokens, got ", past.size);
    for (std::size_t t = 0; t < past.size; ++t)
      require(past.words[t] <= t, "the parent of token ", t, " must precede it");
  } else {
    std::uint64_t before = 0;
    for (std::size_t k = 0; k < past.size; ++k) {
      require(past.words[k] > before && past.words[k] <= kLongestLag, "lags must increase from 1 to at most ",
              kLongestLag);
      before = past.words[k];
    }
  }
  const std::uint64_t contexts = context_count(law), states = numbers[kStates];
  require(contexts >> 32 == 0, "there must be fewer than 2^32 contexts");
  const auto has = [&](std::uint64_t words) {
    require(other.size == words, "the second table of this population of chains must have ", words, " words, got ",
            other.size);
  };
  if (numbers[kBackend] == kImplicit) {
    within(kInitial, kRow, kUniform);
    has(std::uint64_t{1} << simd::kDecisionBits);
    (void)Temperature(__builtin_bit_cast(double, numbers[kParameter]));
  } else if (numbers[kBackend] == kUrn) {
    within(kInitial, kRow, kUniform);
    within(kTaskCount, 0, 0);
    within(kParameter, 0, std::uint64_t{1} << 62);
    has(0);
  } else if (numbers[kTaskCount] != 0) {
    const bool narrow = states <= 256;
    const std::uint64_t most = ((std::uint64_t{1} << 31) - 1) / states / contexts;
    require(numbers[kTaskCount] <= most, "a table of so many states and contexts holds ", most, " tasks, got ",
            numbers[kTaskCount]);
    const std::uint64_t cells = numbers[kTaskCount] * contexts * states;
    has(narrow ? cells : 2 * cells);
    for (std::size_t k = 0; k < cells; ++k) {
      require((narrow ? other.words[k] & 0xFF : other.words[2 * k + 1]) < states, "an alias must be below ", states);
    }
  } else {
    within(kStates, 1, kMostStates);
    require(contexts <= kMostMadeRows, "tables are made for at most ", kMostMadeRows, " contexts, got ", contexts);
    require(numbers[kInitial] != kStationary || contexts == states + 1,
            "a stationary law is found where a context is one state");
    const auto alpha = __builtin_bit_cast(double, numbers[kParameter]);
    require(alpha == 0.0 || alpha >= 0x1p-24, "alpha must be at least 2^-24, got ", alpha);
    has(alpha == 0.0 ? 2 * kFactors : 0);
  }
}

// The task of a sequence, and its place among the sequences of that task.
struct Task {
  std::uint64_t number;
  std::uint32_t place;
};

template <class V>
TRAJMILL_INLINE Task task_of(const simd::LawView& law, std::uint64_t sequence) {
  const std::uint64_t* const numbers = law.numbers;
  if (numbers[kTaskCount] != 0) {
    const auto count = static_cast<std::uint32_t>(numbers[kTaskCount]);
    return {numbers[kFirstTask] + simd::uniform_start(numbers[kTaskKey], sequence, count), 0};
  }
  if (numbers[kPerTask] == 1) return {numbers[kFirstTask] + sequence, 0};
  return {numbers[kFirstTask] + sequence / numbers[kPerTask], static_cast<std::uint32_t>(sequence % numbers[kPerTask])};
}

// The tasks of one vector of sequences; those past the last row repeat it.
template <class V>
struct Tasks {
  typename V::Vec low, high, place;

  TRAJMILL_INLINE void load(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, int group) {
    alignas(64) std::uint32_t lows[V::kLanes], highs[V::kLanes], places[V::kLanes];
    for (std::size_t lane = 0; lane < V::kLanes; ++lane) {
      const std::size_t at = static_cast<std::size_t>(group) * V::kLanes + lane;
      const Task task = task_of<V>(arguments.law, arguments.sequences[row + (at < row_count ? at : row_count - 1)]);
      lows[lane] = static_cast<std::uint32_t>(task.number);
      highs[lane] = static_cast<std::uint32_t>(task.number >> 32);
      places[lane] = task.place;
    }
    low = V::load(lows), high = V::load(highs), place = V::load(places);
  }
};

template <class V>
TRAJMILL_INLINE typename V::Vec lane_numbers() {
  alignas(64) std::uint32_t numbers[V::kLanes];
  for (std::uint32_t lane = 0; lane < V::kLanes; ++lane) numbers[lane] = lane;
  return V::load(numbers);
}

// The tokens that contexts are made of, as digits in slots of one vector each: by lags a ring, by parents all tokens
// behind a slot that stays zero.
template <class V>
class Past {
 public:
  using Vec = typename V::Vec;

  explicit Past(const simd::LawView& law)
      : by_parents_(law.numbers[kByParents] != 0),
        states_(static_cast<std::uint32_t>(law.numbers[kStates])),
        table_(law.tables[0].words),
        size_(static_cast<std::uint32_t>(law.tables[0].size)),
        ring_(slot_count(law) - 1) {}

  // Whether a context is more than the last token, or nothing.
  static bool is_deep(const simd::LawView& law) {
    const simd::LawTable& table = law.tables[0];
    return law.numbers[kByParents] != 0 || table.size > 1 || (table.size == 1 && table.words[0] != 1);
  }

  static std::uint32_t slot_count(const simd::LawView& law) {
    const simd::LawTable& table = law.tables[0];
    if (law.numbers[kByParents] != 0) return static_cast<std::uint32_t>(table.size) + 2;
    std::uint32_t count = 1;
    while (table.size != 0 && count <= table.words[table.size - 1]) count *= 2;
    return count;
  }

  static std::size_t bytes(const simd::LawView& law) { return std::size_t{slot_count(law)} * sizeof(Vec); }

  void clear(std::uint32_t* slots) const {
    for (std::size_t k = 0; k <= ring_; ++k) V::store(slots + k * V::kLanes, V::vec(0));
  }

  // Where all lanes are at the same token.
  TRAJMILL_INLINE void put(std::uint32_t* slots, std::uint32_t time, Vec digit) const {
    const std::uint32_t slot = by_parents_ ? (time < size_ ? time : size_) + 1 : time & ring_;
    V::store(slots + std::size_t{slot} * V::kLanes, digit);
  }
  TRAJMILL_INLINE Vec context(const std::uint32_t* slots, std::uint32_t time) const {
    const auto digit = [&](std::uint32_t slot) { return V::load(slots + std::size_t{slot} * V::kLanes); };
    if (by_parents_) return digit(time < size_ ? table_[time] : 0);
    Vec context = V::vec(0);
    for (std::uint32_t k = size_; k-- > 0;) {
      context = V::add(V::multiply_low(context, V::vec(states_)), digit((time - table_[k]) & ring_));
    }
    return context;
  }

  // Where each lane is at a token of its own. What a lane puts twice at one time is kept the second time.
  TRAJMILL_INLINE void put(std::uint32_t* slots, Vec time, Vec lane, Vec digit) const {
    const Vec slot = by_parents_ ? V::add(V::select(is_in_tree(time), time, V::vec(size_)), V::vec(1))
                                 : V::bit_and(time, V::vec(ring_));
    V::scatter(slots, index(slot, lane), digit);
  }
  TRAJMILL_INLINE Vec context(const std::uint32_t* slots, Vec time, Vec lane) const {
    if (by_parents_) {
      if (size_ == 0) return V::vec(0);
      const auto in_tree = is_in_tree(time);
      const Vec parent = V::gather(table_, V::select(in_tree, time, V::vec(0)));
      return V::gather(slots, index(V::select(in_tree, parent, V::vec(0)), lane));
    }
    Vec context = V::vec(0);
    for (std::uint32_t k = size_; k-- > 0;) {
      const Vec slot = V::bit_and(V::subtract(time, V::vec(table_[k])), V::vec(ring_));
      context = V::add(V::multiply_low(context, V::vec(states_)), V::gather(slots, index(slot, lane)));
    }
    return context;
  }

 private:
  TRAJMILL_INLINE typename V::Mask is_in_tree(Vec time) const { return V::below(time, V::vec(size_)); }
  static TRAJMILL_INLINE Vec index(Vec slot, Vec lane) {
    return V::add(V::multiply_low(slot, V::vec(V::kLanes)), lane);
  }

  bool by_parents_;
  std::uint32_t states_;
  const std::uint32_t* table_;
  std::uint32_t size_, ring_;
};

// --- implicit: proposals against hashed logits ---

struct ProposalArguments {
  const simd::LawArguments* law;
  std::uint64_t proposal_key;
  std::uint32_t states, refusal_limit;
  ImplicitLaw rows, uniform;
  std::uint32_t* slots;  // of all groups
};

template <class V, bool deep>
class ProposalWalk {
 public:
  using Arguments = ProposalArguments;
  using Vec = typename V::Vec;
  struct Shared {
    simd::SharedKeys<V> logit_keys;
    Past<V> past;
    Vec lane;
    explicit Shared(const Arguments& arguments)
        : logit_keys(arguments.law->law.numbers[kRowKey]), past(arguments.law->law), lane(lane_numbers<V>()) {}
  };

  static const Sequences& sequences(const Arguments& arguments) { return arguments.law->sequences; }
  static std::uint32_t first_value(const Arguments&, std::uint64_t) { return simd::kNoValue; }

  void start(const Arguments& arguments, Vec, std::size_t row, std::size_t row_count, int group) {
    tasks_.load(*arguments.law, row, row_count, group);
    context_ = time_ = V::vec(0);
    if constexpr (deep) {
      const Past<V> past(arguments.law->law);
      slots_ = arguments.slots + static_cast<std::size_t>(group) * Past<V>::slot_count(arguments.law->law) * V::kLanes;
      past.clear(slots_);
    }
  }

  TRAJMILL_INLINE simd::Proposal<V> propose(const Arguments& arguments, const Shared& shared,
                                            typename V::Pair word) const {
    const std::uint32_t states = arguments.states;
    auto proposal = simd::propose<V, true>(shared.logit_keys, word, V::vec(states), context_, tasks_.low,
                                           arguments.law->law.tables[1].words, V::vec(0), V::spread(tasks_.high));
    if (arguments.law->law.numbers[kInitial] == kUniform) {  // accepts whatever the low half of the word cannot change
      const auto certain = V::below(V::pack_low(V::multiply(word, V::half(states))), V::vec(0u - states));
      const auto uniform = V::equal(context_, V::vec(0));
      const auto changeable = V::neither(certain, certain), other = V::neither(uniform, uniform);
      proposal.accepted = V::either(V::both(proposal.accepted, other), V::both(uniform, certain));
      proposal.open = V::either(V::both(proposal.open, other), V::both(uniform, changeable));
    }
    return proposal;
  }
  TRAJMILL_INLINE Vec refusal_limit(const Arguments& arguments) const { return V::vec(arguments.refusal_limit); }

  TRAJMILL_INLINE void advance(const Arguments& arguments, const Shared& shared, typename V::Mask accepted, Vec value) {
    const Vec digit = V::add(value, V::vec(1));
    if constexpr (deep) {
      shared.past.put(slots_, time_, shared.lane, digit);
      time_ = V::select(accepted, V::add(time_, V::vec(1)), time_);
      context_ = V::select(accepted, shared.past.context(slots_, time_, shared.lane), context_);
    } else {
      if (arguments.law->law.tables[0].size != 0) context_ = V::select(accepted, digit, context_);
    }
  }

  static constexpr int kColumns = 1;
  TRAJMILL_INLINE Vec emitted(int, Vec value) const { return value; }
  static simd::RowsView rows(const Arguments& arguments, int) { return arguments.law->columns[simd::kTokens]; }
  static std::size_t length(const Arguments& arguments, int) { return arguments.law->length; }

  std::uint32_t finish(const Arguments& arguments, std::size_t lane, std::uint64_t sequence, std::uint64_t number,
                       bool scan) const {
    alignas(64) std::uint32_t top[V::kLanes];
    V::store(top, tasks_.high);
    const std::uint64_t row = simd::row_of_lane<V>(context_, tasks_.low, lane);
    const bool uniform = arguments.law->law.numbers[kInitial] == kUniform && static_cast<std::uint32_t>(row) == 0;
    return simd::finish_rejected(uniform ? arguments.uniform : arguments.rows, arguments.proposal_key, sequence, number,
                                 row, scan, top[lane]);
  }

 private:
  Tasks<V> tasks_;
  Vec context_, time_;
  std::uint32_t* slots_ = nullptr;
};

// --- urn: a context's next state is that of an earlier visit, or a fresh one ---

// How often each context was visited, in an array or, of as many contexts as there are tokens, in a hash table: pairs
// of context + 1 and count.
inline constexpr std::uint64_t kCountsPerToken = 16, kMostCounts = 1 << 26;

TRAJMILL_INLINE bool counts_fit(const simd::LawArguments& arguments) {
  const std::uint64_t contexts = context_count(arguments.law);
  return contexts < kMostCounts && contexts <= kCountsPerToken * arguments.length;
}

// Slots of a lane's hash table, a power of two.
TRAJMILL_INLINE std::size_t hash_slots(std::size_t length) {
  std::size_t slots = 16;
  while (slots < 2 * length) slots *= 2;
  return slots;
}

template <class V>
TRAJMILL_INLINE std::size_t visit_bytes(const simd::LawArguments& arguments) {
  if (counts_fit(arguments)) return (context_count(arguments.law) + 1) * sizeof(typename V::Vec);  // one for no context
  return 2 * hash_slots(arguments.length) * sizeof(typename V::Vec);
}

// Counts a visit to `context`; how many there were before.
template <class V>
TRAJMILL_INLINE std::uint32_t count_visit(std::uint32_t* table, std::size_t slot_count, std::uint32_t context) {
  std::size_t slot = context * std::size_t{0x9E3779B1} >> 8;
  for (std::size_t tries = 0; tries < slot_count; ++tries, ++slot) {
    std::uint32_t* const entry = table + 2 * (slot & (slot_count - 1));
    if (entry[0] == context + 1) return entry[1]++;
    if (entry[0] == 0) {
      entry[0] = context + 1, entry[1] = 1;
      return 0;
    }
  }
  return 0;  // not reached: a row has fewer tokens than slots
}

// Half of the integer part of x * total / 2^64, of which the other half is 0: x has the words `high` and `low`.
template <class V>
TRAJMILL_INLINE typename V::Vec scaled(typename V::Pair high, typename V::Pair low, typename V::Half total) {
  return V::pack_high(V::add(V::multiply(high, total), V::high(V::multiply(low, total))));
}

// The same of a total of 64 bits, whole.
template <class V>
TRAJMILL_INLINE typename V::Pair scaled_wide(typename V::Pair high, typename V::Pair low, typename V::Pair total) {
  const auto top = V::high(total);
  const auto product01 = V::multiply(low, top), product00 = V::multiply(low, total);
  const auto middle = V::add(V::add(V::multiply(high, total), V::high(product00)),
                             V::join(V::pack_low(product01), V::vec(0)));  // below 2^64
  return V::add(V::add(V::multiply(high, top), V::high(product01)), V::high(middle));
}

// `narrow`: what is drawn from fits in 32 bits. `counted`: visits are in an array.
template <class V, bool deep, bool narrow, bool counted, int Groups>
void urn_rows(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, std::uint32_t* scratch,
              const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  using Pair = typename V::Pair;
  constexpr int kTries = simd::Sieve<V, Groups>::kTries;
  const simd::LawView& law = arguments.law;
  const std::uint64_t weight = law.numbers[kParameter];  // of a fresh state, 2^16 to an earlier visit
  const auto contexts = static_cast<std::uint32_t>(context_count(law));
  const auto states = V::half(static_cast<std::uint32_t>(law.numbers[kStates]));
  const bool uniform_initial = law.numbers[kInitial] == kUniform, remembers = law.tables[0].size != 0;
  const Vec per_task = V::vec(static_cast<std::uint32_t>(law.numbers[kPerTask]));
  const Vec one = V::vec(1), zero = V::vec(0), none = V::vec(simd::kNoValue), lane = lane_numbers<V>();
  const simd::SharedKeys<V> keys(law.numbers[kRowKey]);
  const Past<V> past(law);
  const std::size_t visit_words = visit_bytes<V>(arguments) / sizeof(std::uint32_t);
  const std::size_t slot_words = deep ? Past<V>::bytes(law) / sizeof(std::uint32_t) : 0;
  const std::size_t hash_size = hash_slots(arguments.length);

  Tasks<V> tasks[Groups];
  Vec context[Groups], time[Groups], visit[Groups];
  std::uint32_t *visits[Groups], *slots[Groups];
  // Enters the lanes' contexts where `entering`: the number of the draw there.
  const auto enter = [&](int g, typename V::Mask entering) __attribute__((always_inline)) {
    Vec seen;
    if constexpr (counted) {
      const Vec at = V::select(entering, context[g], V::vec(contexts));
      const Vec index = V::add(V::multiply_low(at, V::vec(V::kLanes)), lane);
      seen = V::gather(visits[g], index);
      V::scatter(visits[g], index, V::add(seen, one));
    } else {
      alignas(64) std::uint32_t at[V::kLanes], now[V::kLanes], counts[V::kLanes] = {};
      V::store(at, context[g]), V::store(now, time[g]);
      for (std::uint32_t left = V::bits(entering); left != 0; left &= left - 1) {
        const auto k = static_cast<std::size_t>(__builtin_ctz(left));
        if (now[k] < arguments.length) counts[k] = count_visit<V>(visits[g] + k * 2 * hash_size, hash_size, at[k]);
      }
      seen = V::load(counts);
    }
    return V::add(V::multiply_low(seen, per_task), tasks[g].place);
  };
  for (int g = 0; g < Groups; ++g) {
    tasks[g].load(arguments, row, row_count, g);
    visits[g] = scratch + static_cast<std::size_t>(g) * (visit_words + slot_words);
    slots[g] = visits[g] + visit_words;
    for (std::size_t k = 0; k < visit_words; k += V::kLanes) V::store(visits[g] + k, zero);
    if constexpr (deep) past.clear(slots[g]);
    context[g] = time[g] = zero;
    visit[g] = enter(g, V::equal(zero, zero));
  }

  simd::Sieve<V, Groups> sieve;
  while (!cancelled.load(std::memory_order_relaxed)) {
    for (int attempt = 0; attempt < kTries; ++attempt) {
#pragma GCC unroll 4
      for (int g = 0; g < Groups; ++g) {
        Pair word[4] = {V::spread(visit[g]), V::spread(context[g]), V::spread(tasks[g].low), V::spread(tasks[g].high)};
        simd::philox_rounds<V, 0, kLogitRounds>(keys, word);
        Vec earlier;
        typename V::Mask fresh;
        if constexpr (narrow) {
          const Vec total = V::add(V::template shift_left<16>(visit[g]), V::vec(static_cast<std::uint32_t>(weight)));
          const Pair spread = V::spread(total);
          const Pair drawn = V::add(V::multiply(word[0], spread), V::high(V::multiply(word[1], spread)));
          earlier = V::template shift_right<16>(V::pack_high(drawn));
          const auto again = V::below(earlier, visit[g]);
          fresh = V::neither(again, again);
        } else {
          const Pair total = V::add(
              V::multiply(V::spread(visit[g]), V::half(1 << 16)),
              V::join(V::vec(static_cast<std::uint32_t>(weight)), V::vec(static_cast<std::uint32_t>(weight >> 32))));
          const Pair drawn = scaled_wide<V>(word[0], word[1], total);
          const Vec high = V::pack_high(drawn);
          earlier = V::bit_or(V::template shift_left<16>(high), V::template shift_right<16>(V::pack_low(drawn)));
          const auto again = V::both(V::below(earlier, visit[g]), V::below(high, V::vec(1 << 16)));
          fresh = V::neither(again, again);
        }
        if (weight == 0) fresh = V::equal(zero, zero);
        if (uniform_initial) fresh = V::either(fresh, V::equal(context[g], zero));
        const Vec state = scaled<V>(word[2], word[3], states);
        sieve.put(attempt, g, V::select(fresh, state, none));

        const Vec digit = V::add(state, one);
        if constexpr (deep) {
          past.put(slots[g], time[g], lane, digit);
          time[g] = V::select(fresh, V::add(time[g], one), time[g]);
          context[g] = V::select(fresh, past.context(slots[g], time[g], lane), context[g]);
        } else {
          if constexpr (!counted) time[g] = V::select(fresh, V::add(time[g], one), time[g]);
          if (remembers) context[g] = V::select(fresh, digit, context[g]);
        }
        visit[g] = V::select(fresh, enter(g, fresh), earlier);
      }
    }
    if (sieve.flush(arguments.columns[simd::kTokens], row, row_count, arguments.length)) return;
  }
}

// --- tables made for each sequence ---

// The natural logarithm of a normal number > 0, by operations in a fixed order: the same bits everywhere.
TRAJMILL_INLINE double log_of(double x) {
  constexpr std::uint64_t kRootHalf = 0x3FE6A09E667F3BCD;
  constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  const auto bits = __builtin_bit_cast(std::uint64_t, x);
  const auto exponent = static_cast<std::int64_t>(bits - kRootHalf) >> 52;
  const auto mantissa = __builtin_bit_cast(double, bits - (static_cast<std::uint64_t>(exponent) << 52));
  const double s = (mantissa - 1.0) / (mantissa + 1.0), square = s * s;  // |s| < 0.172
  double sum = 1.0 / 19;
#pragma GCC unroll 9
  for (int k = 17; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return static_cast<double>(static_cast<std::int32_t>(exponent)) * kLn2 + 2.0 * s * sum;
}

// A number in (0, 1).
TRAJMILL_INLINE double unit(std::uint32_t word) { return (word + 0.5) * 0x1p-32; }

// The logarithm of a gamma variate of column `column` of a row (Marsaglia and Tsang 2000); attempt a has the words at
// counter (a x states + column, context, z).
template <class V>
double log_gamma_variate(std::uint64_t key, double alpha, std::uint32_t states, std::uint32_t column,
                         std::uint32_t context, std::uint64_t task) {
  const double d = (alpha < 1.0 ? alpha + 1.0 : alpha) - 1.0 / 3, c = 1.0 / __builtin_sqrt(9.0 * d);
  for (std::uint32_t counter = column;; counter += states) {
    std::uint32_t word[4] = {counter, context, static_cast<std::uint32_t>(task),
                             static_cast<std::uint32_t>(task >> 32)};
    auto key0 = static_cast<std::uint32_t>(key), key1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < kLogitRounds; ++round, key0 += kPhiloxWeyl0, key1 += kPhiloxWeyl1) {
      const std::uint64_t product0 = std::uint64_t{kPhiloxMultiplier0} * word[0];
      const std::uint64_t product1 = std::uint64_t{kPhiloxMultiplier1} * word[2];
      word[0] = static_cast<std::uint32_t>(product1 >> 32) ^ word[1] ^ key0;
      word[1] = static_cast<std::uint32_t>(product1);
      word[2] = static_cast<std::uint32_t>(product0 >> 32) ^ word[3] ^ key1;
      word[3] = static_cast<std::uint32_t>(product0);
    }
    // a normal number by the polar method
    const double x = 2.0 * unit(word[0]) - 1.0, y = 2.0 * unit(word[1]) - 1.0, radius = x * x + y * y;
    if (radius >= 1.0) continue;
    const double normal = x * __builtin_sqrt(-2.0 * log_of(radius) / radius);
    const double root = 1.0 + c * normal;
    if (root <= 0.0) continue;
    const double cube = root * root * root, log_cube = log_of(cube);
    if (!(log_of(unit(word[2])) < 0.5 * normal * normal + d * (1.0 - cube + log_cube))) continue;
    const double log_variate = log_of(d) + log_cube;
    return alpha < 1.0 ? log_variate + log_of(unit(word[3])) / alpha : log_variate;
  }
}

// The rows of kLanes tasks: row c of lane k is sixteen numbers, of which those up to a word count its token.
template <class V>
class MadeRows {
 public:
  using Vec = typename V::Vec;
  static constexpr std::size_t kLanes = V::kLanes;

  static std::size_t bytes(const simd::LawView& law) { return context_count(law) * kMostStates * sizeof(Vec); }

  MadeRows(const simd::LawView& law, std::uint32_t* rows)
      : law_(law),
        rows_(rows),
        states_(static_cast<std::uint32_t>(law.numbers[kStates])),
        contexts_(static_cast<std::uint32_t>(context_count(law))),
        alpha_(__builtin_bit_cast(double, law.numbers[kParameter])),
        keys_(law.numbers[kRowKey]) {}

  void make(const Tasks<V>& tasks) {
    alignas(64) double chances[kMostStates][kMostStates][kLanes];  // for a stationary start
    const bool stationary = law_.numbers[kInitial] == kStationary;
    for (std::uint32_t context = 0; context < contexts_; ++context) {
      alignas(64) double weights[kMostStates][kLanes];
      for (double& weight : weights[0]) weight = 0.0;
      if (context == 0 && law_.numbers[kInitial] == kUniform) {
        for (std::uint32_t j = 0; j < states_; ++j) {
          for (std::size_t k = 0; k < kLanes; ++k) weights[j][k] = 1.0;
        }
      } else if (context == 0 && stationary) {
        continue;
      } else {
        weigh(tasks, context, weights);
      }
      write(context, weights, stationary ? chances[context - 1] : nullptr);
    }
    if (stationary) {
      alignas(64) double weights[kMostStates][kLanes];
      settle(chances, weights);
      write(0, weights, nullptr);
    }
  }

 private:
  // What the chances of a row are in proportion to.
  TRAJMILL_INLINE void weigh(const Tasks<V>& tasks, std::uint32_t context, double (&weights)[kMostStates][kLanes]) {
    if (alpha_ != 0.0 && alpha_ != 1.0) return weigh_gamma(tasks, context, weights);
    Vec words[kMostStates];
    for (std::uint32_t first = 0; first < states_; first += 4) {
      typename V::Pair c[4] = {V::same(V::half(first / 4)), V::same(V::half(context)), V::spread(tasks.low),
                               V::spread(tasks.high)};
      simd::philox_rounds<V, 0, kLogitRounds>(keys_, c);
      for (std::uint32_t j = 0; j < 4; ++j) words[first + j] = V::pack_low(c[j]);
    }
    alignas(64) std::uint32_t one[kLanes], two[kLanes];
    if (alpha_ == 1.0) {
      for (std::uint32_t j = 0; j < states_; ++j) {
        V::store(one, words[j]);
        for (std::size_t k = 0; k < kLanes; ++k) weights[j][k] = -log_of(unit(one[k]));
      }
      return;
    }
    Vec largest = V::vec(0);
    for (std::uint32_t j = 0; j < states_; ++j) {
      words[j] = V::template shift_right<8>(words[j]);
      largest = V::select(V::below(largest, words[j]), words[j], largest);
    }
    const std::uint32_t* const factors = law_.tables[1].words;
    for (std::uint32_t j = 0; j < states_; ++j) {
      const Vec below = V::subtract(largest, words[j]);
      V::store(one, V::gather(factors, V::template shift_right<12>(below)));
      V::store(two, V::gather(factors + kFactors, V::bit_and(below, V::vec(kFactors - 1))));
      for (std::size_t k = 0; k < kLanes; ++k) weights[j][k] = static_cast<double>(one[k]) * two[k];
    }
  }

  void weigh_gamma(const Tasks<V>& tasks, std::uint32_t context, double (&weights)[kMostStates][kLanes]) {
    alignas(64) std::uint32_t low[kLanes], high[kLanes];
    V::store(low, tasks.low), V::store(high, tasks.high);
    for (std::size_t k = 0; k < kLanes; ++k) {
      double logs[kMostStates], largest = 0.0;
      for (std::uint32_t j = 0; j < states_; ++j) {
        logs[j] = alpha_ > 0x1p1000 ? 0.0  // as good as infinity
                                    : log_gamma_variate<V>(law_.numbers[kGammaKey], alpha_, states_, j, context,
                                                           low[k] | std::uint64_t{high[k]} << 32);
        if (j == 0 || logs[j] > largest) largest = logs[j];
      }
      for (std::uint32_t j = 0; j < states_; ++j) weights[j][k] = portable_exp(logs[j] - largest);
    }
  }

  // Writes the bounds of one row, and its chances if they are wanted.
  TRAJMILL_INLINE void write(std::uint32_t context, const double (&weights)[kMostStates][kLanes],
                             double (*chances)[kLanes]) {
    alignas(64) double sums[kMostStates][kLanes], scale[kLanes];
    for (std::size_t k = 0; k < kLanes; ++k) sums[0][k] = weights[0][k];
    for (std::uint32_t j = 1; j < states_; ++j) {
      for (std::size_t k = 0; k < kLanes; ++k) sums[j][k] = sums[j - 1][k] + weights[j][k];
    }
    const double* const total = sums[states_ - 1];
    for (std::size_t k = 0; k < kLanes; ++k) scale[k] = 0x1p32 / total[k];
    if (chances != nullptr) {
      for (std::uint32_t j = 0; j < states_; ++j) {
        for (std::size_t k = 0; k < kLanes; ++k) {
          const double chance = weights[j][k] / total[k];
          chances[j][k] = chance > kLeast ? chance : kLeast;
        }
      }
    }
    Vec bounds[kMostStates];
    for (std::uint32_t j = 0; j < kMostStates; ++j) bounds[j] = V::vec(kNever);
    for (std::uint32_t j = 0; j + 1 < states_; ++j) {
      alignas(64) std::uint32_t column[kLanes];
      for (std::size_t k = 0; k < kLanes; ++k) {
        const double bound = sums[j][k] * scale[k];
        column[k] = bound < kNever ? static_cast<std::uint32_t>(bound) : kNever;
      }
      bounds[j] = V::load(column);
    }
    std::uint32_t* const rows = rows_ + std::size_t{context} * kMostStates * kLanes;
    if constexpr (kLanes == kMostStates) {
      V::transpose(bounds);
      for (std::size_t k = 0; k < kLanes; ++k) V::store(rows + k * kLanes, bounds[k]);
    } else {
      for (std::uint32_t j = 0; j < kMostStates; ++j) {
        alignas(64) std::uint32_t column[kLanes];
        V::store(column, bounds[j]);
        for (std::size_t k = 0; k < kLanes; ++k) rows[k * kMostStates + j] = column[k];
      }
    }
  }

  // The stationary law by elimination without subtractions (Grassmann, Taksar and Heyman 1985).
  void settle(double (&chances)[kMostStates][kMostStates][kLanes], double (&law)[kMostStates][kLanes]) const {
    alignas(64) double leaving[kMostStates][kLanes];
    for (std::uint32_t n = states_ - 1; n > 0; --n) {
      for (std::size_t k = 0; k < kLanes; ++k) {
        double sum = chances[n][0][k];
        for (std::uint32_t j = 1; j < n; ++j) sum += chances[n][j][k];
        leaving[n][k] = sum;
        for (std::uint32_t j = 0; j < n; ++j) {
          const double share = chances[n][j][k] / sum;
          for (std::uint32_t i = 0; i < n; ++i) chances[i][j][k] += chances[i][n][k] * share;
        }
      }
    }
    for (std::size_t k = 0; k < kLanes; ++k) {
      law[0][k] = 1.0;
      for (std::uint32_t n = 1; n < states_; ++n) {
        double sum = law[0][k] * chances[0][n][k];
        for (std::uint32_t i = 1; i < n; ++i) sum += law[i][k] * chances[i][n][k];
        law[n][k] = sum / leaving[n][k];
      }
    }
  }

  static constexpr double kLeast = 0x1p-64;  // a chance of a stationary law's chain: so that every state is left

  const simd::LawView& law_;
  std::uint32_t* rows_;
  std::uint32_t states_, contexts_;
  double alpha_;
  simd::SharedKeys<V> keys_;
};

template <class V, bool deep>
void made_table_rows(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count,
                     std::uint32_t* scratch, const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  constexpr std::size_t kLanes = V::kLanes;
  const simd::LawView& law = arguments.law;
  const simd::SharedKeys<V> keys(law.numbers[kDrawKey]);
  const Past<V> past(law);
  std::uint32_t* const slots = scratch + MadeRows<V>::bytes(law) / sizeof(std::uint32_t);
  Tasks<V> tasks;
  tasks.load(arguments, row, row_count, 0);
  MadeRows<V>(law, scratch).make(tasks);
  if constexpr (deep) past.clear(slots);

  simd::Stream<V> stream;
  stream.start(law.numbers[kDrawKey], simd::load_group<V>(arguments.sequences, row, row_count, 0));
  constexpr std::ptrdiff_t kRow = kMostStates * kLanes;  // from a context to the next
  const std::uint32_t* const rows = scratch + kRow;      // of context 1: the last token is 0
  std::ptrdiff_t at[kLanes];
  for (std::ptrdiff_t& lane_at : at) lane_at = -kRow;
  simd::Tile<V, true, 1> tile;
  simd::Words<V, true> drawn;
  alignas(64) std::uint32_t words[4][kLanes];  // of this block; those of the next are drawn between its look-ups
  const auto put_words = [&]() __attribute__((always_inline)) {
    for (std::size_t step = 0; step < 4; ++step) {
      const Vec word = V::pack_low(drawn.word[0][step]), last = V::vec(kNever - 1);
      V::store(words[step], V::select(V::below(word, last), word, last));  // the last word as the one before it
    }
  };
  drawn.draw(keys, stream, 0);
  put_words();
  for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
       first += tile.kSteps) {
    const std::size_t left = arguments.length - first;
    for (int block = 0; block < tile.kSteps && static_cast<std::size_t>(block) < left; block += 4) {
      const std::size_t time = first + static_cast<std::size_t>(block);
      alignas(64) std::uint32_t tokens[4][kLanes];
      simd::for_each_step([&](int step) __attribute__((always_inline)) {
#pragma GCC unroll 16
        for (std::size_t k = 0; k < kLanes; ++k) {
          const std::uint64_t token = V::count_at_most(rows + k * kMostStates + at[k], words[step][k]);
          tokens[step][k] = static_cast<std::uint32_t>(token);
          if constexpr (!deep) at[k] = static_cast<std::ptrdiff_t>(token) * kRow;
        }
        if constexpr (deep) {
          const std::uint32_t now = static_cast<std::uint32_t>(time) + static_cast<std::uint32_t>(step);
          past.put(slots, now, V::add(V::load(tokens[step]), V::vec(1)));
          alignas(64) std::uint32_t context[kLanes];
          V::store(context, past.context(slots, now + 1));
          for (std::size_t k = 0; k < kLanes; ++k) at[k] = (std::ptrdiff_t{context[k]} - 1) * kRow;
        }
        drawn.draw_quarter(keys, stream, time + 4, step);
      });
      for (int step = 0; step < 4; ++step) tile.put(block + step, 0, V::load(tokens[step]));
      put_words();
    }
    tile.write(arguments.columns[simd::kTokens], row, row_count, first, left < tile.kSteps ? left : tile.kSteps);
  }
}

// --- the alias table of a pool ---

template <class V, bool deep, bool narrow, int Groups>
void pool_rows(const simd::LawArguments& arguments, std::size_t row, std::size_t row_count, std::uint32_t* scratch,
               const std::atomic<bool>& cancelled) {
  using Vec = typename V::Vec;
  const simd::LawView& law = arguments.law;
  const simd::TableView table{law.tables[1].words, static_cast<std::uint32_t>(law.numbers[kStates]), narrow};
  const simd::SharedKeys<V> keys(law.numbers[kDrawKey]);
  const Past<V> past(law);
  const bool remembers = law.tables[0].size != 0;
  const Vec contexts = V::vec(static_cast<std::uint32_t>(context_count(law)));

  simd::Stream<V> stream[Groups];
  Vec first_row[Groups], at[Groups];
  std::uint32_t* slots[Groups];
  for (int g = 0; g < Groups; ++g) {
    stream[g].start(law.numbers[kDrawKey], simd::load_group<V>(arguments.sequences, row, row_count, g));
    Tasks<V> tasks;
    tasks.load(arguments, row, row_count, g);
    const Vec number = V::subtract(tasks.low, V::vec(static_cast<std::uint32_t>(law.numbers[kFirstTask])));
    at[g] = first_row[g] = V::multiply_low(number, contexts);
    slots[g] = scratch + static_cast<std::size_t>(g) * (Past<V>::bytes(law) / sizeof(std::uint32_t));
    if constexpr (deep) past.clear(slots[g]);
  }
  simd::Tile<V, narrow, Groups> tile;
  for (std::size_t first = 0; first < arguments.length && !cancelled.load(std::memory_order_relaxed);
       first += tile.kSteps) {
    const std::size_t left = arguments.length - first;
    for (int block = 0; block < tile.kSteps && static_cast<std::size_t>(block) < left; block += 4) {
      simd::Words<V, narrow> words[Groups];
      for (int g = 0; g < Groups; ++g) words[g].draw(keys, stream[g], first + static_cast<std::size_t>(block));
      simd::for_each_step([&](int step) __attribute__((always_inline)) {
        const auto time = static_cast<std::uint32_t>(first + static_cast<std::size_t>(block + step));
#pragma GCC unroll 8
        for (int g = 0; g < Groups; ++g) {
          const Vec state = simd::Draw<V, narrow>(table, at[g], words[g], step).value(table);
          tile.put(block + step, g, state);
          const Vec digit = V::add(state, V::vec(1));
          if constexpr (deep) {
            past.put(slots[g], time, digit);
            at[g] = V::add(first_row[g], past.context(slots[g], time + 1));
          } else {
            if (remembers) at[g] = V::add(first_row[g], digit);
          }
        }
      });
    }
    tile.write(arguments.columns[simd::kTokens], row, row_count, first, left < tile.kSteps ? left : tile.kSteps);
  }
}

// --- all of them ---

template <class V>
struct Kernel {
  // Of one vector of sequences.
  static std::size_t group_bytes(const simd::LawArguments& arguments) {
    const simd::LawView& law = arguments.law;
    const std::size_t past = Past<V>::bytes(law);
    if (law.numbers[kBackend] == kUrn) return visit_bytes<V>(arguments) + past;
    if (law.numbers[kBackend] == kTable && law.numbers[kTaskCount] == 0) return MadeRows<V>::bytes(law) + past;
    return past;
  }

  static constexpr int kMostGroups = V::kGroups > V::kImplicitGroups ? V::kGroups : V::kImplicitGroups;

  static std::size_t scratch_bytes(const simd::LawArguments& arguments) { return group_bytes(arguments) * kMostGroups; }

  static void draw(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::byte* scratch,
                   const std::atomic<bool>& cancelled) {
    if (arguments.columns[simd::kTask].data != nullptr) write_tasks(arguments, begin, end);
    if (arguments.length == 0) return;
    auto* const words = reinterpret_cast<std::uint32_t*>(scratch);
    return Past<V>::is_deep(arguments.law) ? draw_tokens<true>(arguments, begin, end, words, cancelled)
                                           : draw_tokens<false>(arguments, begin, end, words, cancelled);
  }

 private:
  static void write_tasks(const simd::LawArguments& arguments, std::size_t begin, std::size_t end) {
    const simd::RowsView& rows = arguments.columns[simd::kTask];
    for (std::size_t row = begin; row < end; ++row) {
      const std::uint64_t number =
          task_of<V>(arguments.law, arguments.sequences[row]).number - arguments.law.numbers[kFirstTask];
      for (std::size_t k = 0; k < rows.element_size; ++k) {  // little-endian; 32 bits
        rows.data[row * rows.row_bytes + k] = k < 4 ? static_cast<std::byte>(number >> 8 * k) : std::byte{0};
      }
    }
  }

  template <bool deep>
  static void draw_tokens(const simd::LawArguments& arguments, std::size_t begin, std::size_t end,
                          std::uint32_t* scratch, const std::atomic<bool>& cancelled) {
    const std::uint64_t* const numbers = arguments.law.numbers;
    if (numbers[kBackend] == kImplicit) {
      const auto states = static_cast<std::uint32_t>(numbers[kStates]);
      const ImplicitLaw rows(numbers[kRowKey], states, Temperature(__builtin_bit_cast(double, numbers[kParameter])));
      const ProposalArguments proposals{
          .law = &arguments,
          .proposal_key = numbers[kDrawKey],
          .states = states,
          .refusal_limit = rows.refusal_limit(),
          .rows = rows,
          .uniform = {numbers[kRowKey], states, Temperature(__builtin_inf())},
          .slots = scratch,
      };
      return simd::sample_implicit<V, ProposalWalk<V, deep>>(proposals, begin, end, cancelled);
    }
    if (numbers[kBackend] == kUrn) {
      const std::uint64_t length = arguments.length, per_task = numbers[kPerTask];
      const bool narrow = length <= 1 << 16 && per_task <= 1 << 16 &&
                          (length * per_task << 16) + numbers[kParameter] < std::uint64_t{1} << 32;
      if (counts_fit(arguments)) {
        return narrow ? urn<deep, true, true>(arguments, begin, end, scratch, cancelled)
                      : urn<deep, false, true>(arguments, begin, end, scratch, cancelled);
      }
      return urn<deep, false, false>(arguments, begin, end, scratch, cancelled);
    }
    if (numbers[kTaskCount] == 0) {
      return deep || arguments.law.tables[0].size == 0 ? made_table<true>(arguments, begin, end, scratch, cancelled)
                                                       : made_table<false>(arguments, begin, end, scratch, cancelled);
    }
    return numbers[kStates] <= 256 ? pool<deep, true>(arguments, begin, end, scratch, cancelled)
                                   : pool<deep, false>(arguments, begin, end, scratch, cancelled);
  }

  template <bool deep, bool narrow, bool counted>
  static void urn(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::uint32_t* scratch,
                  const std::atomic<bool>& cancelled) {
    simd::split_rows<V, V::kImplicitGroups>(
        begin, end,
        [&](std::size_t row, std::size_t count) {
          urn_rows<V, deep, narrow, counted, V::kImplicitGroups>(arguments, row, count, scratch, cancelled);
        },
        [&](std::size_t row, std::size_t count) {
          urn_rows<V, deep, narrow, counted, 1>(arguments, row, count, scratch, cancelled);
        });
  }

  template <bool deep>
  static void made_table(const simd::LawArguments& arguments, std::size_t begin, std::size_t end,
                         std::uint32_t* scratch, const std::atomic<bool>& cancelled) {
    for (std::size_t row = begin; row < end; row += V::kLanes) {
      const std::size_t count = end - row < V::kLanes ? end - row : V::kLanes;
      made_table_rows<V, deep>(arguments, row, count, scratch, cancelled);
    }
  }

  template <bool deep, bool narrow>
  static void pool(const simd::LawArguments& arguments, std::size_t begin, std::size_t end, std::uint32_t* scratch,
                   const std::atomic<bool>& cancelled) {
    simd::split_rows<V, V::kGroups>(
        begin, end,
        [&](std::size_t row, std::size_t count) {
          pool_rows<V, deep, narrow, V::kGroups>(arguments, row, count, scratch, cancelled);
        },
        [&](std::size_t row, std::size_t count) {
          pool_rows<V, deep, narrow, 1>(arguments, row, count, scratch, cancelled);
        });
  }
};

}  // namespace trajmill::laws::chain_population
