#include "trajmill/mdp_transitions.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "row_copy.hpp"
#include "trajmill/addressed_draws.hpp"
#include "trajmill/error.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kBlock = 64;    // rows that are drawn and prefetched at a time
constexpr std::size_t kGrain = 1024;  // rows of a task

template <class Element>
using Triple = std::array<Element, 3>;  // state, action, next state

template <class Element>
void require_vector(const char* what, Element number, std::size_t row, const Codebook& book) {
  if (number >= book.row_count()) {
    throw std::invalid_argument(message(what, " ", static_cast<std::uint64_t>(number), " of transition ", row,
                                        " has no vector, there are ", book.row_count()));
  }
}

}  // namespace

template <class F>
auto MDPTransitions::with_rows(F&& use) const {
  switch (element_size_) {
    case 1: return use(reinterpret_cast<const Triple<std::uint8_t>*>(rows_));
    case 2: return use(reinterpret_cast<const Triple<std::uint16_t>*>(rows_));
    default: return use(reinterpret_cast<const Triple<std::uint32_t>*>(rows_));
  }
}

MDPTransitions::MDPTransitions(const std::byte* rows, std::size_t row_count, std::size_t element_size, Codebook states,
                               Codebook actions, std::uint64_t seed)
    : rows_(rows),
      row_count_(row_count),
      element_size_(element_size),
      states_(std::move(states)),
      actions_(std::move(actions)),
      columns_{{"observation", DataType::f4, {states_.dimension}},
               {"action", DataType::f4, {actions_.dimension}},
               {"next_observation", DataType::f4, {states_.dimension}}},
      seed_(seed),
      key_(derive_key(seed, Domain::replay_mdp)) {
  if (row_count == 0) throw std::invalid_argument("there must be at least one transition, got none");
  with_rows([&](const auto* triples) {
    for (std::size_t row = 0; row < row_count; ++row) {
      const auto& [state, action, next_state] = triples[row];
      require_vector("state", state, row, states_);
      require_vector("action", action, row, actions_);
      require_vector("state", next_state, row, states_);
    }
  });
}

void MDPTransitions::sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) {
  const std::uint64_t draw = draw_count_++;
  const std::size_t state_size = columns_[0].byte_count(), action_size = columns_[1].byte_count();
  const Gather gather_states = gather_for(state_size), gather_actions = gather_for(action_size);
  const auto vector_of = [](const Codebook& book, std::size_t number) {
    return reinterpret_cast<const std::byte*>(book.vectors.data() + number * book.dimension);
  };
  with_rows([&](const auto* triples) {
    parallel_for(batch_size, kGrain, {thread_count, {}}, [&](std::size_t begin, std::size_t end, const auto&) {
      std::array<std::uint64_t, kBlock> numbers;
      for (; begin < end; begin += kBlock) {
        const std::size_t count = std::min(kBlock, end - begin);
        draw_below(row_count_, key_, draw, begin, {numbers.data(), count});
        for (std::size_t k = 0; k < count; ++k) __builtin_prefetch(triples + numbers[k]);
        for (std::size_t k = 0; k < count; k += kGroupRows) {
          const std::size_t group = std::min(kGroupRows, count - k), row = begin + k;
          std::array<const std::byte*, kGroupRows> states, actions, next_states;
          for (std::size_t i = 0; i < group; ++i) {
            const auto& [state, action, next_state] = triples[numbers[k + i]];
            states[i] = vector_of(states_, state);
            actions[i] = vector_of(actions_, action);
            next_states[i] = vector_of(states_, next_state);
          }
          gather_states(columns[0] + row * state_size, states.data(), group, state_size);
          gather_actions(columns[1] + row * action_size, actions.data(), group, action_size);
          gather_states(columns[2] + row * state_size, next_states.data(), group, state_size);
        }
      }
    });
  });
}

}  // namespace trajmill
