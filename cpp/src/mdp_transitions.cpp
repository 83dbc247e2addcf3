#include "trajmill/mdp_transitions.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "row_copy.hpp"
#include "row_groups.hpp"
#include "trajmill/addressed_draws.hpp"
#include "trajmill/error.hpp"

namespace trajmill {
namespace {

constexpr std::size_t kBlock = 64;    // rows that are drawn and prefetched at a time
constexpr std::size_t kGrain = 1024;  // rows of a task

template <class Element>
using Triple = std::array<Element, 3>;  // state, action, target

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
    case 1: return use(reinterpret_cast<const Triple<std::uint8_t>*>(rows_.data()));
    case 2: return use(reinterpret_cast<const Triple<std::uint16_t>*>(rows_.data()));
    default: return use(reinterpret_cast<const Triple<std::uint32_t>*>(rows_.data()));
  }
}

MDPTransitions::MDPTransitions(const std::byte* rows, std::size_t row_count, std::size_t element_size, Codebook states,
                               Codebook actions, std::optional<Codebook> targets, std::uint64_t seed)
    : rows_(rows, rows + 3 * row_count * element_size),
      row_count_(row_count),
      element_size_(element_size),
      states_(std::move(states)),
      actions_(std::move(actions)),
      targets_(std::move(targets)),
      columns_{{"observation", DataType::f4, {states_.dimension}},
               {"action", DataType::f4, {actions_.dimension}},
               {"next_observation", DataType::f4, {this->targets().dimension}}},
      seed_(seed),
      key_(derive_key(seed, Domain::replay_mdp)) {
  if (row_count == 0) throw std::invalid_argument("there must be at least one transition, got none");
  with_rows([&](const auto* triples) {
    for (std::size_t row = 0; row < row_count; ++row) {
      const auto& [state, action, target] = triples[row];
      require_vector("state", state, row, states_);
      require_vector("action", action, row, actions_);
      require_vector(targets_ ? "target" : "next state", target, row, this->targets());
    }
  });
}

void MDPTransitions::sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) {
  const std::uint64_t draw = draw_count_++;
  copy_rows(RowGroups::whole(batch_size), columns, thread_count,
            [&](std::size_t first_row, std::span<std::uint64_t> numbers) {
              draw_below(row_count_, key_, draw, first_row, numbers);
            });
}

void MDPTransitions::choose(std::span<const std::uint32_t> words, const RowGroups& groups,
                            std::span<std::byte* const> columns, std::size_t thread_count) {
  require_choice(row_count_);
  copy_rows(groups, columns, thread_count, [&](std::size_t first_row, std::span<std::uint64_t> numbers) {
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = chosen_row(row_count_, words[first_row + i]);
  });
}

// `numbers_of(row, numbers)` tells which transitions a block of the batch takes.
template <class NumbersOf>
void MDPTransitions::copy_rows(const RowGroups& groups, std::span<std::byte* const> columns, std::size_t thread_count,
                               const NumbersOf& numbers_of) const {
  const Codebook& target_book = targets();
  const std::size_t sizes[] = {columns_[0].byte_count(), columns_[1].byte_count(), columns_[2].byte_count()};
  const Gather gathers[] = {gather_for(sizes[0]), gather_for(sizes[1]), gather_for(sizes[2])};
  const auto vector_of = [](const Codebook& book, std::size_t number) {
    return reinterpret_cast<const std::byte*>(book.vectors.data() + number * book.dimension);
  };
  with_rows([&](const auto* triples) {
    for_each_run(groups, kGrain, thread_count, [&](std::size_t begin, std::size_t end) {
      std::array<std::uint64_t, kBlock> numbers;
      for (; begin < end; begin += kBlock) {
        const std::size_t count = std::min(kBlock, end - begin);
        numbers_of(begin, {numbers.data(), count});
        for (std::size_t k = 0; k < count; ++k) __builtin_prefetch(triples + numbers[k]);
        for (std::size_t k = 0; k < count; k += kGroupRows) {
          const std::size_t group = std::min(kGroupRows, count - k), row = begin + k;
          const std::byte* vectors[3][kGroupRows];
          for (std::size_t i = 0; i < group; ++i) {
            const auto& [state, action, target] = triples[numbers[k + i]];
            vectors[0][i] = vector_of(states_, state);
            vectors[1][i] = vector_of(actions_, action);
            vectors[2][i] = vector_of(target_book, target);
          }
          for (std::size_t c = 0; c < 3; ++c) gathers[c](columns[c] + row * sizes[c], vectors[c], group, sizes[c]);
        }
      }
    });
  });
}

}  // namespace trajmill
