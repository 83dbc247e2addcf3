"""A trained policy as a file for programs without trajmill: observations in, actions out."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmill.core import checks
from trajmill.core.files import check_writable, write_whole
from trajmill.core.paths import AnyPath, local_path
from trajmill.data.actions import bounds_of
from trajmill.experiments.evaluate import TrainedPolicy
from trajmill.models.precision import use_bfloat16
from trajmill.training.device import torch_as_it_was
from trajmill.training.policy import Policy

SUFFIXES = {".pt2": "torch", ".pt": "torchscript", ".onnx": "onnx"}
"""of files, and the format that each stands for"""
FORMATS = tuple(SUFFIXES.values())


class Actor(torch.nn.Module):
    """The policy of one seed as a module: observations (n, O) to actions (n, A), both float32.

    Observations and actions are in the environment's units; the module standardizes and scales. It acts without chance.
    """

    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, policy: TrainedPolicy, seed: int) -> None:
        super().__init__()
        if not isinstance(policy.act, Policy):
            raise ValueError(
                "a policy with a memory cannot be exported, since its actions depend on the episode so far: use "
                "trajmill.load_policy"
            )
        row, self._act, normalizer = policy.seeds.index(seed), policy.act.act, policy.act.normalizer
        self._names = dict[str, str]()
        for name, value in policy.act.network.detached().items():
            self._names[name] = name.replace(".", "_")
            self.register_buffer(self._names[name], value[row : row + 1].float().clone())
        self._standardizes = normalizer is not None
        if normalizer is not None:
            self.register_buffer("mean", torch.from_numpy(normalizer.mean.copy()))
            self.register_buffer("scale", torch.from_numpy(normalizer.scale.copy()))
        for name, bound in zip(("low", "high"), bounds_of(policy.action_limit), strict=True):
            self.register_buffer(name, torch.from_numpy(bound.copy()))

    def forward(self, observation: Tensor) -> Tensor:
        """Map observations (n, O) to actions (n, A)."""
        if self._standardizes:
            observation = (observation - self.mean) / self.scale
        parameters = {name: getattr(self, own) for name, own in self._names.items()}
        center, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return torch.clamp(center + half * self._act(parameters, observation[None])[0], self.low, self.high)


def _torch(actor: Actor, example: Tensor) -> bytes:
    program = torch.export.export(actor, (example,), dynamic_shapes=_SHAPES)
    sink = io.BytesIO()
    torch.export.save(program, sink)
    return sink.getvalue()


def _torchscript(actor: Actor, example: Tensor) -> bytes:
    sink = io.BytesIO()
    torch.jit.save(torch.jit.trace(actor, example), sink)
    return sink.getvalue()


def _onnx(actor: Actor, example: Tensor) -> bytes:
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise RuntimeError(f"ONNX files need {error.name}; install it with: pip install 'trajmill[onnx]'") from error
    names: dict[str, Any] = {"input_names": ["observation"], "output_names": ["action"]}
    program = torch.onnx.export(actor, (example,), dynamo=True, dynamic_shapes=_SHAPES, verbose=False, **names)
    assert program is not None
    model: bytes = program.model_proto.SerializeToString()
    return model


_SHAPES = {"observation": {0: torch.export.Dim("n")}}
_WRITERS: dict[str, Callable[[Actor, Tensor], bytes]] = dict(zip(FORMATS, (_torch, _torchscript, _onnx), strict=True))


@torch_as_it_was()
def export_policy(policy: TrainedPolicy, seed: int, destination: AnyPath, format: str | None = None) -> Path:
    """Write the policy of a seed as one new file; gives its path.

    `format` is ``torch`` (`torch.export`), ``torchscript`` or ``onnx``; None takes that of the suffix (`SUFFIXES`).
    ValueError if the destination exists, the format is none of these, or the policy has a memory; RuntimeError if
    a library is missing.
    """
    path = local_path(destination)
    if format is None and path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path.name} must end in {', '.join(SUFFIXES)}, or format must be one of {', '.join(FORMATS)}"
        )
    write = _WRITERS[checks.choice("format", format or SUFFIXES[path.suffix], FORMATS)]
    check_writable(path, as_file=True)
    if path.exists():
        raise ValueError(f"{path} exists; choose another name")
    use_bfloat16(False)
    actor = Actor(policy, seed).eval()
    with torch.no_grad(), _quietly():
        content = write(actor, torch.zeros(3, policy.observation_dim))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return path


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch says of its own exporters: that one is deprecated, and what it does not find."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
