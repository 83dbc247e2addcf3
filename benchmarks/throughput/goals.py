"""What a rate is held against: a roofline model of one H200, written before any GPU was at hand, and the goals.

The model is the one of "GPU performance plan" (calculated, not measured): the larger of arithmetic and memory time, a
third of the smaller, and 2.2 microseconds for each node of a graph that nothing hides.
"""

from __future__ import annotations

from dataclasses import dataclass

COPY_BYTES = 4.3e12
"""measured on one H200: bytes a second, read and written"""
REACHED_COPY = 0.65
NODE_SECONDS = 2.2e-6
PEAK = {"fp32": 60e12, "tf32": 400e12, "bf16": 790e12}
"""operations a second; bf16 was measured on one H200, the others are leads"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """One update of one seed at the paper's sizes."""

    gflop: float
    state_mb: float
    """weights, moments and targets, read and written"""
    activation_mb: float
    """in float32 for perceptrons, in bf16 for transformers"""
    nodes: int
    is_transformer: bool = False

    def bytes(self, precision: str) -> float:
        """Moved by one update of one seed."""
        native = "bf16" if self.is_transformer else "fp32"
        wide = "bf16" if precision == "bf16" else "fp32"
        factor = {("fp32", "bf16"): 0.5, ("bf16", "fp32"): 2.0}.get((native, wide), 1.0)
        return 1e6 * (self.state_mb + factor * self.activation_mb)

    def rate(self, seeds: int, precision: str) -> float:
        """Predicted updates a second, summed over the seeds."""
        bf16 = 0.25 if self.is_transformer else 0.35
        reached = {"fp32": 0.6, "tf32": 0.4, "bf16": bf16}[precision]
        arithmetic = seeds * 1e9 * self.gflop / PEAK[precision] / reached
        memory = seeds * self.bytes(precision) / COPY_BYTES / REACHED_COPY
        work = max(arithmetic, memory) + 0.3 * min(arithmetic, memory)
        launches = self.nodes * NODE_SECONDS
        return seeds / max(work + 0.25 * launches, launches)


ROOFLINES = {
    "cql": Roofline(gflop=2.57, state_mb=7.8, activation_mb=141, nodes=90),
    "forward_dynamics": Roofline(gflop=0.23, state_mb=4.2, activation_mb=12, nodes=24),
    "decision_transformer": Roofline(gflop=14.7, state_mb=20, activation_mb=201, nodes=110, is_transformer=True),
    "language_model": Roofline(gflop=417, state_mb=20, activation_mb=3660, nodes=105, is_transformer=True),
}

GOALS = {
    "cql": {1: {"must": 3500}, 20: {"must": 10_000, "target": 20_000, "stretch": 40_000}},
    "forward_dynamics": {1: {"must": 12_000}, 20: {"must": 80_000, "target": 150_000, "stretch": 250_000}},
    "decision_transformer": {1: {"must": 2000}, 20: {"must": 4500, "target": 7000, "stretch": 10_000}},
    "language_model": {1: {"must": 250, "target": 350, "stretch": 450}},
}
"""method -> seeds -> updates a second on one H200, summed over the seeds: "must" in TF32 (bf16 for transformers), the
others in bf16; a language model is one seed at a time"""

PAPER_RATES = {"cql": 59.0, "forward_dynamics": 407.0, "decision_transformer": 12.6, "language_model": 10.2}
"""updates a second of arXiv 2310.00771 (Quadro RTX 8000, two for the language model): published, other hardware"""

STUDIED = "cql"
"""the method whose study `bench_evaluation.py` takes as an example"""
