"""Laws on the command line: options from fields, presets and files, what is shown, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import trajmill as tm
from trajmill import laws
from trajmill.cli import main


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["law", *words, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_law_shows_rows_what_is_exact_and_its_rate(capsys: pytest.CaptureFixture[str]) -> None:
    seen = shown(capsys, "dyck", "--pairs", "3", "--max-depth", "4", "--length", "32", "--sequence-count", "4")
    law = tm.Dyck(pairs=3, max_depth=4)
    assert seen["law"] == law.spec() and seen["vocabulary_size"] == 6
    assert [row["tokens"] for row in seen["rows"]] == law.sample(4, 32).tolist()
    assert seen["exact"]["in long rows"] == pytest.approx(law.entropy_rate())
    assert seen["tokens_per_second"] > 0
    assert shown(capsys, "dyck", "--max-depth", "None")["law"]["max_depth"] is None


@pytest.mark.parametrize("kind", sorted(set(laws.names()) - {"mixture"}))
def test_every_law_has_a_word_and_help(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    law = laws.find(kind)
    try:
        law()
    except (TypeError, ValueError):  # it has no defaults
        assert main(["law", kind]) in (1, 2)
        assert " needs " in capsys.readouterr().err
        for preset in law.presets[:1]:
            assert shown(capsys, kind, "--preset", preset)["kind"] == kind
    else:
        assert shown(capsys, kind)["kind"] == kind
    for command in ("law", "generate"):
        assert main([command, kind, "--help"]) == 0
        told = capsys.readouterr().out
        assert all(f"--preset {name}" in told for name in laws.find(kind).presets)


@pytest.mark.parametrize("kind", [kind for kind in laws.names() if laws.find(kind).presets])
def test_presets_are_starts_that_options_change(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in laws.find(kind).presets:
        preset = getattr(laws.find(kind), name)()
        assert shown(capsys, kind, "--preset", name)["law"] == preset.spec()
        assert shown(capsys, kind, "--preset", name, "--seed", "7")["law"] == preset.spec() | {"seed": 7}


def test_a_file_gives_fields_that_options_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = [{"kind": "dyck", "pairs": 2}, {"kind": "dyck", "pairs": 3}]
    (tmp_path / "mixture.json").write_text(json.dumps({"laws": two, "separate": True}))
    words = ["mixture", "--fields", str(tmp_path / "mixture.json"), "--weights", "2", "1"]
    law = tm.Mixture(laws=(tm.Dyck(pairs=2), tm.Dyck(pairs=3)), separate=True, weights=(2, 1))
    assert shown(capsys, *words)["law"] == law.spec()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["dyck", "--pairs", "0"], 1, "pairs must be between 1 and 32768, got 0"),
        (["dyck", "--balanced", "--length", "3"], 1, "length of balanced rows must be even"),
        (["dyck", "--preset", "nobody1999"], 2, "there is no preset 'nobody1999'; "),
        (["mixture"], 1, "a mixture needs laws, got none"),
        (["mixture", "--fields", "nowhere.json"], 2, "the fields in nowhere.json cannot be read"),
        (["song"], 2, "there is no command `trajmill law song`"),
    ],
)
def test_mistakes_are_told(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["law", *words, "--quiet"]) == code
    assert message in capsys.readouterr().err


def test_generate_writes_a_law_with_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "corpus")
    words = ["--pairs", "3", "--length", "32", "--sequence-count", "20", "--columns", "states", "--out", out]
    assert main(["generate", "dyck", *words, "--quiet"]) == 0
    corpus = tm.open_corpus(out)
    assert corpus.spec["columns"] == ["states"]
    assert corpus[:]["tokens"].tolist() == tm.Dyck(pairs=3).sample(20, 32).tolist()
    assert main(["corpus", "verify", out, "--quiet"]) == 0
