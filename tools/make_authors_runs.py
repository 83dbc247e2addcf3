"""Pack the authors' runs of the Decision Transformer half of arXiv 2310.00771 into the file beside the studies.

Usage: python tools/make_authors_runs.py SOURCE [OUTPUT]

SOURCE is an .npz with `FAMILY/DATASET/score` (normalized scores), `/loss` (both float32, (seed, evaluation)) and
`/seeds` of every family of runs, taken from the `progress.csv` files of github.com/Victor-wang-902/rl_pretrain (branch
`table_generator`) and rounded: scores to two decimals, losses to five. OUTPUT, by default `paper_a_runs.npz`, holds
them as whole numbers, exactly, under the names of our variants (`trajmill.studies.authors`). Prints its size, its hash,
and the families that were left out.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from trajmill.studies.authors import MISSING_LOSS, MISSING_SCORE, SCALES
from trajmill.studies.paper_a import DATASETS

STUDIES = Path(__file__).parents[1] / "python/trajmill/studies"
SYNTHETIC = "chibiT-syn-20seeds-"
WHOLE = {
    "DT": "dt-rerun-20seeds_dt",
    "DT, +20K updates": "dt-long-20seeds_dt_24",
    "DT, +80K updates": "dt-long-20seeds_dt_36",
    "DT+Wiki": "chibiT-rerun-20seeds",
    "DT+Synthetic": f"{SYNTHETIC}steps-wo_step20000",
    "DT+Synthetic, +60K updates": "chibiT-syn-long-20seeds-steps-wo_S100_32",
    "DT+IID": "chibiT-iid_wo_step20000",
    "DT+Identity": "chibiT-iid_wo_acl_acl1",
    "DT+Mapping": "chibiT-iid_wo_acl_acl2",
    "DT+Synthetic, 1K pre-training updates": f"{SYNTHETIC}steps-wo_step1000",
    "DT+Synthetic, 10K pre-training updates": f"{SYNTHETIC}steps-wo_2_step10000",
    "DT+Synthetic, 40K pre-training updates": f"{SYNTHETIC}steps-wo_step40000",
    "DT+Synthetic, 60K pre-training updates": f"{SYNTHETIC}steps-wo_step60000",
    "DT+Synthetic, 80K pre-training updates": f"{SYNTHETIC}steps-wo_2_step80000",
    **{f"DT+Synthetic, order {order}": f"{SYNTHETIC}steps-wo_MC-{order}" for order in (2, 5)},
    **{f"DT+Synthetic, S={count:,}": f"{SYNTHETIC}states-wo_S{count}" for count in (10, 1000, 10_000, 100_000)},
    **{f"DT+Synthetic, τ={t:g}": f"{SYNTHETIC}temps-wo_T{t}" for t in (0.01, 0.1, 10.0, 100.0)},
}
SHARES = {
    "DT": "dt-rerun-5seeds_data_size_dt_",
    "DT+Wiki": "chibiT-rerun-5seeds-ftratio_",
    "DT+Synthetic": "chibiT-syn-5seeds-states-ftratio-wo_S100_",  # the only batch of the three without a gap
    "DT+IID": f"{SYNTHETIC}temps-ftratio-wo_TIID_",
    **{f"DT+Synthetic, order {order}": f"chibiT-syn-5seeds-steps-ftratio-wo_MC-{order}_" for order in (2, 5)},
    **{f"DT+Synthetic, S={n:,}": f"chibiT-syn-5seeds-states-ftratio-wo_S{n}_" for n in (10, 1000, 10_000)},
    **{f"DT+Synthetic, τ={t:g}": f"{SYNTHETIC}temps-ftratio-wo_T{t}_" for t in (0.1, 10.0)},
}
FAMILIES = WHOLE | {
    f"{name}, {share:.0%} of the data": f"{family}{share}"
    for name, family in SHARES.items()
    for share in (0.1, 0.2, 0.4, 0.6, 0.8)
}
"""the authors' family of runs by our variant"""


def main() -> None:
    """Pack, check that nothing was lost, and print the facts that the README beside the file states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=STUDIES / "paper_a_runs.npz")
    options = parser.parse_args()
    source = np.load(options.source)
    seeds = np.unique(source[f"{WHOLE['DT']}/hopper-medium/seeds"])
    shape = len(FAMILIES), len(DATASETS), len(seeds), 36
    scores = np.full(shape, MISSING_SCORE, np.int16)
    losses = np.full(shape, MISSING_LOSS, np.uint16)
    for row, family in enumerate(FAMILIES.values()):
        for column, dataset in enumerate(DATASETS):
            key = f"{family}/{dataset.removesuffix('-v2')}"
            if f"{key}/seeds" not in source:
                print(f"{key}: no runs")
                continue
            places = np.searchsorted(seeds, source[f"{key}/seeds"])
            if (seeds[places] != source[f"{key}/seeds"]).any():
                raise SystemExit(f"{key} has seeds that the runs of DT have not: {source[f'{key}/seeds']}")
            for packed, kind in ((scores, "score"), (losses, "loss")):
                values = source[f"{key}/{kind}"].astype(np.float64) * SCALES[kind]
                if np.abs(values - np.rint(values)).max() > 0.01:
                    raise SystemExit(f"{key}/{kind} has more decimals than whole numbers of 1/{SCALES[kind]} can hold")
                packed[row, column, places, : values.shape[1]] = np.rint(values)
    contents = {"variants": list(FAMILIES), "datasets": DATASETS, "seeds": seeds.astype(np.int32)}
    np.savez_compressed(options.output, scores=scores, losses=losses, **contents)
    data = options.output.read_bytes()
    families = {key.rsplit("/", 2)[0] for key in source.files}
    print(f"{options.output}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")
    print("left out:", *sorted(families - set(FAMILIES.values())))


if __name__ == "__main__":
    main()
