"""Any environment of Gymnasium's registry, also one that a package of one's own registers, as a `Task`.

Its observations must be vectors of numbers, and its actions vectors within finite limits; everything else is refused
with what to do. `trajmill.data.environments` has the five tasks that trajmill steps by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import numpy as np

from trajmill.data.actions import limit_between
from trajmill.data.environments import EPISODE_LIMIT, TASKS, Task

_OLD_VERSIONS = ("0", "1", "2", "3")
"""of our tasks: Gymnasium still lists some, and cannot make any"""


def registered_task(environment_id: str) -> Task:
    """What Gymnasium says of an environment; it is made for that and closed again.

    ``package:Name-v0`` imports `package`, which registers the id. An id without a version is Gymnasium's newest. An
    episode that Gymnasium does not limit is cut after `EPISODE_LIMIT` steps. ValueError if there is none, or its
    observations or actions are not as the methods need them; ImportError if Gymnasium or a package of the environment
    is absent.
    """
    environment = make_registered(environment_id)
    try:
        observation_dim, limit = _shown(environment_id, environment), _acted(environment_id, environment)
        package, colon, _ = environment_id.rpartition(":")
        return Task(
            f"{package}{colon}{environment.spec.id}",
            observation_dim,
            environment.action_space.shape[0],
            action_limit=limit,
            episode_limit=environment.spec.max_episode_steps or EPISODE_LIMIT,
        )
    finally:
        environment.close()


def make_registered(environment_id: str) -> Any:
    """Gymnasium's environment with all its wrappers but the checker; errors are those of `registered_task`."""
    try:
        import gymnasium
    except ImportError as error:
        own = ", ".join(task.environment_id for task in TASKS.values())
        fault = f"{environment_id} needs Gymnasium, as every environment but {own} or a short name of these"
        raise ImportError(f"{fault}; install it with: pip install 'trajmill[train]'") from error
    package, colon, name = environment_id.rpartition(":")
    stem, _, version = name.lower().partition("-v")
    if stem in TASKS and version in _OLD_VERSIONS:
        newer = TASKS[stem].environment_id
        raise ValueError(f"Gymnasium has no {environment_id} any more; name {newer}, which continues it")
    if colon and (not package or find_spec(package.partition(".")[0]) is None):
        remedy = "install it, or name the folder that it is in by the variable PYTHONPATH"
        raise ImportError(f"{environment_id} is of the package {package!r}, which is not found; {remedy}")
    try:
        with warnings.catch_warnings(), without_warnings():
            warnings.simplefilter("ignore")  # that there is a newer version, or that this is the newest
            return gymnasium.make(environment_id, disable_env_checker=True)
    except gymnasium.error.UnregisteredEnv as error:
        raise ValueError(_unknown(environment_id, gymnasium.registry)) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ImportError(f"{environment_id} needs something that is not installed: {error}") from error
    except Exception as error:
        fault = f"Gymnasium cannot make {environment_id}: {type(error).__name__}: {error}"
        raise ValueError(f"{fault}; gymnasium.make({environment_id!r}) must work without more arguments") from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop MuJoCo's warnings, which otherwise go to stderr and into MUJOCO_LOG.TXT.

    There is one about HalfCheetah's model file, and one for each state that it cannot step and resets.
    """
    try:
        import mujoco
    except ImportError:  # and what needs it says so
        yield
        return
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)


def _unknown(environment_id: str, registered: Iterable[str]) -> str:
    """What to say of an id that nobody knows."""
    name = environment_id.rpartition(":")[2]
    ours = {task.environment_id.lower(): task.environment_id for task in TASKS.values()}
    known = dict(ours)
    for each in map(str, registered):
        task, _, version = each.lower().partition("-v")
        if each.lower() not in ours and not (task in TASKS and version in _OLD_VERSIONS):
            known[each.lower()] = each
    stem = name.lower().partition("-v")[0]
    near = [each for each in known if get_close_matches(stem, [each.partition("-v")[0]], 1, 0.8)]
    found = list(dict.fromkeys(known[each] for each in near + get_close_matches(name.lower(), known, 3, 0.8)))
    hint = f"did you mean {' or '.join(found[:4])}?" if found else f"trajmill's own are {', '.join(TASKS)};"
    return (
        f"unknown environment {environment_id!r}; {hint} every other id is Gymnasium's, such as Pendulum-v1, or "
        "package:Name-v0 where a package of yours registers it"
    )


def _shown(environment_id: str, environment: Any) -> int:
    """Numbers of an observation."""
    from gymnasium import spaces

    space = environment.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0:
        return int(space.shape[0])
    what = _named(space)
    if isinstance(space, spaces.Box) and len(space.shape) == 3:
        what += ", which is an image"
    remedy = "register an id whose environment is wrapped in gymnasium.wrappers.FlattenObservation, and name that"
    raise ValueError(f"{environment_id} shows {what}; the methods take vectors of numbers: {remedy}")


def _acted(environment_id: str, environment: Any) -> Any:
    """The limit of actions."""
    from gymnasium import spaces

    space = environment.action_space
    needed = "the methods act by vectors of numbers within finite limits, Box(low, high, (A,))"
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0):
        raise ValueError(f"{environment_id} takes actions of {_named(space)}; {needed}, and have no others")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        remedy = "register an id with gymnasium.wrappers.TransformAction that sets limits, and name that"
        raise ValueError(f"{environment_id} takes actions of {_named(space)}; {needed}: {remedy}")
    if not np.issubdtype(space.dtype, np.floating) or not (space.low < space.high).all():
        raise ValueError(f"{environment_id} takes actions of {_named(space)}; {needed}, floats with low below high")
    return limit_between(space.low, space.high)


def _named(space: Any) -> str:
    """A space in a word or two."""
    text = " ".join(str(space).split())
    return text if len(text) <= 100 else f"{type(space).__name__} of shape {space.shape}"
