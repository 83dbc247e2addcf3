"""The backbone's attention: in blocks of queries as at once, and never ahead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trajmill.models import gpt as module
from trajmill.models.gpt import GPTConfig, gpt, gpt_outputs
from trajmill.models.mlp import seeded_generator
from trajmill.models.stack import Stack

SEEDS, BATCH, LENGTH = 2, 3, 10
CONFIG = GPTConfig(layer_count=2, head_count=2, width=16, attention_dropout=0.3)


@pytest.fixture
def parameters() -> dict[str, Tensor]:
    return dict(
        Stack.of([gpt(CONFIG, seeded_generator(seed, "test")) for seed in range(SEEDS)])
        .to(torch.device("cpu"), torch.float64)
        .parameters
    )


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [1, 4, 5, 10])
@pytest.mark.parametrize("hides", [False, True])
def test_blocks_of_queries_give_the_same(
    block: int, hides: bool, parameters: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = CONFIG.dropout_shapes(BATCH, LENGTH)
    dropout = {site: (random(SEEDS, *shape) > -1.0).double() / 0.84 for site, (_, shape) in shapes.items()}
    visible = torch.arange(LENGTH).expand(SEEDS, BATCH, LENGTH) >= 3 if hides else None
    inputs = random(SEEDS, BATCH, LENGTH, CONFIG.width).requires_grad_()

    def computed() -> tuple[Tensor, ...]:
        outputs = gpt_outputs(parameters, CONFIG, inputs, visible=visible, dropout=dropout)[:, :, 3:]
        return outputs, *torch.autograd.grad(outputs.square().sum(), inputs)

    whole = computed()
    monkeypatch.setattr(module, "QUERY_BLOCK", block)
    torch.testing.assert_close(computed(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", [slice(1, None, 3), slice(-2, -1)])
def test_wanted_positions_are_those_of_all(wanted: slice, parameters: dict[str, Tensor]) -> None:
    """As if every position had been computed, with dropout and hidden tokens."""
    shapes = CONFIG.dropout_shapes(BATCH, LENGTH)
    dropout = {site: (random(SEEDS, *shape) > -1.0).double() / 0.84 for site, (_, shape) in shapes.items()}
    options = {"visible": torch.arange(LENGTH).expand(SEEDS, BATCH, LENGTH) >= 2, "dropout": dropout}
    inputs = random(SEEDS, BATCH, LENGTH, CONFIG.width)
    whole = gpt_outputs(parameters, CONFIG, inputs, **options)
    found = gpt_outputs(parameters, CONFIG, inputs, **options, wanted=wanted)
    torch.testing.assert_close(found, whole[:, :, wanted], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [4, 256])
def test_no_position_looks_ahead(block: int, parameters: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_BLOCK", block)
    inputs = random(SEEDS, BATCH, LENGTH, CONFIG.width)
    changed = inputs.clone()
    changed[:, :, 6:] = 0.0
    kept = []
    for one in (inputs, changed):
        torch.manual_seed(0)  # drops the same
        kept.append(gpt_outputs(parameters, CONFIG, one, dropout="torch"))
    assert torch.equal(kept[0][:, :, :6], kept[1][:, :, :6])
    assert not torch.isclose(kept[0][:, :, 6:], kept[1][:, :, 6:]).all(-1).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width"),
        ({"head_count": 3, "width": 16}, r"head_count divide width, got .* 3, 16"),
        ({"attention_dropout": 1.0}, r"attention_dropout .* got 1\.0"),
    ],
)
def test_shapes_that_cannot_be_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPTConfig(**change)
