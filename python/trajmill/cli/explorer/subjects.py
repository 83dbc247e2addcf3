"""Laws as forms: their fields as texts, what is shown of the law that the texts make, and how to make its corpus.

Everything here is plain JSON values, so that it can be computed in another process (`worker`).
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from inspect import Parameter, signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from trajmill import laws
from trajmill.cli.law_options import field_docs, is_word, length_of, summaries
from trajmill.core import MDP, MarkovChain, checks
from trajmill.core.json_input import parse_json
from trajmill.core.law import Law, RowLaw
from trajmill.experiments.generate import GenerateConfig, GenerateMarkovConfig, GenerateMDPConfig
from trajmill.experiments.law import draw, look, predictions, tokens_per_second

LONGEST = 1024
"""tokens of a row that are shown"""
ROWS = 4
"""sequences that are shown"""
LARGEST_VOCABULARY = 2**16
"""values up to which predictions are computed"""
WORK = 2**24
"""chances that a curve may take, which says over how many sequences it is a mean"""
MEASURED = 256
"""sequences over which a curve is a mean, at most"""
BANDS = 96
"""lines of a picture; where there are more values, a line is the sum of several"""
PLACES = 128
"""columns of a picture"""
LONGEST_TEXT = 4096
"""characters of a field that a form shows; a longer one stays as the preset has it"""
LONGEST_MESSAGE = 400
EXAMPLE = "example"
"""name of a start that is neither the defaults nor a preset"""


class Refused(ValueError):
    """A choice that makes no law, or one too large for a page; `field` is the one at fault, if that is known."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}...")
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A kind of law as the page offers it."""

    kind: str
    """its name on the command line"""
    name: str
    """its name in Python"""
    about: str
    own: type
    """the dataclass with its fields"""
    names: tuple[str, ...]
    """those of them that the law has"""
    make: Callable[[dict[str, Any]], RowLaw]
    starts: Mapping[str, Mapping[str, Any]]
    """presets by name, with the fields that they give; ``""`` is the defaults"""
    needed: tuple[str, ...] = ()
    """fields that have a default on the command line, and none in Python"""
    rows: str = "sequence_count"
    """the option that counts the rows"""


@cache
def subjects() -> dict[str, Subject]:
    """Every law by its kind: chains and MDPs, then those of `trajmill.laws`."""
    pairs: list[tuple[type[GenerateConfig], type[MarkovChain] | type[MDP]]]
    pairs = [(GenerateMarkovConfig, MarkovChain), (GenerateMDPConfig, MDP)]
    found = {config.kind: _of_config(config, law) for config, law in pairs}
    return found | {kind: _of_law(kind) for kind in laws.names()}


def _of_config(config: type[GenerateConfig], law: Any) -> Subject:
    about = (law.__doc__ or "").partition("\n")[0]
    names = tuple(each.name for each in fields(config) if each.name in law._SETTINGS.split())
    defaults = {each.name: each.default for each in fields(config) if each.name in names}

    def make(values: dict[str, Any]) -> RowLaw:
        made: RowLaw = law(**{name: math.inf if value == "inf" else value for name, value in values.items()})
        return made

    return Subject(
        kind=config.kind,
        name=law.__name__,
        about=about,
        own=config,
        names=names,
        make=make,
        starts={"": defaults},
        needed=tuple(p.name for p in signature(law).parameters.values() if p.default is Parameter.empty),
        rows=config.rows,
    )


def _of_law(kind: str) -> Subject:
    law = laws.find(kind)
    own = [each for each in fields(law) if each.init]
    starts: dict[str, Mapping[str, Any]] = {"": {e.name: e.default for e in own if e.default is not MISSING}}
    try:
        law()
    except (TypeError, ValueError):  # it has no defaults
        del starts[""]
    starts |= {name: getattr(law, name)().settings() for name in law.presets}
    if not starts:
        starts[EXAMPLE] = law.examples()[0].settings()
    return Subject(
        kind=kind,
        name=law.__name__,
        about=summaries()[kind],
        own=law,
        names=tuple(each.name for each in own),
        make=law.from_spec,
        starts=starts,
    )


# --- the form -------------------------------------------------------------------------------------------------------


def forms() -> dict[str, Any]:
    """Every law's form: fields, and their texts by start."""
    return {"kinds": [_form(subject) for subject in subjects().values()], "longest": LONGEST, "rows": ROWS}


def _form(subject: Subject) -> dict[str, Any]:
    hints, docs = get_type_hints(subject.own), field_docs(subject.own)
    listed = []
    for name in subject.names:
        choices = _choices(subject, name, hints[name])
        as_json = not is_word(hints[name])
        listed.append({"name": name, "about": docs[name].replace("`", ""), "choices": choices, "json": as_json})
    texts = {
        start: {
            name: text if len(text := _text(value, is_word(hints[name]))) <= LONGEST_TEXT else None
            for name, value in values.items()
        }
        for start, values in subject.starts.items()
    }
    about = subject.about.replace("`", "")
    return {"kind": subject.kind, "name": subject.name, "about": about, "fields": listed, "starts": texts}


def _choices(subject: Subject, name: str, hint: Any) -> list[str]:
    """The words that a field may be: of its type, or as the law says when it refuses another one."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    if hint is str:
        try:
            subject.make(dict(next(iter(subject.starts.values()))) | {name: ""})
        except ValueError as error:
            if told := re.search(rf"{name} must be one of (.*), got ''", str(error)):
                return re.findall(r"'([^']*)'", told[1])
    return []


def _text(value: Any, in_words: bool = True) -> str:
    """A field's value as one writes it in the form."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if in_words and isinstance(value, tuple) and value:
        return " ".join(map(_text, value))
    return "inf" if value == math.inf else json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    """A field's value as JSON has it."""
    if isinstance(value, Law):
        return {"kind": value.kind(), **value.spec()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return "inf" if value == math.inf else value


def _value(name: str, text: str, hint: Any) -> Any:
    """What a text says: nothing is None, words of a list are separated by spaces or commas, else JSON or the text."""
    text = text.strip()
    if text in ("", "None"):
        return None if get_origin(hint) is not None or hint is Any else ""
    parts = get_args(hint) if get_origin(hint) is not tuple else (hint,)
    if hint is str or (str in parts and int not in parts) or get_origin(hint) is Literal:
        return text
    lists = any(get_origin(part) is tuple for part in parts)
    words = re.split(r"[\s,]+", text)
    if lists and is_word(hint) and "[" not in text and (len(words) > 1 or len(parts) == 1 or int not in parts):
        return [_of_json(name, word) for word in words]
    return _of_json(name, text)


def _of_json(name: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


# --- what is shown ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A law that was chosen, and how."""

    subject: Subject
    law: RowLaw
    start: str
    changes: dict[str, Any]
    """fields that differ from those of the start"""
    length: int
    first: int
    count: int


def see(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the rate of the law that is asked for; `Refused` in the law's own words."""
    choice = _chosen(asked)
    law, length = choice.law, choice.length
    seen = look(law, length, rows=ROWS, first_sequence=choice.first)
    return {
        "length": length,
        "first": choice.first,
        "vocabulary": law.vocabulary_size,
        "actions": law.action_count if isinstance(law, MDP) else None,
        "stable": law.prefix_stable if isinstance(law, Law) else True,
        "columns": list(seen.rows[0]),
        "rows": seen.rows,
        "exact": seen.exact,
        "predicted": _predicted(law, length, choice.first),
        "pictures": _rows_of(law),
        "command": _command(choice, tuple(seen.rows[0])),
        "python": _python(choice, tuple(seen.rows[0])),
    }


def rate(asked: Mapping[str, Any]) -> dict[str, Any]:
    """How fast the law that is asked for is drawn here."""
    choice = _chosen(asked)
    return {"tokens_per_second": tokens_per_second(choice.law, choice.length)}


def _chosen(asked: Mapping[str, Any]) -> _Choice:
    texts = {name: asked.get(name, "") for name in ("kind", "start", "length", "first", "count")}
    given = asked.get("fields", {})
    subject = subjects().get(texts["kind"])
    if subject is None:
        raise Refused(f"there is no law of kind {texts['kind']!r}; kinds are {', '.join(subjects())}", "kind")
    if texts["start"] not in subject.starts:
        raise Refused(f"there is no preset {texts['start']!r}; presets are {', '.join(subject.starts)}", "start")
    if extra := sorted(set(given) - set(subject.names)):
        raise Refused(f"{subject.kind} has no field {extra[0]!r}; fields are {', '.join(subject.names)}")
    hints, start = get_type_hints(subject.own), dict(subject.starts[texts["start"]])
    values = {name: _value(name, text, hints[name]) for name, text in given.items()}
    missing = object()
    changes = {n: v for n, v in values.items() if _plain(start.get(n, missing)) != v or type(start[n]) is bool}
    try:
        law = subject.make({name: _plain(value) for name, value in start.items()} | changes)
    except RecursionError:
        raise Refused("the fields are nested too deeply") from None
    except (TypeError, ValueError, OverflowError, AttributeError, KeyError, NotImplementedError) as error:
        raise Refused(_words(error), _field_of(str(error), tuple(changes), subject.names)) from None
    first = _number("first", texts["first"] or "0", 0, 2**63)
    count = _number("count", texts["count"] or "10000", 1, 2**63 - 1)
    wanted = _number("length", texts["length"], 1, LONGEST) if texts["length"] else None
    try:
        length = length_of(law, wanted, 64) if isinstance(law, Law) else wanted or 64
        if isinstance(law, Law):
            law.check_length(length)
    except ValueError as error:
        raise Refused(str(error), "length") from None
    if length > LONGEST:
        told = f"rows of this law have {length:,} tokens, and this page shows up to {LONGEST:,}"
        raise Refused(f"{told}; look at it with `trajmill law {subject.kind}`", "length")
    return _Choice(
        subject=subject,
        law=law,
        start=texts["start"],
        changes={name: value for name, value in changes.items() if value != _plain(start.get(name, missing))},
        length=length,
        first=first,
        count=count,
    )


def _number(name: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text.strip()):
        raise Refused(f"{name} must be a whole number, got {text[:40]!r}", name)
    try:
        return checks.integer(name, int(text), least, most)
    except ValueError as error:
        raise Refused(str(error), name) from None


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: {error}"


def _field_of(message: str, changed: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """The field at fault: a single change, since starts are laws; else what a message names first, a change rather."""
    if len(changed) == 1:
        return changed[0]
    places = {name: found.start() for name in names if (found := re.search(rf"\b{name}\b", message))}
    return min(places, key=lambda name: (name not in changed, places[name])) if places else None


def _predicted(law: RowLaw, length: int, first: int) -> dict[str, Any]:
    """The mean loss of the best predictor by place, in nats, and what it expects in the first sequence shown."""
    values = max(law.vocabulary_size, law.action_count if isinstance(law, MDP) else 1)
    if values > LARGEST_VOCABULARY:
        return {"reason": f"this page predicts up to {LARGEST_VOCABULARY:,} values, and the law has {values:,}"}
    rows = max(ROWS, min(MEASURED, WORK // (length * values)))
    drawn, reason = draw(law, length, rows, first), ""
    for task in (False, True) if isinstance(law, Law) else (False,):
        losses: dict[str, list[NDArray[np.float64]]] = {}
        expected: dict[str, list[NDArray[np.float64]]] = {}
        places = np.arange(rows)
        try:
            for column, place, chances in predictions(law, drawn, task=task):
                seen = losses.setdefault(column, [])
                known = drawn[column][:, place].astype(np.int64)
                with np.errstate(divide="ignore"):
                    seen.append(-np.log(chances[places, known]))
                if len(seen) <= PLACES:
                    expected.setdefault(column, []).append(_bands(chances[0]))
        except NotImplementedError as error:
            reason = reason or str(error)
            continue
        mask = drawn.get("loss_mask")
        curves = {column: np.array(values).T for column, values in losses.items()}
        told = {
            column: {
                "mean": float(values.mean()),
                "curve": _numbers(values.mean(0)),
                "targets": None if mask is None or mask.all() or not mask.any() else float(values[mask == 1].mean()),
                "heat": [_numbers(line) for line in expected[column]],
                "seen": drawn[column][0, -values.shape[1] :][:PLACES].tolist(),
                "from": drawn[column].shape[1] - values.shape[1],
                "values": law.action_count if column == "actions" else law.vocabulary_size,  # type: ignore[attr-defined]
            }
            for column, values in curves.items()
        }
        return {"columns": told, "rows": rows, "with_task": task, "reason": reason}
    return {"reason": reason}


def _rows_of(law: RowLaw) -> list[dict[str, Any]]:
    """Tables of chances that a chain or an MDP draws from."""
    if law.vocabulary_size > LARGEST_VOCABULARY:
        return []
    if isinstance(law, MarkovChain):
        states = range(min(law.state_count, BANDS))
        if law.order == 0:
            return [_table("Probabilities of the tokens", "", ["any"], [law.probabilities()])]
        past = [0] * (law.order - 1)
        title = "Probabilities of the next token" + (f", after token 0, {law.order - 1} times" if past else "")
        lines = [law.probabilities([*past, state]) for state in states]
        return [_table(title, "last token", list(map(str, states)), lines, law.state_count)]
    if isinstance(law, MDP):
        states = range(min(law.state_count, BANDS))
        names = list(map(str, states))
        policy = [law.policy_probabilities(state) for state in states]
        moves = [law.transition_probabilities(state, 0) for state in states]
        return [
            _table("Policy: probabilities of the action", "state", names, policy, law.state_count),
            _table("Probabilities of the next state after action 0", "state", names, moves, law.state_count),
        ]
    return []


def _table(
    title: str, of: str, names: list[str], lines: list[NDArray[np.float64]], count: int | None = None
) -> dict[str, Any]:
    if count is not None and count > len(lines):
        title += f" (the first {len(lines)} of {count:,} rows)"
    heat = [_numbers(_bands(line)) for line in lines]
    return {"title": title, "of": of, "names": names, "heat": heat, "values": len(lines[0])}


def _bands(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances (values,) as at most `BANDS` sums of as many neighbours each."""
    width = -(-len(chances) // BANDS)
    sums: NDArray[np.float64] = np.add.reduceat(chances, np.arange(0, len(chances), width))
    return sums


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [round(value, 5) if math.isfinite(value) else None for value in values.tolist()]


# --- how to make its corpus -------------------------------------------------------------------------------------------


def _command(choice: _Choice, columns: tuple[str, ...]) -> str:
    """Shell commands that write the corpus."""
    subject, lines = choice.subject, []
    words = ["trajmill", "generate", subject.kind]
    in_file = {}
    if choice.start and choice.start != EXAMPLE:
        words += ["--preset", choice.start]
    hints = get_type_hints(subject.own)
    for name, value in _given(choice).items():
        option = name.replace("_", "-")
        if not is_word(hints[name]):
            in_file[name] = value
        elif isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{option}", *(str(each) for each in values)]
    if in_file:
        lines += ["cat > fields.json <<'END'", json.dumps(in_file), "END"]
        words[3:3] = ["--fields", "fields.json"]
    words += [f"--{subject.rows.replace('_', '-')}", str(choice.count), "--length", str(choice.length)]
    if isinstance(choice.law, Law) and columns[1:]:
        words += ["--columns", *columns[1:]]
    return "\n".join([*lines, shlex.join([*words, "--out", "corpus"])])


def _python(choice: _Choice, columns: tuple[str, ...]) -> str:
    """Lines of Python that draw the same rows."""
    subject = choice.subject
    values = {name: value for name, value in subject.starts[choice.start].items() if name in subject.needed}
    given = ", ".join(f"{name}={_source(value)}" for name, value in (values | _given(choice)).items())
    law = f"tm.{subject.name}({given})"
    lines = ["import trajmill as tm", ""]
    if choice.start and choice.start != EXAMPLE:
        law = f"tm.{subject.name}.{choice.start}()"
        if given:
            lines.insert(0, "from dataclasses import replace\n")
            law = f"replace({law}, {given})"
    size = f"{choice.count:_}, {choice.length}"
    if isinstance(choice.law, MDP):
        lines += [f"mdp = {law}", f"data = mdp.sample({size})"]
        lines += ["print(data.states[0])  # one more than there are actions", "print(data.actions[0])"]
        return "\n".join(lines) + "\n"
    lines += [f"law = {law}"]
    if columns[1:]:
        lines += [f"rows = law.sample({size}, columns={list(columns[1:])!r})", 'tokens = rows["tokens"]']
    else:
        lines += [f"tokens = law.sample({size})"]
    lines += ["print(tokens[0])"]
    lines += ["# the same rows, drawn when they are asked for and never stored"]
    lines += [f"corpus = tm.VirtualCorpus(law, sequence_count={choice.count:_}, length={choice.length})"]
    return "\n".join(lines) + "\n"


def _given(choice: _Choice) -> dict[str, Any]:
    """Fields to be given in words: what differs from the preset, or from the defaults."""
    if choice.start != EXAMPLE:
        return choice.changes
    given = {name: _plain(value) for name, value in choice.subject.starts[EXAMPLE].items()} | choice.changes
    defaults = {each.name: _plain(each.default) for each in fields(choice.subject.own) if each.init}
    return {name: value for name, value in given.items() if defaults.get(name, MISSING) != value}


def _source(value: Any) -> str:
    """A value as Python reads it."""
    return 'float("inf")' if value in ("inf", math.inf) else repr(value)
