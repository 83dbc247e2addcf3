"""Studies of papers B and C: what they train on is what they say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_runs import tiny, train

from trajmill.algorithms import redq, sac, td3_bc
from trajmill.core.progress import silent
from trajmill.data import load_dataset, qlearning_transitions
from trajmill.experiments.online import ring_of
from trajmill.experiments.settings import OnlineTrainConfig, SynthesisConfig
from trajmill.replay.ring import Turns
from trajmill.runs.reading import read_run
from trajmill.studies import cells, drawings, measures
from trajmill.studies.cells import QUICK_COUNT, QUICK_UPDATES, ReproduceConfig, path_name, run_cells
from trajmill.studies.drawings import panels_of
from trajmill.studies.measures import Results
from trajmill.studies.paper_b import augmented
from trajmill.studies.paper_c import AGENTS, DIFFUSION, with_synthetic
from trajmill.studies.records import Noise
from trajmill.studies.run import all_studies, reproduce
from trajmill.studies.work import estimate
from trajmill.training.settings import Interaction, Schedule, plain

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
        "c-online",
        "c-online-small",
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
            assert (made.interaction, made.synthesis) == (variant.meets, variant.synthesis)
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


# --- agents that learn online, in environments ---


def online(config: ReproduceConfig, name: str = "c-online") -> dict[str, OnlineTrainConfig[Any]]:
    """The runs of the study by the labels of its columns."""
    made = {
        column.label: cells.training_config(column.trained, "", "Hopper-v4", None, config)
        for column in all_studies()[name].columns
    }
    assert all(isinstance(each, OnlineTrainConfig) for each in made.values())
    return cast(dict[str, OnlineTrainConfig[Any]], made)


def test_online_agents_are_the_paper_s() -> None:
    made = list(online(ReproduceConfig(seeds=(0,))).values())
    often = sac.Config(policy_value="mean", policy_delay=20)
    assert [each.method for each in made] == [sac.Config(policy_value="mean"), often, often, redq.Config()]
    assert [each.interaction.updates_per_step for each in made] == [1, 20, 20, 20]
    assert {each.interaction.random_steps for each in made} == {5000}
    paper = SynthesisConfig(every=10_000)  # half of a batch, from the first model on
    assert [each.synthesis for each in made] == [SynthesisConfig(), SynthesisConfig(), paper, SynthesisConfig()]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 1e-9])
@pytest.mark.parametrize("name", ["c-online", "c-online-small"])
def test_online_agents_are_compared_at_equal_steps(name: str, share: float, quick: bool) -> None:
    """However many updates follow a step, and however small the share: length, scores, checkpoints."""
    config = ReproduceConfig(seeds=(0,), update_share=share, quick=quick)
    counted = set()
    for made in online(config, name).values():
        ratio, schedule = made.interaction.updates_per_step, made.schedule
        marks = schedule.updates, schedule.evaluation_interval, schedule.checkpoint_interval, schedule.log_interval
        counted.add((made.interaction.random_steps, *(mark / ratio for mark in marks)))
    assert len(counted) == 1


def test_a_share_of_an_online_run_is_one_of_all_that_it_counts() -> None:
    whole, tenth, least = (
        online(ReproduceConfig(seeds=(0,), update_share=share))["SAC, 20, synthetic"] for share in (1.0, 0.1, 1e-9)
    )
    assert (tenth.schedule.updates, tenth.schedule.evaluation_interval) == (190_000, 9_500)
    assert tenth.interaction.random_steps == 500
    made = tenth.synthesis
    assert (made.every, made.updates, made.count) == (1000, 10_000, 100_000)
    assert made.method == whole.synthesis.method and tenth.method == whole.method, "sizes are settings"
    turns = [Turns.of(each.interaction, 1, each.method.batch_size) for each in (tenth, whole)]
    assert (made.due_within(turns[0], 190_000), whole.synthesis.due_within(turns[1], 1_900_000)) == (9, 9)
    assert (least.schedule.updates, least.synthesis.every, least.synthesis.count) == (20, cells.LEAST_ROWS, 11)
    models = ReproduceConfig(seeds=(0,), update_share=0.1, pretraining_share=0.5)
    made = online(models)["SAC, 20, synthetic"].synthesis
    assert (made.every, made.updates) == (1000, 50_000)


def test_the_work_of_an_online_study_has_its_models() -> None:
    study = all_studies()["c-online"]
    (synthetic,) = (variant for variant in study.variants.values() if variant.synthesis.every)
    without = replace(study, columns=tuple(each for each in study.columns if each.trained is not synthetic))
    model = estimate(study).gpu_hours - estimate(without).gpu_hours - 15 * 1_900_000 / 10_000 / 3600
    making = 1_000_000 * 255 / (3 * 256)  # in updates
    assert model == pytest.approx(15 * 9 * (100_000 + making) / 4000 / 3600)
    assert estimate(study).cells == 12


def test_smaller_networks_and_batches_are_less_work() -> None:
    """Of `c-online-small`, all layers are half as wide as by default and batches half as large."""
    study = all_studies()["c-online-small"]
    (once,) = (each for each in study.columns if each.label == "SAC, 1 update a step")
    assert estimate(replace(study, columns=(once,))).cpu_core_hours == pytest.approx(4 * 3500 * 0.009 / 8 / 3600)
    assert 0.25 < estimate(study).cpu_core_hours < 1.0


def test_environments_are_trained_in_without_any_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a file has an environment's name."""
    (tmp_path / "hopper").write_text("not a dataset")
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(cells, "train", lambda settings, path, *_, **__: made.append((settings.environment, path)))
    study, config = all_studies()["c-online"], ReproduceConfig(seeds=(0,), processes=1)
    wanted = [(variant, place) for place in study.places[:2] for variant in study.variants.values()]
    runs = run_cells(wanted, tmp_path / "out", config, silent)
    assert made == [
        (environment, tmp_path / "out/runs" / path_name(name) / environment[:-3].lower())
        for environment in ("Hopper-v4", "HalfCheetah-v4")
        for name in study.variants
    ]
    assert list(runs.values()) == [path for _, path in made]


@pytest.mark.parametrize("ratio", [20, 1, 0.5, 1 / 3])
@pytest.mark.parametrize("random_steps", [10, 50])
def test_points_of_curves_stand_at_the_steps_before_them(ratio: float, random_steps: int) -> None:
    """Also where the first update waits for the rows of a batch, here 32."""
    interaction = Interaction(random_steps=random_steps, updates_per_step=ratio)
    sizes: dict[str, Any] = {"environment_count": 1, "batch_size": 32, "capacity": 100, "normalizer": None}
    ring = ring_of("hopper", [0], interaction, device=torch.device("cpu"), **sizes)
    config = {"interaction": plain(interaction), "method": {"batch_size": 32}}
    updates = np.arange(1, 1001)
    found = measures._positions(SimpleNamespace(config={"config": config}), updates)  # type: ignore[arg-type]
    assert found.tolist() == [ring.steps_before(update - 1) for update in updates.tolist()]


@pytest.mark.parametrize(
    ("name", "head", "row"), [("c-online", "environment", "hopper"), ("b-online", "dataset", "hopper-medium-replay-v2")]
)
def test_tables_say_what_their_rows_are_of(name: str, head: str, row: str, tmp_path: Path) -> None:
    table = Results(all_studies()[name], tmp_path, ReproduceConfig(), {}).comparison.markdown().splitlines()
    assert table[0].startswith(f"| {head} |") and table[2].startswith(f"| {row} |")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("c-online", {"datasets": (HOPPER,)}, "c-online has environments.*--environments.*--datasets"),
        ("b-online", {"environments": ("hopper",)}, "b-online has datasets.*--datasets.*--environments"),
        ("c-online", {"environments": ("hoper",)}, "unknown environment 'hoper'.*Hopper-v4"),
    ],
)
def test_places_of_another_kind_are_refused(name: str, given: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        reproduce(name, tmp_path / "out", ReproduceConfig(**given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["b-rates", "b-online"])
def test_a_study_of_environments_has_no_variant_that_needs_data(name: str) -> None:
    study = all_studies()[name]
    for datasets in ((), study.datasets):
        with pytest.raises(ValueError, match=re.escape(study.columns[0].trained.name)):
            replace(study, datasets=datasets, environments=("hopper",))


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 1e-3])
def test_a_quick_online_study_is_whole(share: float, tmp_path: Path) -> None:
    """Curves stand at the steps that the environments have made; with any share there are models."""
    config = ReproduceConfig(quick=True, update_share=share, environments=("hopper",), processes=1)
    done = reproduce("c-online", tmp_path, config)
    assert list(done.comparison.rows) == ["hopper"]
    assert all(entry.ours is not None for entry in done.comparison.rows["hopper"])
    (panel,) = panels_of(done)
    assert panel.x_label == "steps of the environment" and len(panel.curves) == 4
    assert all(np.array_equal(curve.x, panel.curves[0].x) for curve in panel.curves)
    for path in done.run_paths:
        run = read_run(path)
        logged, scored = run.series["train"], run.evaluation("normalized_score")
        assert scored is not None
        steps = logged["environment_steps"]
        assert np.array_equal(measures._positions(run, steps.updates), steps.values[:, 0])
        synthetic = "synthetic" in path.parent.name
        assert ("synthetic_model" in logged) == synthetic
        assert not synthetic or logged["synthetic_model"].values[-1].min() > 1


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
