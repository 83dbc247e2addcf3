"""Which environment a data set is from, and whether its sizes are that environment's."""

from __future__ import annotations

from trajmill.data.errors import DatasetError, refuse
from trajmill.data.records import Dataset

_ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4", "ant": "Ant-v4"}

# Numbers of an observation and of an action, versions v2 to v4. D4RL's Ant has 84 contact forces, all zero, behind 27.
_SIZES = {"halfcheetah": ((17,), 6), "hopper": ((11,), 3), "walker2d": ((17,), 6), "ant": ((27, 111), 8)}


def environment_of(dataset: Dataset) -> str:
    """Return the Gymnasium id to evaluate a data set in, such as ``"Hopper-v4"``.

    It is the file's attribute ``environment`` if there is one, else follows from the name as D4RL writes it: every
    ``hopper-*`` belongs to Hopper-v4, the living successor of the -v2 environments that D4RL's files were recorded in.

    Raises
    ------
    DatasetError
        If neither the file nor its name says.
    """
    recorded = dataset.metadata.get("environment")
    if isinstance(recorded, str):
        return recorded
    key = dataset.name.lower().replace("_", "-").split("-", 1)[0]
    if key not in _ENVIRONMENTS:
        known = ", ".join(_ENVIRONMENTS)
        fault = f"neither an attribute 'environment' nor the name {dataset.name!r} says which environment it is from"
        raise DatasetError(f"{dataset.path}: {fault}; let the file's name start with one of: {known}")
    return _ENVIRONMENTS[key]


def check_sizes(dataset: Dataset) -> None:
    """Refuse observations or actions that are not of the size that the data set's environment has, if it is known."""
    try:
        environment = environment_of(dataset)
    except DatasetError:
        return
    name, _, version = environment.lower().partition("-v")
    if name not in _SIZES or version not in ("2", "3", "4"):
        return
    observation_dims, action_dim = _SIZES[name]
    if dataset.observation_dim not in observation_dims:
        needed = " or ".join(map(str, observation_dims))
        fault = f"key 'observations' has {dataset.observation_dim} columns, {environment} has {needed}"
        raise refuse(dataset.path, fault, _hint(name, dataset.observation_dim, observation_dims[0]))
    if dataset.action_dim != action_dim:
        fault = f"key 'actions' has {dataset.action_dim} columns, {environment} has {action_dim}"
        raise refuse(dataset.path, fault, "the file's name or its attribute 'environment' names another environment")


def _hint(name: str, found: int, usual: int) -> str:
    """What an unusual number of columns probably means."""
    if name == "ant" and found == 105:
        return "105 is Ant-v5's, whose contact forces D4RL's data never had; keep the first 27 and store them as Ant-v4"
    if found == usual + 1:
        return "one more is the x position, which environments leave out by default; drop the first column"
    return "the file's name or its attribute 'environment' names another environment"
