"""Where and how precisely to compute."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from trajmill.training.device import ComputeConfig, keep_freed_memory


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device .* 'tpu'"),
        ({"precision": "fp8"}, "precision .* 'fp8'"),
        ({"rows": "disk"}, "rows .* 'disk'"),
        ({"threads": 0}, "threads .* got 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComputeConfig(**settings)


def test_precision_and_threads_are_set_for_the_process() -> None:
    if not torch.cuda.is_available():
        assert ComputeConfig().apply().type == "cpu"
        with pytest.raises(ValueError, match=r"no GPU; use --compute\.device cpu"):
            ComputeConfig(device="cuda").apply()
    ComputeConfig(device="cpu", precision="tf32").apply()
    assert torch.get_float32_matmul_precision() == "high"
    assert ComputeConfig(device="cpu").apply().type == "cpu"
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_num_threads() == 1


@pytest.mark.unsanitized
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_kept() -> None:
    """A 40 MB tensor made ten times touches no fresh pages (10,240 each time otherwise) once malloc has settled."""
    keep_freed_memory()
    faults = []
    for _ in range(30):
        torch.empty(10 * 2**20).fill_(1.0)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    assert faults[-1] - faults[19] < 1000  # a dozen are made before the heap has a place for all
