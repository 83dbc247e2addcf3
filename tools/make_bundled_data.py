"""Cut the datasets that travel with the package out of larger files.

Usage: python tools/make_bundled_data.py SOURCE_DIRECTORY [OUTPUT_DIRECTORY] [--names NAME ...]

SOURCE_DIRECTORY holds hopper-sac-replay.hdf5 and halfcheetah-sac-replay.hdf5, two full replay buffers of soft
actor-critic agents, and what these commands make (walker2d's was stopped after 110,535 steps, ant's after 102,919):

    trajmill collect hopper --kind expert --noise 0.3 --rows 20000 --out hopper-ars-noisy.hdf5
    trajmill train sac --environment walker2d --interaction.updates-per-step 0.5 --schedule.updates 75000 --out walker2d
    trajmill dataset convert walker2d/replay/0 walker2d-sac-replay.hdf5
    trajmill train sac --environment ant --interaction.updates-per-step 0.5 --schedule.updates 75000 --out ant
    trajmill dataset convert ant/replay/0 ant-sac-replay.hdf5

Whole episodes are drawn without replacement over the whole file until the wanted rows are in (the last one is left out
if that comes closer), and stay in the order of the file. Prints the facts that the bundled README states.
"""

from __future__ import annotations

import argparse
import hashlib
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from trajmill.data import DatasetWarning, environment_of, normalized_score, read_d4rl, split_episodes

ROWS = {
    "hopper-sac-replay": 10_000,
    "halfcheetah-sac-replay": 10_000,
    "walker2d-sac-replay": 10_000,
    "ant-sac-replay": 9_000,
    "hopper-ars-noisy": 20_000,
}
"""rows to cut each source to"""
SEED = 42
BUNDLED = Path(__file__).parents[1] / "python/trajmill/data/bundled"


def choose_episodes(lengths: NDArray[np.int64], target: int, seed: int) -> NDArray[np.int64]:
    """Indices, ascending, of the first episodes of a random order whose lengths add up to about `target`."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    totals = np.cumsum(lengths[order])
    count = int(np.searchsorted(totals, target)) + 1
    if count > 1 and target - totals[count - 2] < totals[count - 1] - target:
        count -= 1
    return np.sort(order[:count])


def write(path: Path, columns: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> None:
    """Write one chunk per column, packed as tightly as every HDF5 library can read, with checksums."""
    packing = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "fletcher32": True}
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        file.attrs.update(attributes)
        for name, values in columns.items():
            file.create_dataset(name, data=values, chunks=values.shape, **packing)


def cut(source: Path, output: Path, row_count: int) -> str:
    """Cut `source` down to about `row_count` rows; gives a line of facts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)  # the buffers end in an unfinished episode, never drawn
        dataset = read_d4rl(source)
    episodes = split_episodes(dataset)
    chosen = choose_episodes(np.array([len(episode) for episode in episodes]), row_count, SEED)
    rows = np.concatenate([np.arange(e.start, e.start + len(e)) for e in (episodes[i] for i in chosen)])
    assert dataset.next_observations is not None
    columns = {
        "observations": dataset.observations,
        "actions": dataset.actions,
        "rewards": dataset.rewards,
        "next_observations": dataset.next_observations,
        "terminals": dataset.terminals,
        "timeouts": dataset.timeouts,
    }
    origin = "a replay buffer" if "replay" in source.stem else "a larger file"
    attributes = {
        **dataset.metadata,
        "content": f"{len(chosen)} whole episodes drawn at random (seed {SEED}) over {origin}, in its order",
        "license": "Apache-2.0",
    }
    write(output, {name: values[rows] for name, values in columns.items()}, attributes)
    returns = np.array([episodes[i].undiscounted_return for i in chosen])
    score = float(normalized_score(environment_of(dataset), returns.mean()))
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    return (
        f"{output.name}: {len(rows)} rows, {len(chosen)} episodes, {int(columns['terminals'][rows].sum())} terminal, "
        f"return {returns.mean():.1f} ± {returns.std():.1f} ({score:.1f}), "
        f"reward sum {columns['rewards'][rows].sum(dtype=np.float64):.3f}, "
        f"{output.stat().st_size:,} bytes, sha256 {digest}"
    )


def main() -> None:
    """Cut all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="directory with the sources")
    parser.add_argument("output", type=Path, nargs="?", default=BUNDLED, help="where the cut files go")
    parser.add_argument("--names", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), help="which; all if left out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        output = arguments.output / f"{name}-{ROWS[name] // 1000}k.hdf5"
        print(cut(arguments.source / f"{name}.hdf5", output, ROWS[name]))


if __name__ == "__main__":
    main()
