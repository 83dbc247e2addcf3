"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trajmill.core import checks, files


@pytest.mark.parametrize("before", [None, "file", "link", "directory"])
@pytest.mark.parametrize("made", ["file", "directory"])
@pytest.mark.parametrize("failing", [None, "block", "sync", "check"])
def test_what_was_there_stays_unless_all_went_well(
    before: str | None, made: str, failing: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = tmp_path / "target", tmp_path / "other"
    other.write_text("other")
    if before == "file":
        target.write_text("old")
    elif before == "link":
        target.symlink_to(other)
    elif before == "directory":
        target.mkdir()
        (target / "old").write_text("old")
    listed = sorted(tmp_path.rglob("*"))

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    if failing == "sync":
        monkeypatch.setattr(files, "sync", fail)
    mismatch = (before in ("file", "link") and made == "directory") or (before == "directory" and made == "file")
    inside = [target] if before == "directory" else [tmp_path]  # an existing directory may be a volume: it stays
    try:
        with files.replacing(target, fail if failing == "check" else None) as part:
            assert [part.parent] == inside and part in (*files.leftovers(part.parent), part)
            if made == "file":
                part.write_text("new")
            else:
                part.mkdir()
                (part / "new").write_text("new")
            if failing == "block":
                fail()
    except OSError:
        assert failing is not None or mismatch
        assert sorted(tmp_path.rglob("*")) == listed and (before != "file" or target.read_text() == "old")
        assert other.read_text() == "other"
    else:
        assert failing is None and not mismatch
        assert target.is_symlink() == (before == "link")
        assert (target if made == "file" else target / "new").read_text() == "new"
        assert not (target / "old").exists()
        assert other.read_text() == ("new" if before == "link" else "other")
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(".part")] == []


def test_leftovers_of_one_name(tmp_path: Path) -> None:
    parts = {name: files.part_of(tmp_path / name) for name in ("out", "out.x", "[ab]", "a")}
    for part in parts.values():
        part.touch()
    assert all(files.leftovers(tmp_path, name) == [part] for name, part in parts.items())
    assert files.leftovers(tmp_path) == sorted(parts.values()) and files.leftovers(tmp_path / "absent") == []


def test_removing_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    link = tmp_path / "link"
    link.symlink_to(kept)
    files.remove(link)
    files.remove(tmp_path / "absent")
    assert not os.path.lexists(link) and (kept / "file").exists()
    files.remove(kept)
    assert not kept.exists()


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (1, -0.1)),
        ("(0, inf]", (0.1, float("inf")), (0, -1)),
        ("(-inf, inf)", (0, -1e300), (float("inf"), float("-inf"))),
    ],
)
def test_intervals(interval: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    for value in inside:
        assert checks.number("x", value, interval) == value
    for value in (*outside, float("nan")):
        with pytest.raises(ValueError, match="x must be in"):
            checks.number("x", value, interval)
