"""EDM: how noise levels enter a denoiser, how they are laid out, and how samples are drawn along them.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv 2206.00364, with the values of
SynthER (arXiv 2303.06614): data of unit variance, so σ_data = 1.

    D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise)                                            denoised
    σ_i = (σ_max^{1/ρ} + i/(N−1)·(σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ,  σ_N = 0                    noise_levels

A sampler starts at σ_0·N(0, 1) and asks for the denoised x at a level; `heun` is the paper's Algorithm 2, `dpm_solver`
the second-order multistep solver of DPM-Solver++ (Lu et al., arXiv 2211.01095) in σ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

LOWEST, HIGHEST, RHO = 0.002, 80.0, 7.0
LOG_MEAN, LOG_STD = -1.2, 1.2
"""of the logarithm of the noise levels that training draws"""

Denoiser = Callable[[Tensor, float], Tensor]
"""noisy x and its noise level -> denoised x"""
Noise = Callable[[int], Tensor]
"""number of a draw -> standard normals of the shape of x; 0 is the start, i + 1 the churn of step i"""


def scalings(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in, c_noise of the levels, each of their shape (Table 1 of the paper)."""
    total = sigma.square() + 1.0
    return total.reciprocal(), sigma * total.rsqrt(), total.rsqrt(), sigma.log() / 4.0


def loss_weight(sigma: Tensor) -> Tensor:
    """λ(σ) = (σ² + 1) / σ², which makes F's own error count alike at every level."""
    return (sigma.square() + 1.0) / sigma.square()


def denoised(network: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, sigma: Tensor) -> Tensor:
    """D(x; σ): x (S, n, d), σ (S, n or 1, 1) -> (S, n, d)."""
    skip, out, scale, level = scalings(sigma)
    return skip * noisy + out * network(scale * noisy, level)


def noise_levels(steps: int, highest: float = HIGHEST) -> list[float]:
    """σ_0 … σ_N, float32 values, the last one 0.

    With less than σ_max as `highest` they begin there, with one level for each of the `steps` that is lower.
    """
    levels = _levels(steps, HIGHEST)
    if highest < HIGHEST:
        levels = _levels(1 + sum(level < highest for level in levels), highest)
    return [*levels, 0.0]


def _levels(count: int, highest: float) -> list[float]:
    """So many levels, evenly spaced in σ^{1/ρ}, from the highest to σ_min; a single one is the highest."""
    ends = highest ** (1.0 / RHO), LOWEST ** (1.0 / RHO)
    levels = ((ends[0] + np.linspace(0.0, 1.0, count) * (ends[1] - ends[0])) ** RHO).astype(np.float32)
    found: list[float] = levels.tolist()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """How much fresh noise each step of `heun` adds; 0 adds none."""

    amount: float = 80.0
    lowest: float = 0.05
    highest: float = 50.0
    scale: float = 1.003

    def gamma(self, sigma: float, steps: int) -> float:
        """Share by which a step raises its noise level first."""
        within = self.lowest <= sigma <= self.highest
        return min(self.amount / steps, math.sqrt(2.0) - 1.0) if within else 0.0


def heun(denoiser: Denoiser, noise: Noise, start: Tensor, levels: list[float], churn: Churn, steps: int) -> Tensor:
    """Algorithm 2: a second-order step at each level but the last; `start` is x at levels[0].

    Levels are Python floats, so σ̂ and √(σ̂² − σ²) are float64, as in the released code.
    """
    x = start
    for number, (sigma, following) in enumerate(pairwise(levels)):
        raised = sigma + churn.gamma(sigma, steps) * sigma
        if raised > sigma:
            x = torch.add(x, noise(number + 1), alpha=math.sqrt(raised**2 - sigma**2) * churn.scale)
        slope = (x - denoiser(x, raised)) / raised
        moved = torch.add(x, slope, alpha=following - raised)
        if following > 0.0:
            second = (moved - denoiser(moved, following)) / following
            moved = torch.add(x, slope.add_(second), alpha=0.5 * (following - raised))
        x = moved
    return x


def dpm_solver(denoiser: Denoiser, noise: Noise, start: Tensor, levels: list[float], freshness: float) -> Tensor:
    """DPM-Solver++ (2M): one evaluation a level, extrapolated in ln σ.

    `freshness` 0 is the solver of the ordinary differential equation, 1 that of the stochastic one (SDE-DPM-Solver++
    2M of the same paper, σ-space): of the noise that a step leaves, it makes this much anew.
    """
    x = start
    last: Tensor | None = None
    length = 0.0
    for number, (sigma, following) in enumerate(pairwise(levels)):
        clean = denoiser(x, sigma)
        if following == 0.0:
            return clean
        passed = math.log(sigma / following)
        fresh = freshness * passed
        target = clean if last is None else torch.lerp(last, clean, 1.0 + passed / (2.0 * length))
        x = torch.lerp(target, x, math.exp(-passed - fresh))
        if fresh:
            x = torch.add(x, noise(number + 1), alpha=following * math.sqrt(-math.expm1(-2.0 * fresh)))
        last, length = clean, passed
    return x
