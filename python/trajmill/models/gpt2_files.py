"""GPT-2 weights as Hugging Face stores them: a directory with ``config.json`` and ``model.safetensors``.

Linear weights are (in, out) there too, so names and numbers carry over unchanged; the output layer is tied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trajmill.core.json_input import read_json
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import language_model

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu_new"}
"""our name -> Hugging Face's"""

_FIXED = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True,
}
"""what no other value is understood of"""


def read_gpt2(directory: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Shape and float32 parameters (those of `trajmill.models.language_model.language_model`) of a stored model.

    ValueError if a file is missing or damaged, or describes another model than GPT-2.
    """
    described = _json(directory / "config.json")
    for name, wanted in _FIXED.items():
        if name != "architectures" and described.get(name, wanted) != wanted:
            raise ValueError(f"{directory / 'config.json'}: {name} must be {wanted!r}, got {described[name]!r}")
    width = described["n_embd"]
    if described.get("n_inner") not in (None, 4 * width):
        raise ValueError(f"{directory / 'config.json'}: n_inner must be {4 * width}, got {described['n_inner']}")
    activations = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
    activation = described.get("activation_function", "gelu_new")
    if activation not in activations:
        raise ValueError(f"activation_function must be one of {', '.join(activations)}, got {activation!r}")
    config = GPTConfig(
        layer_count=described["n_layer"],
        head_count=described["n_head"],
        width=width,
        activation=activations[activation],  # type: ignore[arg-type]
        embedding_dropout=described.get("embd_pdrop", 0.1),
        attention_dropout=described.get("attn_pdrop", 0.1),
        residual_dropout=described.get("resid_pdrop", 0.1),
    )
    path = directory / "model.safetensors"
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is missing, damaged or no safetensors file: {error}") from error
    found = {name.removeprefix("transformer."): tensor.float() for name, tensor in stored.items()}
    layout = language_model(config, described["vocab_size"], torch.Generator(), position_count=described["n_positions"])
    for name, like in layout.items():
        if name not in found or found[name].shape != like.shape:
            got = tuple(found[name].shape) if name in found else "nothing"
            raise ValueError(f"{path}: tensor {name!r} must have shape {tuple(like.shape)}, got {got}")
    return config, {name: found[name] for name in layout}


def write_gpt2(directory: Path, config: GPTConfig, parameters: Mapping[str, Tensor]) -> None:
    """Store a model so that ``transformers.AutoModelForCausalLM.from_pretrained(directory)`` reads it.

    ValueError for a model whose outputs are not its own tokens (``target.weight``).
    """
    if "target.weight" in parameters:
        raise ValueError("a model with target tokens of their own has no place in GPT-2's format")
    vocabulary_size, position_count = len(parameters["wte.weight"]), len(parameters["wpe.weight"])
    described = _FIXED | {
        "n_layer": config.layer_count,
        "n_head": config.head_count,
        "n_embd": config.width,
        "n_inner": None,
        "n_positions": position_count,
        "vocab_size": vocabulary_size,
        "activation_function": _ACTIVATIONS[config.activation],
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"transformer.{name}": parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
    (directory / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    (directory / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    try:
        described = read_json(path)
        if not isinstance(described, dict):
            raise ValueError("it must hold an object")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged: {error}") from error
    missing = [name for name in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size") if name not in described]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; is this a GPT-2 model?")
    return dict(described)
