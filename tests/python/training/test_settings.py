"""Settings: checked where they are made, of each seed its own, to JSON and back for every method."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from trajmill.algorithms import decision_transformer, forward_dynamics, language_model, method_named, method_names
from trajmill.training.settings import (
    Interaction,
    PerSeed,
    Schedule,
    at_least,
    check_seeds,
    configured,
    defaults,
    for_seeds,
    in_range,
    per_seed,
    per_seed_names,
    plain,
)

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 4
    bound: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Config:
    """One setting of each kind."""

    required: int
    rate: PerSeed = 0.5
    open_rate: PerSeed | None = None
    word: Literal["one", "two"] = "one"
    switch: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)
    sizes: tuple[int, ...] = (256, 256)
    files: tuple[Path, ...] = ()
    directory: Path | None = None
    target: float | None = None
    inner: Inner = field(default_factory=Inner)
    others: tuple[int, ...] = field(default_factory=lambda: (1,))


VARIED = Config(
    required=3,
    rate=(0.25, math.inf, 1.0),
    open_rate=(1.0, 2.0, 3.0),
    word="two",
    switch=True,
    limits=(-1.5, math.inf),
    sizes=(),
    files=(Path("a.txt"), Path("inf")),
    directory=Path("here/there"),
    target=7.0,
    inner=Inner(width=8, bound=1.0),
    others=(2, 3),
)


def round_trip(config: Any) -> Any:
    """As it is written into a run's files and read again."""
    return configured(type(config), json.loads(json.dumps(plain(config), allow_nan=False)))


@pytest.mark.parametrize("config", [Config(required=1), VARIED])
def test_settings_come_back_from_json(config: Config) -> None:
    assert round_trip(config) == config
    types = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    assert {field.name: type(getattr(round_trip(config), field.name)) for field in fields(config)} == types


METHODS = {name: method_named(name) for name in method_names()}
VARIANTS = {
    "language_model on text": language_model.Config(
        text=(Path("a.raw"), Path("b.raw")), vocabulary=Path("gpt2"), learning_rate=(1e-3, 1e-4), temperature=math.inf
    ),
    "forward_dynamics of uniform draws": forward_dynamics.Config(law="iid", policy_temperature=math.inf),
    "decision_transformer for a return": decision_transformer.Config(
        target_return=3600.0, backbone=decision_transformer.GPTConfig(activation="gelu", width=64)
    ),
    **{name: method.Config() for name, method in METHODS.items()},
    **{f"{name}.SMALL": method.SMALL for name, method in METHODS.items()},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_settings_of_every_method_come_back_from_json(name: str) -> None:
    assert round_trip(VARIANTS[name]) == VARIANTS[name]


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_each_seed_come_back_too(name: str) -> None:
    """Every number that may differ does, and three seeds are those of three runs."""
    config = METHODS[name].Config()
    names = [field for field in per_seed_names(config) if getattr(config, field) is not None]
    varied = replace(
        config, **{field: (getattr(config, field),) * 2 + (getattr(config, field) / 2,) for field in names}
    )
    assert names and round_trip(varied) == varied
    assert for_seeds(varied, [2]) == replace(config, **{field: (getattr(config, field) / 2,) for field in names}), (
        "the third seed's"
    )


def test_what_is_missing_has_its_default_and_what_is_unknown_is_left() -> None:
    assert configured(Config, {"required": 1, "inner": {"width": 9}, "forgotten": 5}) == Config(
        required=1, inner=Inner(width=9)
    )
    with pytest.raises(TypeError, match="required"):
        configured(Config, {})
    with pytest.raises(ValueError, match="batch_size"):
        configured(forward_dynamics.Config, {"batch_size": 0})


def test_plain_settings_are_json() -> None:
    found = plain(VARIED)
    assert found["rate"] == [0.25, "inf", 1.0]
    assert found["files"] == ["a.txt", "inf"] and found["inner"] == {"width": 8, "bound": 1.0}
    assert plain(Config(required=1))["limits"] == ["-inf", "inf"]


def test_defaults_are_those_of_the_class_but_open_settings_keep_their_value() -> None:
    found = defaults(VARIED)
    assert "required" not in found
    assert found["target"] == 7.0 and found["directory"] == "here/there" and found["open_rate"] == [1.0, 2.0, 3.0]
    assert found["rate"] == 0.5 and found["sizes"] == [256, 256] and found["others"] == [1]
    assert found["inner"] == {"width": 4, "bound": "inf"}


def test_numbers_are_one_for_all_seeds_or_one_each() -> None:
    assert per_seed_names(Config(required=1)) == ["rate", "open_rate"]
    one = per_seed(Config(required=1, rate=2.0), 3, CPU, torch.float32)
    assert one["rate"].tolist() == [2.0] * 3 and one["rate"].dtype == torch.float32
    assert "open_rate" not in one, "what has no value is left out"
    assert per_seed(VARIED, 3, CPU, torch.float64)["open_rate"].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match=r"rate .*\(2\), got 3"):
        per_seed(VARIED, 2, CPU, torch.float32)


def test_numbers_are_rounded_once() -> None:
    """A rate in float64 is exactly the number given."""
    assert per_seed(Config(required=1, rate=0.1), 1, CPU, torch.float64)["rate"].item() == 0.1


def test_settings_of_some_seeds() -> None:
    chosen = for_seeds(VARIED, [2, 0])
    assert chosen.rate == (1.0, 0.25) and chosen.open_rate == (3.0, 1.0) and chosen.sizes == ()
    assert for_seeds(Config(required=1), range(5)) == Config(required=1), "numbers for all seeds stay"


def test_ranges_name_the_setting_and_its_value() -> None:
    at_least(1, width=1, depth=7)
    in_range("(0, 1]", rate=1.0, other=(0.5, 1.0))
    for call, message in (
        (lambda: at_least(1, width=1, depth=0), r"depth .* 1, got 0"),
        (lambda: in_range("(0, 1]", rate=(0.5, 0.0)), r"rate .*\(0, 1\], got 0\.0"),
        (lambda: in_range("[0, inf)", rate=math.nan), "rate .* got nan"),
        (lambda: in_range("[0, inf)", rate=math.inf), "rate .* got inf"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call in (lambda: at_least(1, width=1.5), lambda: at_least(1, width=True), lambda: in_range("[0, 1]", rate="1")):
        with pytest.raises(TypeError, match=r"width|rate"):
            call()


def test_seeds_are_different_numbers_of_64_bits() -> None:
    assert check_seeds([0, 2**64 - 1]) == (0, 2**64 - 1)
    for seeds, message in (([], "at least one"), ([1, 1], "differ"), ([-1], "-1"), ([2**64], str(2**64))):
        with pytest.raises(ValueError, match=message):
            check_seeds(seeds)


def test_an_interaction_needs_steps_and_updates() -> None:
    assert Interaction(random_steps=0, updates_per_step=0.5).updates_per_step == 0.5
    for wrong in ({"random_steps": -1}, {"updates_per_step": 0.0}, {"updates_per_step": math.inf}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Interaction(**wrong)
    with pytest.raises(TypeError, match="random_steps"):
        Interaction(random_steps=0.5)  # type: ignore[arg-type]


SCHEDULE = Schedule(updates=103, log_interval=10, evaluation_interval=25, checkpoint_interval=40, unroll=1)


def test_a_schedule_stops_at_every_mark_and_after_the_first_update() -> None:
    stops, update = [], 0
    while update < SCHEDULE.updates:
        update = SCHEDULE.next_stop(update)
        stops.append(update)
    marks = {mark for interval in (10, 25, 40) for mark in range(interval, 103, interval)} | {1, 103}
    assert marks <= set(stops) and stops == sorted(set(stops))
    assert max(after - before for before, after in zip([0, *stops], stops, strict=False)) <= 8, "progress is shown"


def test_the_last_update_is_a_mark_of_every_kind() -> None:
    marks = [update for update in range(1, 104) if SCHEDULE.is_mark(SCHEDULE.checkpoint_interval, update)]
    assert marks == [40, 80, 103]


def test_every_number_of_a_schedule_is_at_least_one() -> None:
    for one in fields(Schedule):
        with pytest.raises(ValueError, match=f"{one.name} .* got 0"):
            replace(SCHEDULE, **{one.name: 0})
