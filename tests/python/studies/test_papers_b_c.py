"""Studies of papers B and C: what they train on is what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import tiny, train

from trajmill.algorithms import td3_bc
from trajmill.data import load_dataset, qlearning_transitions
from trajmill.runs.reading import read_run
from trajmill.studies import cells, drawings
from trajmill.studies.cells import QUICK_COUNT, QUICK_UPDATES, ReproduceConfig, path_name, run_cells
from trajmill.studies.drawings import panels_of
from trajmill.studies.measures import Results
from trajmill.studies.paper_b import augmented
from trajmill.studies.paper_c import AGENTS, DIFFUSION, with_synthetic
from trajmill.studies.records import Noise
from trajmill.studies.run import all_studies, reproduce
from trajmill.training.settings import Schedule

HOPPER = "hopper-sac-replay-10k"
NAMES = [name for name in all_studies() if name.startswith(("b-", "c-"))]


def test_both_papers_are_there() -> None:
    assert {"b-rates", "b-values", "b-horizons", "b-sizes"} <= set(NAMES)
    assert {
        "c-offline",
        "c-offline-10k",
        "c-small-data",
        "c-larger-networks",
        "c-compression",
        "c-models",
        "c-augmentation",
    } <= set(NAMES)


def test_a_quick_run_of_a_model_decays_over_its_own_updates() -> None:
    """Not over a share of a small instance's, which is for runs of another length; open, it follows the schedule."""
    made = [
        cells.upsample_config(variant, ReproduceConfig(quick=True))
        for name in NAMES
        for variant in all_studies()[name].variants.values()
        if variant.synthetic is not None and hasattr(variant.synthetic.model.method, "decay_updates")
    ]
    assert made and all(config.method.decay_updates is None for config in made)


@pytest.mark.parametrize("name", NAMES)
def test_variants_have_names_of_their_own_and_can_be_configured(name: str, tmp_path: Path) -> None:
    study = all_studies()[name]
    assert len(study.variants) == len({id(column.variant) for column in study.columns})
    config = ReproduceConfig(seeds=(0, 1))
    for variant in study.variants.values():
        made = cells.training_config(variant, HOPPER, "Hopper-v4", None, config, tmp_path)
        assert made.schedule.updates == variant.updates and made.method == variant.method
        if variant.meets is not None:
            assert made.interaction == variant.meets
            continue
        assert (made.predict is not None) == (variant.prediction is not None)
        assert bool(made.mix) == (variant.synthetic is not None or variant.noise is not None)


def test_no_prediction_is_plain_training(tmp_path: Path) -> None:
    made = cells.training_config(augmented(0.0), HOPPER, "Hopper-v4", None, ReproduceConfig(seeds=(0,)), tmp_path)
    assert made.predict is None and made.mix == () and made.method == td3_bc.Config()
    other = cells.training_config(augmented(0.25, 3), HOPPER, "Hopper-v4", None, ReproduceConfig(seeds=(0,)), tmp_path)
    assert (other.prediction_rate, other.prediction_horizon) == (0.25, 3)


def test_quick_models_do_not_depend_on_who_uses_them() -> None:
    config = ReproduceConfig(seeds=(0,), quick=True)
    made = [cells.upsample_config(with_synthetic(agent), config) for agent in AGENTS.values()]
    assert made[0] == made[1] == made[2]
    assert made[0].schedule.updates == QUICK_UPDATES and made[0].count == QUICK_COUNT
    whole = cells.upsample_config(with_synthetic(AGENTS["IQL"]), ReproduceConfig(seeds=(0,)))
    assert (whole.count, whole.schedule.updates, whole.method) == (5_000_000, 100_000, DIFFUSION.method)


def test_about_so_many_rows_are_whole_trajectories(tmp_path: Path) -> None:
    path = cells._share_of(replace(augmented(0.0), rows=5000), HOPPER, tmp_path)
    part, whole = load_dataset(path), load_dataset(HOPPER)
    assert 3000 < len(part) < 7000 and part.episode_ends[-1] and part.ordered
    rows = {row.tobytes() for row in whole.observations}
    assert all(row.tobytes() in rows for row in part.observations)
    assert cells._share_of(augmented(0.0), HOPPER, tmp_path) == HOPPER, "there are no more than 10,000"


def test_noisy_copies_are_the_data_but_for_noise_on_observations(tmp_path: Path) -> None:
    path = cells._noised(Noise(kind="additive", strength=0.1, copies=2), HOPPER, tmp_path)
    real, noisy = (qlearning_transitions(load_dataset(name)) for name in (HOPPER, path))
    count = len(real)
    assert len(noisy) == 2 * count
    for name in ("action", "reward", "terminal"):
        ours, theirs = getattr(noisy, name), getattr(real, name)
        assert np.array_equal(ours[:count], theirs) and np.array_equal(ours[count:], theirs)
    for name in ("observation", "next_observation"):
        off = (getattr(noisy, name)[:count] - getattr(real, name)) / real.observation.std(0)
        assert off.std() == pytest.approx(0.1, rel=0.02) and abs(off.mean()) < 0.002
    assert not np.array_equal(noisy.observation[:count], noisy.observation[count:])


def test_values_of_the_data_are_drawn_as_densities(tmp_path: Path) -> None:
    """Of 40 % of the data worth 1 and 60 % worth 3; a rate that was not run has no curve and keeps its look."""
    study = all_studies()["b-values"]
    names = [column.trained.name for column in study.columns]
    runs = {(name, HOPPER): tmp_path / path_name(name) for name in (names[0], names[2])}
    results = Results(replace(study, datasets=(HOPPER,)), tmp_path, ReproduceConfig(), runs)
    values = np.tile(np.repeat(np.float32([1.0, 3.0]), [400, 600]), (5, 1))
    for shift, path in enumerate(runs.values()):
        results._data_values[path] = values + shift
    results._read = lambda path: SimpleNamespace(path=path, evaluation=lambda _: None, series={})  # type: ignore[assignment,return-value]
    (panel,) = panels_of(results)
    assert [(curve.label, curve.style) for curve in panel.curves] == [("0%", 0), ("50%", 2)]
    width = panel.curves[0].x[1] - panel.curves[0].x[0]
    for shift, curve in enumerate(panel.curves):
        shares = curve.center * width
        assert shares.sum() == pytest.approx(1.0)
        assert shares[np.abs(curve.x - 1.0 - shift) <= width].sum() == pytest.approx(0.4)
    assert results.values(study.columns[2], HOPPER) == pytest.approx([3.2] * 5)


def test_progress_names_what_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that two variants share is reported by its own name, not by the variant that asked first."""
    told = []

    def work(*arguments: Any, **_: Any) -> None:
        arguments[-1]("train", 1, 2, "updates")

    monkeypatch.setattr(cells, "train", work)
    monkeypatch.setattr(cells, "upsample", work)
    variants = [augmented(0.5), augmented(1.0), with_synthetic(AGENTS["IQL"])]
    config = ReproduceConfig(seeds=(0,), processes=1)
    run_cells([(variant, HOPPER) for variant in variants], tmp_path, config, lambda task, *_: told.append(task))
    prediction, synthetic = variants[0].prediction, variants[2].synthetic
    assert prediction is not None and synthetic is not None
    made = [f"1/1 {each.model.name} on {HOPPER}: train" for each in (prediction, synthetic)]
    made += [f"{number}/3 {variant.name} on {HOPPER}: train" for number, variant in enumerate(variants, start=1)]
    assert [task for task in told if task.endswith("train")] == made


@pytest.mark.parametrize(("name", "label"), [("b-rates", "updates"), ("a-curves-dt", "fine-tuning updates")])
def test_only_what_was_pretrained_is_fine_tuned(name: str, label: str, tmp_path: Path) -> None:
    study = all_studies()[name]
    results = Results(study, tmp_path, ReproduceConfig(), {})
    assert drawings._panel(results, list(study.columns), [HOPPER], "", "scores").x_label == label


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
@pytest.mark.parametrize("name", ["b-rates", "b-values", "c-augmentation", "c-models"])
def test_a_quick_study_is_whole(name: str, tmp_path: Path) -> None:
    done = reproduce(name, tmp_path, ReproduceConfig(quick=True, datasets=(HOPPER,), processes=1))
    assert done.report.exists()
    assert all(np.isfinite(entry.ours.estimate) for row in done.comparison.rows.values() for entry in row if entry.ours)
    assert len(done.runs) == len(done.study.variants)


def test_the_values_of_a_dataset_read_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs there are of it, and cut as they cut it."""
    loaded: list[tuple[str, int | None]] = []

    def load(name: str, *, limit: int | None = None) -> Any:
        loaded.append((name, limit))
        return load_dataset(name, limit=limit)

    monkeypatch.setattr("trajmill.studies.measures.load_dataset", load)
    schedule = Schedule(updates=1, log_interval=1, evaluation_interval=1, checkpoint_interval=1)
    runs = [
        read_run(train(tiny("td3_bc", seeds=(seed,), schedule=schedule, limit=1000), tmp_path / str(seed)))
        for seed in range(2)
    ]
    results = Results(all_studies()["b-values"], tmp_path, ReproduceConfig(), {})
    values = [results.data_values(run) for run in runs]
    assert loaded == [(HOPPER, 1000)] and not np.array_equal(*values)
