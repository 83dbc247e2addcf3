"""One study of all policies: each method that learns one, and each pre-training, on bundled data."""

from __future__ import annotations

from trajmill.algorithms import learns_online, method_named, method_names
from trajmill.studies.cells import QUICK_DATASETS
from trajmill.studies.paper_a import CQL_IID, DT_IID, MDP, SEEDS, SYNTHETIC
from trajmill.studies.records import Column, Study, Variant

_METHODS = [
    method
    for name in method_names()
    if hasattr(method := method_named(name), "policy") and not learns_online(method)  # on a dataset
]
_VARIANTS = [
    *(Variant(name=method.LABEL, method=method.Config(), updates=method.SCHEDULE.updates) for method in _METHODS),
    *(SYNTHETIC, DT_IID, MDP, CQL_IID),
]

STUDIES = (
    Study(
        name="quick",
        title="Every method once on the bundled data, from scratch and pre-trained",
        columns=tuple(Column(label=variant.name, variant=variant) for variant in _VARIANTS),
        datasets=QUICK_DATASETS,
        seeds=SEEDS,
        notes=("A check that everything runs, not an experiment.",),
    ),
)
