"""Content tells datasets apart, not names: in a study's directory, in checkpoints, in its tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajmill.data import Dataset, Subset, bundled_datasets, load_dataset, write_d4rl
from trajmill.data.catalog import find_dataset
from trajmill.experiments import prediction
from trajmill.experiments.settings import TrainConfig
from trajmill.studies import cells
from trajmill.studies.records import Noise
from trajmill.studies.run import all_studies
from trajmill.training.device import ComputeConfig

HOPPER = "hopper-sac-replay-10k"
QUICK = cells.ReproduceConfig(quick=True, seeds=(0,), processes=1, compute=ComputeConfig(device="cpu"))
pytestmark = pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")


def stored(path: Path, dataset: Dataset) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(write_d4rl(path, overwrite=True, **dataset.to_write()))


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two files of one name, of other content."""
    whole = load_dataset(HOPPER)
    first, second = Subset("first", 2000).take(whole), Subset("top", 0.2).take(whole)
    return stored(tmp_path / "a/data.hdf5", first), stored(tmp_path / "b/data.hdf5", second)


VARIANTS = [variant for study in all_studies().values() for variant in study.variants.values()]
SHARE = next(v for v in VARIANTS if v.ratio < 1.0 and v.start is None)
PREDICTED = next(v for v in VARIANTS if v.prediction is not None and v.prediction.rate > 0.0)
SYNTHETIC = next(v for v in VARIANTS if v.synthetic is not None)
PLACES: dict[str, Callable[[str, Path], Any]] = {
    "a share": lambda dataset, output: cells._share_of(SHARE, dataset, output),
    "another share": lambda dataset, output: cells._share_of(replace(SHARE, ratio=0.004), dataset, output),
    "some rows": lambda dataset, output: cells._share_of(replace(SHARE, rows=500), dataset, output),
    "noisy copies": lambda dataset, output: cells._noised(
        Noise(kind="additive", strength=0.1, copies=2), dataset, output
    ),
    "a model": lambda dataset, output: cells._augmented(PREDICTED, dataset, output)["predict"],
    "what a model made": lambda dataset, output: cells._augmented(SYNTHETIC, dataset, output)["mix"][0],
    "a run": lambda dataset, output: cells.place_name(dataset),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_that_of_a_content(place: str, two: tuple[str, str], tmp_path: Path) -> None:
    """Other content has another one, under the same name and at the same path; the same content has the same."""
    where = PLACES[place]
    first, second = (where(dataset, tmp_path / "out") for dataset in two)
    assert first != second
    (tmp_path / "c").mkdir()
    moved = shutil.copy(two[0], tmp_path / "c/data.hdf5")
    assert where(str(moved), tmp_path / "out") == first
    changed = load_dataset(two[0])
    assert changed.next_observations is not None
    changed.next_observations[-1] += 1.0  # that alone
    stored(Path(two[0]), changed)
    assert where(two[0], tmp_path / "out") != first


def test_shares_that_round_to_one_percentage_are_two_files(tmp_path: Path) -> None:
    made = {cells._share_of(replace(SHARE, ratio=ratio), HOPPER, tmp_path) for ratio in (0.1, 0.102, 0.098)}
    assert len(made) == 3


@pytest.mark.parametrize("name", bundled_datasets())
def test_bundled_names_stand_for_their_content(name: str, tmp_path: Path) -> None:
    assert cells.place_name(name) == cells.place_name(str(find_dataset(name))) == name
    other = stored(tmp_path / f"{name}.hdf5", Subset("first", 1500).take(load_dataset(name)))
    assert cells.place_name(other).startswith(f"{name}-")


def test_cells_of_two_files_of_one_name_are_trained_apart(
    two: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end but for the training: each cell has its own rows, its own run and its own row of the table."""
    trained: dict[Path, int] = {}

    def train(config: TrainConfig[Any], path: Path, *_: Any, **__: Any) -> Path:
        trained[path] = len(load_dataset(config.dataset))  # type: ignore[attr-defined]
        return path

    monkeypatch.setattr(cells, "train", train)
    for variant in (SHARE, replace(SHARE, ratio=1.0, name="whole")):
        runs = cells.run_cells([(variant, dataset) for dataset in two], tmp_path / "out", QUICK, lambda *_: None)
        assert len({*runs.values()}) == 2
        for (_, dataset), run in runs.items():
            assert trained[run] <= len(load_dataset(dataset)) * max(variant.ratio, 0.5)
    assert len({trained[run] for run in trained}) == 4
    assert len(set(cells.labels(two).values())) == 2 and cells.labels([two[0], HOPPER])[two[0]] == "data"


def test_every_part_of_a_dataset_counts() -> None:
    """Also what follows, and whether rows follow each other."""
    whole = load_dataset(HOPPER)
    assert whole.next_observations is not None

    def changed(name: str) -> Dataset:
        values = np.array(getattr(whole, name))
        values[-1] = ~values[-1] if values.dtype == np.bool_ else values[-1] + 1
        return replace(whole, **{name: values})

    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    others = [changed(name) for name in names]
    others += [replace(whole, next_observations=None), replace(whole, ordered=False)]
    found = [tuple(prediction.identity_of(each).values()) for each in (whole, *others)]
    assert len(set(found)) == len(found)
    known = prediction.identity_of(whole)
    assert prediction.learned_from(known, whole)
    assert not any(prediction.learned_from(known, other) for other in others)
    assert prediction.learned_from({"dataset_sha256": known["dataset_sha256"]}, whole), "of an earlier version"
    assert not prediction.learned_from({}, whole)
    assert prediction.identity_of(replace(whole, name="other", path=Path("other"))) == known
