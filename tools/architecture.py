"""Draw docs/images/architecture.svg from the imports of the package: ``python tools/architecture.py``.

A box is a subpackage, a row a layer of `pyproject.toml`. An arrow is an import, by any module of the one of any module
of the other, that no way over other boxes stands for already. What one imports for types alone does not count.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/images/architecture.svg"

WIDTH, HEIGHT, ROW, GAP = 270, 44, 68, 30
COLUMNS = {"evaluation": 0, "data": 0, "runs": 2, "algorithms": 2, "replay": 2, "training": 2, "models": 2, "laws": 2}
"""where a box is, if not in the middle, so that no arrow crosses one"""
INK, LINE, FILL = "#808890", "#2a9d8f", "#2a9d8f22"


def layers() -> list[list[str]]:
    """The subpackages from the top down, those of a layer together."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return [[name.strip(" ()") for name in layer.split("|")] for layer in contracts[0]["layers"]]


def imports() -> dict[str, set[str]]:
    """Which subpackages each one imports."""
    graph = grimp.build_graph("trajmill", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {name: set() for layer in layers() for name in layer}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = [name.split(".")[1] for name in (module, imported) if name.count(".")]
            if len(ends) == 2 and ends[0] != ends[1] and set(ends) <= set(found):
                found[ends[0]].add(ends[1])
    found["core"].add("_core")  # a compiled module, of which the graph knows nothing
    return found


def arrows(needs: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """The imports that do not follow from others."""
    reach: dict[str, set[str]] = {}
    for layer in reversed(layers()):
        for name in layer:
            reach[name] = needs[name].union(*(reach[other] for other in needs[name]))
    return {
        (name, other)
        for name, others in needs.items()
        for other in others
        if not any(other in reach[between] for between in others - {other})
    }


def purpose(name: str) -> str:
    """What the subpackage says of itself, as far as it fits."""
    if name == "_core":
        return "C++ of cpp/: streams, laws, replay"
    text = ast.get_docstring(ast.parse((ROOT / f"python/trajmill/{name}/__init__.py").read_text(encoding="utf-8")))
    said = (text or "").partition("\n\n")[0].replace("\n", " ").replace("`", "").rstrip(".")
    head, _, rest = said.partition(": ")
    said = (rest if head.lower() == name else head).partition(";")[0]
    while len(said) > 50:
        said = said.rpartition(", ")[0]
    return said


def picture() -> str:
    """The drawing, as SVG."""
    rows = {name: (COLUMNS.get(name, 1), row) for row, layer in enumerate(layers()) for name in layer}
    places = {name: (GAP + column * (WIDTH + GAP), GAP + row * ROW) for name, (column, row) in rows.items()}
    width, height = 3 * WIDTH + 4 * GAP, 2 * GAP + max(top for _, top in places.values()) - GAP + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui,sans-serif" font-size="14" text-anchor="middle">',
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker>',
    ]
    for name, other in sorted(arrows(imports())):
        (left, top), (to_left, to_top) = places[name], places[other]
        side = (to_left > left) - (to_left < left)  # left, straight down, right
        start = (left + WIDTH * (side + 1) // 2, top + (HEIGHT if side == 0 else HEIGHT // 2))
        end = (to_left + WIDTH // 2 - side * WIDTH // 4, to_top)
        parts.append(
            f'<path d="M{start[0]} {start[1]}L{end[0]} {end[1]}" stroke="{INK}" fill="none" marker-end="url(#head)"/>'
        )
    for name, (left, top) in places.items():
        middle = left + WIDTH // 2
        parts += [
            f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{FILL}" stroke="{LINE}"/>',
            f'<text x="{middle}" y="{top + 18}" font-weight="600" fill="{INK}">{name}</text>',
            f'<text x="{middle}" y="{top + 35}" font-size="11" fill="{INK}">{purpose(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
