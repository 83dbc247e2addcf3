"""GPT-2 files: round trip, refusals, and equality with the transformers library."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
import torch
from own_environment import OwnEnvironment
from torch import Tensor

from trajmill.models.gpt import GPTConfig
from trajmill.models.gpt2_files import read_gpt2, write_gpt2
from trajmill.models.language_model import language_model, token_logits

RELU = GPTConfig(layer_count=3, head_count=2, width=32)
GELU = GPTConfig(layer_count=2, head_count=4, width=32, activation="gelu", residual_dropout=0.0)


def parameters(config: GPTConfig, **options: int) -> dict[str, Tensor]:
    """Weights far from their initial values, so that no bias or gain could be left out unseen."""
    generator = torch.Generator().manual_seed(0)
    values = language_model(config, 50, generator, position_count=24, **options)
    return {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in values.items()}


@pytest.mark.parametrize("config", [RELU, GELU])
def test_what_is_written_is_read(config: GPTConfig, tmp_path: Path) -> None:
    write_gpt2(tmp_path, config, parameters(config))
    found, values = read_gpt2(tmp_path)
    assert found == config
    assert list(values) == list(parameters(config))
    for name, value in parameters(config).items():
        assert torch.equal(values[name], value), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type .* 'llama'"),
        ({"n_inner": 7}, "n_inner .* got 7"),
        ({"activation_function": "silu"}, "activation_function .* gelu_new, got 'silu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon .* 1e-06"),
        ({"n_layer": 4}, r"h\.3\.ln_1\.weight"),
        ({"vocab_size": 51}, r"wte\.weight.* \(51, 32\), got \(50, 32\)"),
    ],
)
def test_another_model_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    write_gpt2(tmp_path, RELU, parameters(RELU))
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(ValueError, match=message):
        read_gpt2(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        read_gpt2(tmp_path)
    write_gpt2(tmp_path, RELU, parameters(RELU))
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        read_gpt2(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="n_layer, n_head"):
        read_gpt2(tmp_path)


def test_targets_of_their_own_have_no_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target"):
        write_gpt2(tmp_path, RELU, parameters(RELU, targets=3))


@pytest.mark.slow
def test_outputs_equal_those_of_transformers(tmp_path: Path) -> None:
    """Both ways: what we write they read, what they write we read, logits within 1e-5."""
    environment = OwnEnvironment.create(tmp_path / "environment", sees=Path(sysconfig.get_path("purelib")))
    environment.install("transformers>=4.50")
    tokens = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(1))
    torch.save(tokens, tmp_path / "tokens.pt")
    script = """
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
tokens = torch.load(sys.argv[1])
theirs = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_layer=2, n_head=4, n_embd=16, n_positions=24,
                                    activation_function="gelu_new", bos_token_id=None, eos_token_id=None))
theirs.save_pretrained(sys.argv[2])
models = [theirs] + [AutoModelForCausalLM.from_pretrained(path) for path in sys.argv[3:]]
with torch.no_grad():
    save(*[model.eval()(tokens).logits.numpy() for model in models])
"""
    for name, config in (("relu", RELU), ("gelu", GELU)):
        write_gpt2(tmp_path / name, config, parameters(config))
    paths = [tmp_path / name for name in ("theirs", "relu", "gelu")]
    logits = environment.read(script, tmp_path / "tokens.pt", *paths)
    for path, expected in zip(paths, logits, strict=True):
        config, values = read_gpt2(path)
        found = token_logits({name: value[None] for name, value in values.items()}, config, tokens[None])[0]
        assert float((found - torch.from_numpy(expected)).abs().max()) < 1e-5
