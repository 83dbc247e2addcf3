"""Where and how precisely to compute."""

from __future__ import annotations

from typing import Literal

import torch

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "tf32"]


def resolve_device(name: DeviceName) -> torch.device:
    """``"auto"`` is the GPU where there is one."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def set_precision(precision: Precision) -> None:
    """Set how fp32 matrix products are computed: exactly, or in TF32 where the GPU has it."""
    if precision not in ("fp32", "tf32"):
        raise ValueError(f"precision must be fp32 or tf32, got {precision!r}")
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
