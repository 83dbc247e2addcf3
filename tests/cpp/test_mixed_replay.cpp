// Windows and mixtures without Python: several threads draw from shared sources.
#include <doctest.h>

#include <cstdint>
#include <stdexcept>
#include <thread>
#include <vector>

#include "trajmill/mixed_replay.hpp"
#include "trajmill/trajectory_buffer.hpp"

using namespace trajmill;

namespace {

constexpr std::size_t kContext = 4;

std::vector<float> numbers() {
  std::vector<float> values(10);
  for (std::size_t k = 0; k < values.size(); ++k) values[k] = static_cast<float>(k);
  return values;
}

StepArray rewards(const std::vector<float>& values) {
  return {{"reward", DataType::f4, {}},
          reinterpret_cast<const std::byte*>(values.data()),
          values.size(),
          std::vector<std::byte>(sizeof(float))};
}

// Room for a batch of windows and the number of each row's source.
struct Batch {
  explicit Batch(std::size_t size)
      : reward(size * kContext), timestep(size * kContext), mask(size * kContext), source(size) {}

  std::vector<std::byte*> columns() {
    return {reinterpret_cast<std::byte*>(reward.data()), reinterpret_cast<std::byte*>(timestep.data()), mask.data(),
            source.data()};
  }

  std::vector<float> reward;
  std::vector<std::int64_t> timestep;
  std::vector<std::byte> mask, source;
};

}  // namespace

TEST_CASE("episodes must lie in the arrays") {
  const std::vector<float> values = numbers();
  for (const Episode& episode : {Episode{0, 11}, Episode{11, 1}, Episode{5, static_cast<std::size_t>(-3)}}) {
    CHECK_THROWS_AS(TrajectoryBuffer({&episode, 1}, {rewards(values)}, kContext, 1000, 0), std::invalid_argument);
  }
}

TEST_CASE("threads share a mixture and its sources") {
  const std::vector<float> values = numbers();
  const std::vector<Episode> episodes = {{0, 3}, {3, 7}};
  TrajectoryBuffer first(episodes, {rewards(values)}, kContext, 1000, 1);
  TrajectoryBuffer second(episodes, {rewards(values)}, kContext, 1000, 2);
  std::vector<MixedColumn> columns;
  for (const Column& column : first.batch_columns()) columns.push_back({column});
  MixedReplay mixture({{"first", &first, LinearWeight{1, 1, 0}}, {"second", &second, LinearWeight{2, 2, 0}}}, columns);

  constexpr std::size_t kThreads = 4, kDraws = 200, kBatch = 10;
  std::vector<std::size_t> from_second(kThreads);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        Batch batch(kBatch), alone(kBatch);
        for (std::size_t draw = 0; draw < kDraws; ++draw) {
          mixture.sample(kBatch, batch.columns(), 2);
          first.sample(kBatch, alone.columns(), 1);
          for (const std::byte source : batch.source) from_second[t] += std::to_integer<std::size_t>(source);
        }
      });
    }
  }
  std::size_t total = 0;
  for (const std::size_t count : from_second) total += count;
  CHECK(total == (kThreads * kDraws * kBatch * 2 + 1) / 3);  // 5333.3 owed
  CHECK(mixture.state().draw_count == kThreads * kDraws);
  CHECK(first.draw_count() == 2 * kThreads * kDraws);
}
