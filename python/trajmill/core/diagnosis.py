"""What this installation can do: versions, instruction sets, known answers, a one-second speed test, optional parts."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trajmill import _core
from trajmill.core import checks, limits
from trajmill.core.markov_chain import MarkovChain

_EXTRAS = {
    "data": (("h5py",), "D4RL, Minari and SynthER files"),
    "corpus": (("xxhash",), "corpora and replay files"),
    "cli": (("tyro", "rich"), "the command line"),
    "train": (("torch", "gymnasium", "mujoco", "safetensors", "matplotlib", "jinja2"), "training, scores, reports"),
    "text": (("tokenizers",), "training on text, --method.text"),
    "export": (("pyarrow",), "corpus export to Arrow and Parquet"),
    "remote": (("fsspec",), "corpora in object stores"),
    "ray": (("ray",), "generate --engine ray"),
    "tensorboard": (("tensorboard",), "train --log tensorboard"),
    "wandb": (("wandb",), "train --log wandb"),
    "trackio": (("trackio",), "train --log trackio"),
    "onnx": (("onnx", "onnxscript"), "export of a policy as ONNX"),
}
"""extra -> its modules, and what needs them"""

_KNOWN_ANSWER = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123: counter 0, key 0


@dataclass(frozen=True, slots=True)
class DiagnosisRow:
    """One fact; `ok` is false where something is missing or wrong, and `value` then says what to do."""

    name: str
    value: str
    ok: bool = True
    optional: bool = False


def diagnose() -> list[DiagnosisRow]:
    """All facts, the core's first; takes about a second."""
    levels = ", ".join(_core.available_simd_levels())
    rows = [
        DiagnosisRow("trajmill", f"{_core.version}, stream v1, built by {_core.compiler}"),
        DiagnosisRow("python", f"{platform.python_version()}, numpy {np.__version__}, {platform.machine()}"),
        DiagnosisRow("instruction set", f"{_core.simd_level()} (available: {levels}; TRAJMILL_SIMD chooses)"),
        DiagnosisRow("cores", f"{limits.usable_cores()} for this process, {os.cpu_count()} in all"),
        DiagnosisRow("memory", f"{limits.usable_memory() / 2**30:.1f} GiB for this process"),
        DiagnosisRow("threads", f"{checks.thread_count(None)} (TRAJMILL_THREADS chooses)"),
        _known_answers(),
        DiagnosisRow("speed", f"{_tokens_per_second() / 1e9:.2f} G tokens/s on one thread (S=100, uint8)"),
        _compiler(),
        _bfloat16(),
    ]
    for extra, (modules, purpose) in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        value = f"missing {', '.join(missing)}: pip install 'trajmill[{extra}]'" if missing else ", ".join(modules)
        rows.append(DiagnosisRow(f"extra [{extra}]", f"{value} ({purpose})", ok=not missing, optional=True))
    return rows


def _compiler() -> DiagnosisRow:
    """Whether torch.compile finds what it needs on a CPU."""
    compiler = next((name for name in (os.environ.get("CXX"), "g++", "clang++") if name and shutil.which(name)), None)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    parts = {"a C++ compiler (g++, clang++, or CXX)": compiler, str(header): header.exists()}
    missing = [part for part, found in parts.items() if not found]
    value = f"missing {' and '.join(missing)}" if missing else f"{compiler} and Python's headers are there"
    return DiagnosisRow("torch.compile", value, ok=not missing, optional=True)


def _bfloat16() -> DiagnosisRow:
    """Whether the processor multiplies bfloat16 by instructions of its own, as Linux tells."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return DiagnosisRow("bfloat16", "not known on this system", optional=True)
    found = sorted(words & {"avx512_bf16", "amx_bf16", "bf16"})
    value = ", ".join(found) if found else "no instructions for it on this CPU: stay with float32"
    return DiagnosisRow("bfloat16", value, ok=bool(found), optional=True)


def _known_answers() -> DiagnosisRow:
    wrong = [] if _core.philox4x32([0, 0, 0, 0], 0) == _KNOWN_ANSWER else ["Philox4x32-10"]
    wrong += _levels_that_differ()
    right = f"Philox4x32-10 is right, and chains draw the same at {', '.join(_core.available_simd_levels())}"
    value = f"WRONG: {', '.join(wrong)}. Reinstall, and please report this" if wrong else right
    return DiagnosisRow("known answers", value, ok=not wrong)


def _levels_that_differ() -> list[str]:
    """Instruction sets whose kernels draw other tokens than the scalar ones do, for every kind of chain."""
    chains = [
        MarkovChain(state_count=100, order=2, seed=42, backend="dense", threads=1),
        MarkovChain(state_count=300, seed=42, backend="dense", threads=1),  # above 256 columns: two words a draw
        MarkovChain(state_count=300, order=2, seed=42, backend="implicit", threads=1),
    ]
    in_use, drawn = _core.simd_level(), {}
    try:
        for level in _core.available_simd_levels():
            _core.set_simd_level(level)
            drawn[level] = [chain.sample(300, 70, threads=1).tobytes() for chain in chains]
    finally:
        _core.set_simd_level(in_use)
    return [level for level in drawn if drawn[level] != drawn["scalar"]]


def _tokens_per_second(seconds: float = 0.5) -> float:
    chain = MarkovChain(state_count=100)
    out = np.zeros((16384, 1024), np.uint8)
    chain.sample(*out.shape, out=out, threads=1)
    started = time.perf_counter()
    rounds = 0
    while time.perf_counter() - started < seconds:
        chain.sample(*out.shape, out=out, threads=1)
        rounds += 1
    return rounds * out.size / (time.perf_counter() - started)
