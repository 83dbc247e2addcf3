#include "bindings.hpp"
#include "trajmill/reference_mdp.hpp"
#include "trajmill/reference_tokens.hpp"

namespace py = pybind11;

namespace trajmill {

void bind_reference(py::module_& module) {
  py::class_<ReferenceRound>(module, "ReferenceRound", "Blocks of one iteration of the authors' program.")
      .def(py::init<std::size_t, std::uint64_t, std::size_t, std::size_t>(), py::kw_only(),
           py::arg("reference_worker_count"), py::arg("iteration"), py::arg("first_worker"), py::arg("made_count"),
           "Those of made_count of the authors' worker processes, of which there are reference_worker_count.");
  py::class_<ReferenceChain>(module, "ReferenceChain", "The authors' own n-step Markov chain and its streams.")
      .def(py::init([](std::uint32_t state_count, std::uint32_t order, double temperature, std::uint64_t seed,
                       std::size_t memory_limit) {
             return ReferenceChain(state_count, order, Temperature(temperature), seed, memory_limit);
           }),
           py::kw_only(), py::arg("state_count"), py::arg("order"), py::arg("temperature"), py::arg("seed"),
           py::arg("memory_limit"))
      .def(
          "sample",
          [](const ReferenceChain& chain, const ReferenceRound& round, const py::array& out, std::size_t threads) {
            const Filled rows(out);
            run_released(threads, [&](const RunOptions& options) { chain.sample(round, rows.rows, options); });
          },
          py::arg("round"), py::kw_only(), py::arg("out"), py::arg("threads"),
          "Fill out [sequences, length] with the blocks of the round in worker order.");
  module.def(
      "reference_iid_tokens",
      [](std::uint32_t state_count, std::uint64_t seed, const ReferenceRound& round, const py::array& out,
         std::size_t memory_limit, std::size_t threads) {
        const Filled rows(out);
        run_released(threads, [&](const RunOptions& options) {
          reference_iid_tokens(state_count, seed, round, rows.rows, memory_limit, options);
        });
      },
      py::kw_only(), py::arg("state_count"), py::arg("seed"), py::arg("round"), py::arg("out"), py::arg("memory_limit"),
      py::arg("threads"), "The same for independent tokens.");
  module.def(
      "reference_mdp_transitions",
      [](std::uint64_t first_trajectory, std::size_t count, std::uint64_t trajectory_count, std::size_t length,
         std::uint32_t state_count, std::uint32_t action_count, double policy_temperature,
         double transition_temperature, bool random_start, std::size_t memory_limit, std::size_t threads) {
        const ReferenceMDPLaw law{state_count,
                                  action_count,
                                  Temperature(policy_temperature, "policy_temperature"),
                                  Temperature(transition_temperature, "transition_temperature"),
                                  trajectory_count,
                                  random_start};
        const double bytes = 3.0 * sizeof(std::int64_t) * static_cast<double>(count) * static_cast<double>(length);
        require_memory(bytes, static_cast<double>(memory_limit), "choose some trajectories at a time",
                       "the transitions");
        const std::size_t size = count * length;
        py::array_t<std::int64_t> columns({std::size_t{3}, size});
        std::int64_t* data = columns.mutable_data();
        run_released(threads, [&](const RunOptions& options) {
          reference_mdp_transitions(law, memory_limit,
                                    {first_trajectory, count, length, data, data + size, data + 2 * size}, options);
        });
        return columns;
      },
      py::kw_only(), py::arg("first_trajectory"), py::arg("count"), py::arg("trajectory_count"), py::arg("length"),
      py::arg("state_count"), py::arg("action_count"), py::arg("policy_temperature"), py::arg("transition_temperature"),
      py::arg("random_start"), py::arg("memory_limit"), py::arg("threads"),
      "States, actions and next states of `count` of the trajectories, int64 [3, count * length].");
}

}  // namespace trajmill
