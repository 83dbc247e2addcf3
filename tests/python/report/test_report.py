"""The page about runs: whole, unfinished and damaged ones."""

from __future__ import annotations

import html.parser
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricate import fabricate_run, line, write

from trajmill.evaluation import statistics
from trajmill.report import Rate, RunError, Section, rates_section, read_run, write_report
from trajmill.report.aggregates import common_scores
from trajmill.report.figures import DASHES, HALF, Curve, Panel, bars_svg, curves_svg, standalone
from trajmill.report.provenance import digest, origins


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


# --- axes, looks, aggregates, provenance ---


def drawn(values: list[float], **options: object) -> str:
    curve = Curve(style=0, x=np.arange(1.0, len(values) + 1), center=np.array(values), **options)
    panel = Panel(title="loss", x_label="updates", y_label="", curves=[curve])
    return curves_svg("one", panel, alternative="one", size=(HALF, 3.0))


CUT = "axis cut: not from 0"


def ticks(svg: str) -> list[str]:
    return re.findall(r">([-\u2212]?[\d.]+[kM]?)</text>", svg)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_axis_begins_at_zero_or_says_that_it_does_not(sign: int) -> None:
    noise, falling, crossing = ([sign * value for value in values] for values in ([0.34, 0.335], [3, 1], [1, -1]))
    assert CUT in drawn(noise) and "0.0" not in ticks(drawn(noise))
    assert CUT not in drawn(falling) and ticks(drawn(falling)).count("0") + ticks(drawn(falling)).count("0.0") == 2
    assert CUT not in drawn(crossing)


def test_the_first_update_stands_beside_the_line() -> None:
    apart, line_alone = drawn([9.0, 2.0, 1.0], first_apart=True), drawn([9.0, 2.0, 1.0])
    longest = [max(re.findall(r'<path d="(M [^"]*)"', svg), key=lambda d: d.count("L")) for svg in (apart, line_alone)]
    assert [path.count("L") for path in longest] == [1, 2], "a line through the other points alone"
    assert "fill-opacity: 0" in apart or "fill: none" in apart


def test_a_point_apart_is_the_first_update_not_a_mean(tmp_path):
    run = fabricate_run(tmp_path / "run")  # its first line is a mean of 500 updates
    before = write_report([run], tmp_path / "a.html").read_text()
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(line("train", 1, {"bellman_loss": np.array([9.0, 8.0, 7.0])}) + lines)
    after = write_report([run], tmp_path / "b.html").read_text()
    figure = re.compile(r'data-test="figure-training-0".*?</svg>', re.DOTALL)
    count = [figure.search(page)[0].count("<use ") for page in (before, after)]
    assert count[1] == count[0] + 1


def test_a_variant_looks_the_same_everywhere(tmp_path):
    """In the table, in every figure and beside what it comes from; also where an earlier variant has no run."""
    datasets = ("hopper-sac-replay-10k", "halfcheetah-sac-replay-10k")
    runs = [
        fabricate_run(tmp_path / f"{name} {dataset}", variant=name, dataset=dataset)
        for name in ("first", "second")
        for dataset in datasets
    ]
    runs.append(fabricate_run(tmp_path / "third", variant="third", dataset=datasets[1]))
    config = json.loads((runs[-1] / "config.json").read_text())
    start = fabricate_run(tmp_path / "start", kind="forward_dynamics", variant="start", dataset=None)
    config["config"]["init"] = str(start)
    write(runs[-1] / "config.json", config)
    text = write_report([*runs, start], tmp_path / "page.html", order=["absent"]).read_text()
    for name, look in (("second", 2), ("third", 3), ("start", 3)):
        swatches = re.findall(rf'<svg class="swatch"[^>]*>((?:(?!<svg).)*)</svg>\s*{name}\b', text)
        assert swatches and all(f"var(--series-{look + 1})" in swatch for swatch in swatches), name
    pretraining = text[text.index('data-test="figure-pretraining-0"') :].partition("</svg>")[0]
    assert set(re.findall(r"--series-\d", pretraining)) == {"--series-4"}, "as the variant that starts from it"
    assert len(DASHES) == 4


def test_a_metric_that_never_changes_is_named_not_drawn(tmp_path):
    run = fabricate_run(tmp_path / "run")
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    for each in lines:
        if each["phase"] == "train":
            each["metrics"]["temperature"] = [0.2] * 3
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    page = report(tmp_path, [run])
    assert "Constant, and not drawn: temperature 0.2." in page.text
    panels = [each for each in page.marked if str(each["data-test"]).startswith("figure-training-")]
    assert len(panels) == 4 and not any("temperature" in str(each["aria-label"]) for each in panels)


def test_aggregates_are_over_what_all_variants_have(tmp_path):
    seeds, (hopper, cheetah) = (0, 1, 2, 3), ("hopper-sac-replay-10k", "halfcheetah-sac-replay-10k")
    paths = [
        fabricate_run(tmp_path / f"{name} {dataset}", variant=name, dataset=dataset, seeds=seeds, level=level)
        for name, level, datasets in (("a", 30, (hopper, cheetah, "walker2d")), ("b", 60, (hopper, cheetah)))
        for dataset in datasets
    ]
    runs = [read_run(path) for path in paths]
    scores, datasets = common_scores(runs)
    assert datasets == [hopper, cheetah] and scores["a"].shape == (4, 2)
    page = report(tmp_path, paths)
    expected = statistics.bootstrap_interval(scores["b"], statistics.interquartile_mean)
    assert f"{expected.estimate:.1f} [{expected.low:.1f}, {expected.high:.1f}]" in page.text
    assert len(page.find("aggregates")) == len(page.find("figure-profiles")) == 1
    lost = fabricate_run(tmp_path / "lost", variant="c", dataset=hopper, seeds=seeds, lose_seed=2)
    assert common_scores([*runs, read_run(lost)])[1] == [], "a dataset with a failed seed is out, and no other is left"


def test_three_runs_have_no_aggregates(tmp_path):
    """The interquartile mean of three is their mean."""
    assert not report(tmp_path, [fabricate_run(tmp_path / "run", seeds=(0, 1, 2))]).find("aggregates")


def test_provenance_is_by_variant(tmp_path):
    runs = [fabricate_run(tmp_path / name, variant=name) for name in ("one", "two")]
    page = report(tmp_path, runs)
    assert len(page.find("origin")) == 2
    first, second = (read_run(run) for run in runs)
    assert digest(first) != digest(second) and digest(first) in page.text and digest(second) in page.text
    (origin, _) = origins([first, second])
    assert origin.facts["command"] == "trajmill train cql" and origin.facts["commit"] == "4812cd1"
    row = origin.runs[0]
    assert row[1:5] == ("hopper-sac-replay-10k", digest(first), "4,000", "0, 1, 2")
    assert row[5:] == ("30", "23k rows/s", "2 min 13 s"), "4,000 updates in 133 s, of three seeds with 256 rows each"
    config = json.loads((runs[0] / "config.json").read_text())
    write(runs[0] / "config.json", dict(reversed(config.items())))
    assert digest(read_run(runs[0])) == digest(first), "whatever the order of its settings"


def test_the_data_are_shown_where_they_are_found(tmp_path):
    runs = [fabricate_run(tmp_path / name, dataset=name) for name in ("hopper-sac-replay-10k", "walker2d-not-here")]
    tokens = fabricate_run(tmp_path / "tokens", kind="language_model", variant="tokens", dataset=None)
    config = json.loads((tokens / "config.json").read_text())
    config["config"]["method"] = {
        "state_count": 7,
        "length": 32,
        "sequence_count": 100,
        "batch_size": 4,
        "held_out_count": 9,
    }
    write(tokens / "config.json", config)
    page = report(tmp_path, [*runs, tokens])
    assert "hopper-sac-replay-10k, 0" in page.text and len(page.find("figure-returns-0")) == 1
    assert "Not found on this machine, or not readable, so not shown: walker2d-not-here." in page.text
    assert re.search(r"tokens\s*(\d ){16}… \(32 tokens\)", page.text)
