"""Policies: they act by the parameters as they are, on observations as the method saw them."""

from __future__ import annotations

import json

import numpy as np
import torch

from trajmill.data import Normalizer
from trajmill.models.policies import deterministic, policies
from trajmill.training.policy import Policy

NORMALIZER = Normalizer(mean=np.array([1.0, 2.0], np.float32), scale=np.array([0.5, 3.0], np.float32), epsilon=1e-3)
OBSERVATIONS = np.random.default_rng(0).normal(size=(2, 7, 2)).astype(np.float32)


def test_a_policy_sees_normalized_observations_and_follows_its_network() -> None:
    network = policies(2, 3, [0, 1]).to(torch.device("cpu"), torch.float64)
    plain, normalizing = Policy(network, deterministic), Policy(network, deterministic, NORMALIZER)
    for _ in range(2):
        for policy, seen in ((plain, OBSERVATIONS), (normalizing, (OBSERVATIONS - [1.0, 2.0]) / [0.5, 3.0])):
            expected = deterministic(network.detached(), torch.as_tensor(seen).double())
            found = policy(OBSERVATIONS)
            assert found.shape == (2, 7, 3) and found.dtype == np.float32
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
        network.flat.mul_(1.5)


def test_a_restored_policy_has_the_normalizer_of_its_metadata() -> None:
    network = policies(2, 3, [0, 1])
    for normalizer in (None, NORMALIZER):
        policy = Policy(network, deterministic, normalizer)
        known = json.loads(json.dumps(policy.metadata()))
        np.testing.assert_array_equal(
            Policy.restored(network, deterministic, known)(OBSERVATIONS), policy(OBSERVATIONS)
        )
    assert Policy.restored(network, deterministic, {}).normalizer is None, "earlier versions had none to write down"
