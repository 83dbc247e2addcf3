"""A study of a method that tests throw into the folder."""

from __future__ import annotations

from trajmill.algorithms import shrink  # type: ignore[attr-defined]
from trajmill.data import bundled_datasets
from trajmill.studies.records import Column, Study, Variant

WEAK = Variant(name="Shrink", method=shrink.Config(), updates=shrink.SCHEDULE.updates)
STRONG = Variant(name="Shrink, 10 %", method=shrink.Config(shrinkage=0.1), updates=shrink.SCHEDULE.updates)
STUDIES = (
    Study(
        name="shrink",
        title="How much shrinking does no harm",
        columns=(Column(label="1 %", variant=WEAK), Column(label="10 %", variant=STRONG)),
        datasets=bundled_datasets(),
        seeds=(0, 1, 2),
        quantities=("scores", "losses"),
    ),
)
