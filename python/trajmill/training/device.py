"""Where and how precisely to compute."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from trajmill.core import checks
from trajmill.models.precision import use_bfloat16, uses_bfloat16
from trajmill.training.settings import at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """Where to compute; only precision changes results beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU where there is one"""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """of matrix products: fp32 as in the papers, tf32 (faster on GPUs), bf16 (on GPUs, CPUs with AVX512_BF16 or AMX)"""
    threads: int = 1
    """CPU threads of torch, at least 1; one process per core is faster than one process on many"""
    rows: Literal["device", "host"] = "device"
    """where the data is kept: on the training device, or on the host, from where equal batches are fed to the device"""

    evaluation: Literal["auto", "in_place", "beside"] = "auto"
    """where policies are scored: between updates, or beside them in a process of its own on the CPU, with equal scores;
    auto takes beside on a GPU; processes that share the seeds score between updates"""

    def __post_init__(self) -> None:
        checks.choice("evaluation", self.evaluation, ("auto", "in_place", "beside"))
        checks.choice("device", self.device, ("auto", "cpu", "cuda"))
        checks.choice("precision", self.precision, ("fp32", "tf32", "bf16"))
        checks.choice("rows", self.rows, ("device", "host"))
        at_least(1, threads=self.threads)

    def scores_beside(self, *, on_gpu: bool) -> bool:
        """Whether policies are scored beside the updates."""
        return self.evaluation == "beside" or (self.evaluation == "auto" and on_gpu)

    def apply(self) -> torch.device:
        """Set this process up, until `torch_as_it_was` ends; gives the device."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but torch sees no GPU; use --compute.device cpu or auto")
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        use_bfloat16(self.precision == "bf16")
        keep_freed_memory()
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


def device_named(device: str | torch.device) -> torch.device:
    """The device of a name, such as ``"cuda"``; ValueError if torch does not have it here."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be one that torch knows, such as cpu or cuda, got {device!r}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {found}, but torch sees {torch.cuda.device_count()} GPUs; use cpu or another one")
    return found


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Give torch's generators, threads and precision back at the end of the block; also a decorator of functions."""
    threads, products, reduces = torch.get_num_threads(), torch.get_float32_matmul_precision(), uses_bfloat16()
    state = torch.get_rng_state()
    states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
        use_bfloat16(reduces)
        torch.set_rng_state(state)
        if states:
            torch.cuda.set_rng_state_all(states)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next update instead of handing it back to the system.

    Activations of several seeds exceed the 32 MB from which malloc maps every block anew, and touching fresh pages
    costs more than the arithmetic on them: eight seeds of CQL ran at 19.6 updates/s, and 29.5 with this (one core of an
    AMD EPYC virtual machine). Does nothing where malloc is not glibc's.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)
