#include "trajmill/mdp_transitions.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "trajmill/addressed_draws.hpp"
#include "trajmill/error.hpp"
#include "trajmill/thread_pool.hpp"

namespace trajmill {
namespace {

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
  const auto put = [&](const Codebook& book, std::size_t number, std::size_t column, std::size_t row) {
    std::copy_n(book.vectors.data() + number * book.dimension, book.dimension,
                reinterpret_cast<float*>(columns[column]) + row * book.dimension);
  };
  with_rows([&](const auto* triples) {
    parallel_for(batch_size, kGrain, {thread_count, {}}, [&](std::size_t begin, std::size_t end, const auto&) {
      for (std::size_t row = begin; row < end; ++row) {
        const auto& [state, action, next_state] = triples[draw_below(row_count_, key_, draw, row)];
        put(states_, state, 0, row);
        put(actions_, action, 1, row);
        put(states_, next_state, 2, row);
      }
    });
  });
}

}  // namespace trajmill
