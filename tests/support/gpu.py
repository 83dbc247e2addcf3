"""Marks of tests that need a GPU: ``pytest -m gpu`` runs them where there is one."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # products in one order; read when CUDA is first used

NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; torch sees none")]
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
