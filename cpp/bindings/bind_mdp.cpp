#include "batches.hpp"
#include "trajmill/mdp.hpp"

namespace py = pybind11;

namespace trajmill {
namespace {

StartLaw start_law(bool fixed_start) { return fixed_start ? StartLaw::fixed : StartLaw::random; }

template <class Make>
std::unique_ptr<MDP> build(std::size_t thread_count, const Make& make) {
  std::unique_ptr<MDP> mdp;
  run_released(thread_count, [&](const RunOptions& options) { mdp = std::make_unique<MDP>(make(options)); });
  return mdp;
}

py::array_t<float> codebook_array(Domain domain, std::size_t row_count, std::size_t dimension) {
  require_sizes(std::vector<Column>{{"vectors", DataType::f4, {row_count, dimension}}});
  py::array_t<float> vectors({row_count, dimension});
  codebook(domain, row_count, dimension, {vectors.mutable_data(), row_count * dimension});
  return vectors;
}

}  // namespace

void bind_mdp(py::module_& module) {
  py::class_<MDPLaw>(module, "MDPLaw", "The law of a random MDP.")
      .def(py::init([](std::uint32_t state_count, std::uint32_t action_count, double policy_temperature,
                       double transition_temperature, bool fixed_start, std::uint64_t seed) {
             return MDPLaw{state_count,
                           action_count,
                           Temperature(policy_temperature, "policy_temperature"),
                           Temperature(transition_temperature, "transition_temperature"),
                           start_law(fixed_start),
                           seed};
           }),
           py::kw_only(), py::arg("state_count"), py::arg("action_count"), py::arg("policy_temperature"),
           py::arg("transition_temperature"), py::arg("fixed_start"), py::arg("seed"))
      .def(
          "policy_probabilities",
          [](const MDPLaw& law, std::uint32_t state) {
            Doubles row(static_cast<py::ssize_t>(law.action_count));
            policy_probabilities(law, state, mutable_span_of(row));
            return row;
          },
          py::arg("state"), "The exact law of the action in a state, float64 [action_count].")
      .def(
          "transition_probabilities",
          [](const MDPLaw& law, std::uint32_t state, std::uint32_t action) {
            Doubles row(static_cast<py::ssize_t>(law.state_count));
            transition_probabilities(law, state, action, mutable_span_of(row));
            return row;
          },
          py::arg("state"), py::arg("action"),
          "The exact law of the next state after an action in a state, float64 [state_count].");

  py::class_<MDP>(module, "MDP", "Alias tables of an MDP and the streams that draw from them.")
      .def(py::init([](const MDPLaw& law, const std::string& backend, std::size_t memory_limit, std::size_t threads) {
             return build(threads, [&](const RunOptions& options) {
               return MDP(law, backend_of(backend), memory_limit, options);
             });
           }),
           py::arg("law"), py::kw_only(), py::arg("backend"), py::arg("memory_limit"), py::arg("threads"))
      .def_static(
          "from_probabilities",
          [](const Doubles& policy, const Doubles& transition, bool fixed_start, std::uint64_t seed,
             std::size_t memory_limit, std::size_t threads) {
            if (policy.ndim() != 2 || transition.ndim() != 3 || transition.shape(0) != policy.shape(0) ||
                transition.shape(1) != policy.shape(1) || transition.shape(2) != policy.shape(0)) {
              throw std::invalid_argument("policy must be [S, A] and transition [S, A, S]");
            }
            const Pinned actions(policy), next_states(transition);
            const auto state_count = static_cast<std::uint32_t>(policy.shape(0));
            const auto action_count = static_cast<std::uint32_t>(policy.shape(1));
            return build(threads, [&](const RunOptions& options) {
              return MDP::from_probabilities(span_of(policy), span_of(transition), state_count, action_count,
                                             start_law(fixed_start), seed, memory_limit, options);
            });
          },
          py::kw_only(), py::arg("policy"), py::arg("transition"), py::arg("fixed_start"), py::arg("seed"),
          py::arg("memory_limit"), py::arg("threads"))
      .def(
          "sample",
          [](const MDP& mdp, std::uint64_t first_trajectory, const py::array& states, const py::array& actions,
             std::size_t threads) {
            const Filled state_rows(states), action_rows(actions);
            run_released(threads, [&](const RunOptions& options) {
              mdp.sample({first_trajectory}, state_rows.rows, action_rows.rows, options);
            });
          },
          py::kw_only(), py::arg("first_trajectory"), py::arg("states"), py::arg("actions"), py::arg("threads"),
          "Fill states [N, L + 1] and actions [N, L] with the trajectories from first_trajectory on.")
      .def(
          "sample_trajectories",
          [](const MDP& mdp, const Indexes& indexes, const py::array& states, const py::array& actions,
             std::size_t threads) {
            const Filled state_rows(states), action_rows(actions);
            const std::vector<std::uint64_t> numbers = copied(indexes);
            const Sequences trajectories = sequences_of(numbers, action_rows.rows);
            run_released(threads, [&](const RunOptions& options) {
              mdp.sample(trajectories, state_rows.rows, action_rows.rows, options);
            });
          },
          py::kw_only(), py::arg("indexes"), py::arg("states"), py::arg("actions"), py::arg("threads"),
          "Fill row k of states [N, L + 1] and actions [N, L] with the trajectory of number indexes[k].")
      .def_property_readonly(
          "backend", [](const MDP& mdp) { return backend_name(mdp.is_dense()); }, "'dense' or 'implicit'.");
  module.def(
      "state_codebook",
      [](std::size_t row_count, std::size_t dimension) {
        return codebook_array(Domain::state_codebook, row_count, dimension);
      },
      py::arg("row_count"), py::arg("dimension"), "Fixed Uniform(-1, 1) vectors, float32 [row_count, dimension].");
  module.def(
      "action_codebook",
      [](std::size_t row_count, std::size_t dimension) {
        return codebook_array(Domain::action_codebook, row_count, dimension);
      },
      py::arg("row_count"), py::arg("dimension"), "Fixed Uniform(-1, 1) vectors, float32 [row_count, dimension].");
}

}  // namespace trajmill
