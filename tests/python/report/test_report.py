"""The page about runs: whole, unfinished and damaged ones."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricate import fabricate_run, line, write

from trajmill.report import Rate, RunError, Section, rates_section, read_run, write_report
from trajmill.report.figures import HALF, Curve, Panel, bars_svg, curves_svg, standalone


class Page(html.parser.HTMLParser):
    """Collects the `data-test` elements, the text, the tags and the ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.marked: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if "data-test" in attributes:
            self.marked.append(attributes)
        if attributes.get("id"):
            self.ids.append(attributes["id"])

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def find(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for attributes in self.marked if attributes["data-test"] == name]


def report(tmp_path, runs, **options) -> Page:
    path = write_report(runs, tmp_path / "out" / "report.html", **options)
    return Page(path.read_text(encoding="utf-8"))


def test_report_of_a_comparison(tmp_path):
    scratch = fabricate_run(tmp_path / "scratch", variant="from scratch", level=38)
    started = fabricate_run(tmp_path / "pre", variant="MDP & co", level=52)
    pretrain = fabricate_run(tmp_path / "pretrain", kind="forward_dynamics", variant="pre-training", dataset=None)
    with (pretrain / "metrics.jsonl").open("a") as file:
        file.write(line("evaluation", 5000, {"optimal_loss": np.full(3, 0.335841)}) + "\n")
    rates = [
        Rate(label="trajmill", value=1.7e9, text="1.70 G tokens/s", ours=True),
        Rate(label="NumPy", value=3e7, text="0.03 G tokens/s", ours=False),
    ]
    page = report(
        tmp_path,
        [scratch, started, pretrain],
        title="A <b>title</b>",
        summary="First.\nSecond.",
        extra_sections=[
            rates_section("sampler", "Sampler", [rates]),
            Section(name="note", title="A note", text="x < y"),
        ],
    )
    assert [row["data-variant"] for row in page.find("score")] == ["from scratch", "MDP & co"]
    assert all(row["data-finished"] == "yes" for row in page.find("score"))
    for name in ("scores", "curves", "pretraining", "training", "sampler", "note", "provenance"):
        assert len(page.find(name)) == 1, name
    assert "A <b>title</b>" in page.text and "x < y" in page.text
    assert "best possible 0.3358" in page.text and "1.70 G tokens/s" in page.text
    assert "mean squared error" in page.text, "what the method says its loss is measured in"
    assert "AMD EPYC, 2 cores" in page.text and "4812cd1" in page.text


def test_the_score_is_the_average_of_the_last_four_evaluations(tmp_path):
    run = fabricate_run(tmp_path / "run")
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line["metrics"]["normalized_score"] for line in lines if line["phase"] == "evaluation"]
    expected = np.mean(scores[-4:])
    assert f"{expected:.1f} [" in report(tmp_path, [run]).text.replace("[", " [").replace("  ", " ")


def test_the_page_stands_alone_and_is_accessible(tmp_path):
    runs = [fabricate_run(tmp_path / name, dataset=name) for name in ("hopper", "halfcheetah")]
    path = write_report(runs, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import""", text)
    assert len(page.ids) == len(set(page.ids))
    figures = [attributes for attributes in page.marked if str(attributes["data-test"]).startswith("figure-")]
    assert len(figures) >= 2
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    assert "prefers-color-scheme: dark" in text
    assert "#0101" not in text and "#0202" not in text  # every stand-in color became a CSS variable


def test_the_same_runs_make_the_same_page(tmp_path):
    runs = [fabricate_run(tmp_path / "run")]
    first = write_report(runs, tmp_path / "a.html").read_bytes()
    assert write_report(runs, tmp_path / "b.html").read_bytes() == first


def test_an_unfinished_run_is_marked(tmp_path):
    run = fabricate_run(tmp_path / "run", evaluation_count=3, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "train", "upda')  # killed while writing
    page = report(tmp_path, [run])
    assert page.find("score")[0]["data-finished"] == "no"
    assert "unfinished: stopped after 1,500 updates" in page.text
    assert "only 3 evaluations" in page.text


def test_a_run_that_has_barely_begun_has_no_score(tmp_path):
    run = fabricate_run(tmp_path / "run", finished=False)
    (run / "metrics.jsonl").unlink()
    page = report(tmp_path, [run])
    assert "unfinished: stopped after 0 updates" in page.text
    assert not page.find("curves")


def test_a_seed_without_a_score_is_not_averaged_away(tmp_path):
    run = fabricate_run(tmp_path / "run", seeds=(7, 8, 9), lose_seed=1)
    page = report(tmp_path, [run])
    assert "no finite score for seed 8" in page.text
    assert page.find("failed-seeds")


def test_one_seed_has_no_interval(tmp_path):
    page = report(tmp_path, [fabricate_run(tmp_path / "run", seeds=(42,))])
    assert "[" not in page.text.split("Learning curves")[0].split("variant")[-1]


def damage(run, file, text):
    (run / file).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "config.json").unlink(), "has no config.json"),
        (lambda run: damage(run, "config.json", "{"), "config.json is damaged"),
        (lambda run: damage(run, "config.json", "[]"), "object, not list"),
        (lambda run: damage(run, "config.json", '{"kind": "cql", "seeds": []}'), "seeds must be a list"),
        (lambda run: damage(run, "config.json", '{"seeds": [1]}'), "does not name the kind"),
        (lambda run: damage(run, "result.json", ""), "result.json is damaged"),
        (lambda run: (run / "metrics.jsonl").unlink(), "has no metrics.jsonl"),
        (lambda run: damage(run, "metrics.jsonl", ""), "holds no evaluation"),
        (lambda run: damage(run, "metrics.jsonl", (run / "metrics.jsonl").read_text()[:-9]), "line 16 is damaged"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path, spoil, message):
    run = fabricate_run(tmp_path / "run")
    spoil(run)
    with pytest.raises(RunError, match=message):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_line_inside_is_refused_even_when_unfinished(tmp_path):
    run = fabricate_run(tmp_path / "run", finished=False)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[4] = lines[4].replace("train", "tra\x00")[:-20] + "\n"
    (run / "metrics.jsonl").write_text("".join(lines))
    with pytest.raises(RunError, match="line 5 is damaged"):
        read_run(run)


def test_a_line_for_other_seeds_is_refused(tmp_path):
    run = fabricate_run(tmp_path / "run", seeds=(0, 1))
    config = json.loads((run / "config.json").read_text())
    write(run / "config.json", config | {"seeds": [0, 1, 2]})
    with pytest.raises(RunError, match="must have 3 values"):
        read_run(run)


def test_steps_that_go_back_are_refused(tmp_path):
    run = fabricate_run(tmp_path / "run")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text + text)
    with pytest.raises(RunError, match="goes back from update 4000 to 500"):
        read_run(run)


def test_two_runs_under_one_name_are_refused(tmp_path):
    runs = [fabricate_run(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(RunError, match="name their variants apart"):
        write_report(runs, tmp_path / "report.html")


def test_no_runs_and_no_directory(tmp_path):
    with pytest.raises(RunError, match="at least one"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(RunError, match="not a directory"):
        write_report([tmp_path / "missing"], tmp_path / "report.html")


def test_a_run_of_a_method_that_is_not_here_is_shown_too(tmp_path):
    """Made by a later version, or by a method that was taken out of the folder."""
    run = fabricate_run(tmp_path / "run", kind="alchemy", variant="gold")
    page = report(tmp_path, [run])
    assert page.find("score")[0]["data-variant"] == "gold" and len(page.find("curves")) == 1


def test_training_that_acts_for_nobody_has_its_own_place(tmp_path):
    """Measured losses of a language model, say, are no scores."""
    run = fabricate_run(tmp_path / "run", kind="language_model", variant="tokens", dataset=None)
    page = report(tmp_path, [run])
    assert not page.find("scores") and len(page.find("pretraining")) == 1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_shows_the_page_without_complaint(tmp_path):
    page = write_report([fabricate_run(tmp_path / "run")], tmp_path / "report.html")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    shown = subprocess.run(
        [
            *command,
            f"--user-data-dir={tmp_path / 'browser'}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in shown.stderr
    assert len(Page(shown.stdout).find("score")) == 1


@pytest.mark.parametrize(
    "name",
    [
        r"p$\frac{$x",
        "$",
        r"\alpha_{",
        "a\x01b\x1b[0m",
        "\udcff",
        "<b>&\"'",
        "]]>",
        "日本",
        "_hidden",
        "x" * 300,
        "a\nb",
        "",
    ],
)
def test_any_name_is_drawn_as_it_is(name: str) -> None:
    """Neither taken for mathematics, nor for markup, nor into XML that no reader takes."""
    curve = Curve(style=0, x=np.arange(3.0), center=np.arange(3.0), label=name)
    panel = Panel(title=name, x_label=name, y_label=name, curves=[curve, curve])
    drawings = [
        curves_svg("one", panel, alternative=name, size=(HALF, 3.4)),
        bars_svg("two", [Rate(label=name, value=1.0, text=name, ours=True)], alternative=name),
    ]
    for drawing in drawings:
        parsed = ElementTree.fromstring(standalone(drawing).encode())
        readable = "".join(each if each.isprintable() else " " for each in name)
        assert all(part[:20] in "".join(parsed.itertext()) for part in readable.split())
