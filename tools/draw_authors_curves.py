"""Draw the authors' curves of figures 1 and 8 of arXiv 2310.00771, the pictures of docs/paper-a.md.

Usage: python tools/draw_authors_curves.py
"""

from __future__ import annotations

from pathlib import Path

from trajmill.report.figures import FULL, curves_svg, standalone
from trajmill.studies.authors import authors_runs
from trajmill.studies.drawings import authors_panels
from trajmill.studies.measures import Authors
from trajmill.studies.run import study_named

IMAGES = Path(__file__).parents[1] / "docs/images"


def main() -> None:
    """Write one picture for each figure: its panel of scores."""
    for name, image in (("a-figure-1", "paper-a-authors.svg"), ("a-figure-8", "paper-a-authors-equal.svg")):
        study = study_named(name)
        runs = authors_runs(study.authors)
        scores, _ = authors_panels(Authors(study=study, runs=runs, datasets=runs.datasets))
        ends = "; ".join(f"{curve.label} ends at {curve.center[-1]:.3g}" for curve in scores.curves)
        drawing = curves_svg(name, scores, alternative=f"{study.title}: {scores.title}. {ends}", size=(FULL, 3.8))
        (IMAGES / image).write_text(standalone(drawing), encoding="utf-8")
        print(IMAGES / image)


if __name__ == "__main__":
    main()
