"""The tasks that data is recorded in and policies are scored in; all facts about a task are one record.

`TASKS` are those that trajmill steps by itself; every other one is Gymnasium's (`trajmill.data.registry`). A new one of
ours needs a record in `TASKS`, its physics in `trajmill.evaluation.environments` and, for
``trajmill collect``, its settings in `trajmill.experiments.random_search` (docs/add-an-environment.md).

D4RL publishes the reference returns (`d4rl/infos.py`, REF_MIN_SCORE and REF_MAX_SCORE, equal for v0, v1 and v2): the
minimum is the mean return of 100 episodes of a uniformly random policy, the maximum that of a soft actor-critic policy
trained to convergence, both in MuJoCo 2.0. In today's environment a random Hopper gets about 18, not -20.27; the
number stays as published so that scores compare with published scores.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajmill.data.actions import ActionLimit, bounds_of
from trajmill.data.errors import refuse, refusing
from trajmill.data.records import Dataset

EPISODE_LIMIT = 1000  # steps after which every task of ours cuts an episode, as Gymnasium's registry says


@dataclass(frozen=True, slots=True)
class ReferenceScore:
    """Undiscounted returns at normalized score 0 and 100."""

    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Task:
    """One environment, without its physics."""

    environment_id: str  # Gymnasium's; ``-v4`` continues the ``-v2`` environments that D4RL's files were recorded in
    observation_dim: int  # numbers of an observation
    action_dim: int  # numbers of an action
    _: KW_ONLY
    action_limit: ActionLimit = 1.0  # in whose units policies act
    episode_limit: int = EPISODE_LIMIT  # steps after which an episode is cut
    padded_observation_dim: int | None = None  # numbers of an observation in D4RL's files, if they add zeros
    reference_score: ReferenceScore | None = None  # what D4RL normalizes by; None: D4RL has no data of this task
    target_return: float | None = None  # the return that arXiv 2310.00771 asks of a Decision Transformer (Table 10)

    @property
    def name(self) -> str:
        """The short name, with which D4RL's names of datasets begin: ``hopper`` of ``hopper-medium-v2``."""
        return self.environment_id.rpartition(":")[2].removesuffix("-v4").replace("/", "-").lower()

    @property
    def entry_point(self) -> str:
        """Gymnasium's class, as Minari names it: ``gymnasium.envs.mujoco.half_cheetah_v4:HalfCheetahEnv``."""
        name = self.environment_id.removesuffix("-v4")
        module = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
        return f"gymnasium.envs.mujoco.{module}_v4:{name}Env"

    @property
    def observation_dims(self) -> tuple[int, ...]:
        """How many numbers an observation may have in data: as the environment shows it first, as D4RL's files last."""
        return tuple(dim for dim in (self.observation_dim, self.padded_observation_dim) if dim is not None)


_TASKS = (  # id, numbers of an observation, numbers of an action
    Task("HalfCheetah-v4", 17, 6, reference_score=ReferenceScore(-280.178953, 12135.0), target_return=6000.0),
    Task("Hopper-v4", 11, 3, reference_score=ReferenceScore(-20.272305, 3234.3), target_return=3600.0),
    Task("Walker2d-v4", 17, 6, reference_score=ReferenceScore(1.629008, 4592.3), target_return=5000.0),
    Task(
        "Ant-v4",
        27,
        8,
        padded_observation_dim=111,  # 84 contact forces, which MuJoCo left at zero
        reference_score=ReferenceScore(-325.6, 3879.7),
        target_return=5000.0,
    ),
    Task("InvertedPendulum-v4", 4, 1, action_limit=3.0),
)
TASKS = {task.name: task for task in _TASKS}
D4RL_TASKS = {name: task for name, task in TASKS.items() if task.reference_score}
REFERENCE_SCORES = {name: task.reference_score for name, task in TASKS.items() if task.reference_score}


def task_of(environment: str) -> Task:
    """The task of ``"Hopper-v4"``, also by its short name ``"hopper"``, in any case; else Gymnasium's of that id.

    Errors are those of `trajmill.data.registry.registered_task`.
    """
    task = TASKS.get(environment.lower().removesuffix("-v4"))
    if task is None:
        from trajmill.data.registry import registered_task  # which is made of what is here

        return registered_task(environment)
    return task


def is_ours(environment: str) -> bool:
    """Whether trajmill steps an environment by itself; Gymnasium steps every other one."""
    return environment.lower().removesuffix("-v4") in TASKS


def action_limit_of(environment: str | None) -> float:
    """Greatest number of an action in ``"InvertedPendulum-v4"``, of any version; 1.0 for what is not among `TASKS`."""
    task = TASKS.get((environment or "").lower().partition("-v")[0])
    return 1.0 if task is None else float(bounds_of(task.action_limit)[1])


def has_reference_score(environment: str) -> bool:
    """Whether `reference_score` knows the environment; it knows no ``-v5``, whose rewards and physics are others."""
    name, version = environment.lower(), re.search("^[a-z0-9]+-v([0-9]+)$", environment.lower())
    if version is not None:
        return int(version[1]) <= 4 and _first_word(name) in REFERENCE_SCORES
    is_dataset = environment == name or "-" not in name  # Gymnasium's ids of other tasks have capitals: Hopper-Big-v0
    return is_dataset and _first_word(name) in REFERENCE_SCORES


def reference_score(environment: str) -> ReferenceScore:
    """The reference returns of ``"hopper"``, ``"Hopper-v4"`` or ``"hopper-medium-v2"``; ValueError without any."""
    if not has_reference_score(environment):
        raise ValueError(f"no reference scores for environment {environment!r}; known: {', '.join(REFERENCE_SCORES)}")
    return REFERENCE_SCORES[_first_word(environment)]


def normalized_score(environment: str, returns: ArrayLike) -> NDArray[np.float64]:
    """Score undiscounted returns of any shape: 0 is D4RL's random policy, 100 its expert (`reference_score`)."""
    reference = reference_score(environment)
    share = (np.asarray(returns, np.float64) - reference.minimum) / (reference.maximum - reference.minimum)
    return np.asarray(100.0 * share)


def _first_word(name: str) -> str:
    """What comes first in a name; D4RL's files of AntMaze are called ``Ant_maze_...`` and are no Ant."""
    return re.sub("^ant[-_]maze", "antmaze", name.lower()).split("-", 1)[0]


def environment_of(dataset: Dataset) -> str:
    """Return the Gymnasium id that a dataset names, such as ``"Hopper-v4"``; refuse a dataset that names none.

    It is the attribute ``environment`` if there is one, else that of a name like D4RL's, such as ``hopper-medium``. One
    with a package is refused, since to make it is to import what a file names.
    """
    environment = find_environment(dataset)
    if environment is None:
        fault = f"neither an attribute 'environment' nor the name {dataset.name!r} says which environment it is from"
        with refusing(dataset.path):
            remedy = f"name it (--environment), or start the file's name with one of: {', '.join(D4RL_TASKS)}"
            raise refuse(fault, remedy)
    if ":" in environment:
        with refusing(dataset.path):
            fault = f"the attribute 'environment' is {environment!r}, and to make it is to import this package"
            raise refuse(fault, f"give --environment {environment} if you trust it")
    return environment


def find_environment(dataset: Dataset) -> str | None:
    """`environment_of` a dataset, or None if it names none."""
    recorded = dataset.metadata.get("environment")
    if isinstance(recorded, str):
        return recorded
    task = D4RL_TASKS.get(_first_word(dataset.name.replace("_", "-")))
    return None if task is None else task.environment_id


def simulated_environment(dataset: Dataset) -> str | None:
    """`find_environment` of a dataset, if it is one that trajmill steps by itself; else None."""
    environment = find_environment(dataset)
    return environment if environment in {task.environment_id for task in TASKS.values()} else None


def check_sizes(dataset: Dataset, task: Task, remedy: str) -> None:
    """Refuse observations or actions of another size than a task's; `remedy` is given if there is no better one."""
    found = {"observations": dataset.observation_dim, "actions": dataset.action_dim}
    needed = {"observations": task.observation_dims, "actions": (task.action_dim,)}
    if task.name == "ant" and found["observations"] == 105:
        remedy = "105 is Ant-v5's, with contact forces that D4RL's data never had; name Ant-v5, or keep the first 27"
    elif found["observations"] == task.observation_dim + 1:
        remedy = "one more is the x position, which environments leave out by default; drop the first column"
    for key, size in found.items():
        if size not in needed[key]:
            sizes = " or ".join(map(str, needed[key]))
            raise refuse(f"key {key!r} has {size} columns, {task.environment_id} has {sizes}", remedy)


def check_environment(dataset: Dataset, environment: str) -> str:
    """The Gymnasium id of an environment, if it shows what the dataset has; a DatasetError if not."""
    task = task_of(environment)
    with refusing(dataset.path):
        check_sizes(dataset, task, "name the environment that the data was recorded in")
        if dataset.observations[:, task.observation_dim :].any():
            fault = f"key 'observations' is not zero past column {task.observation_dim}, as it is in D4RL's files"
            raise refuse(fault, f"{task.environment_id} does not show what these columns hold")
    return task.environment_id
