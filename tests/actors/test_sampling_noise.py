"""The noise that the transformers engine samples with: exponential, independent, a function of seed, step and token."""

from __future__ import annotations

import importlib.util

import pytest

from actors.engines.sampling import Noise

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def noise(seeds: list[int], step: int, size: int, device: str = "cpu"):  # type: ignore[no-untyped-def]
    import torch

    return Noise(torch, seeds, torch.device(device))(step, size)


def test_a_row_depends_on_its_seed_and_step_only() -> None:
    import torch

    together = noise([7, 2**63 - 1, 0], 5, 1000)
    assert torch.equal(noise([0], 5, 1000)[0], together[2])
    assert torch.equal(noise([7], 5, 10)[0], together[0, :10])
    assert not torch.equal(noise([7], 6, 1000)[0], together[0])


def test_noise_is_exponential_and_never_infinite_or_zero() -> None:
    import torch

    values = noise(list(range(64)), 0, 50_000).double()
    assert values.min() > 0
    assert values.max() < 20
    assert abs(values.mean() - 1) < 0.003
    assert abs(values.var() - 1) < 0.01
    counts = torch.histc(torch.exp(-values), 1000, 0, 1)
    expected = values.numel() / 1000
    assert ((counts - expected) ** 2 / expected).sum() / 999 < 1.25


def test_every_token_is_drawn_equally_often_over_neighbouring_seeds_and_steps() -> None:
    import torch

    counts = torch.zeros(16)
    for step in range(100):
        counts += torch.bincount(noise(list(range(2000)), step, 16).argmin(1), minlength=16)
    expected = 2000 * 100 / 16
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # chi square of 15 degrees of freedom, p = 0.001


def test_rows_of_neighbouring_seeds_and_steps_are_independent() -> None:
    import torch

    seeds = list(range(32))
    base = noise(seeds, 4, 50_000)
    for other in (noise(seeds, 5, 50_000), noise([s + 1 for s in seeds], 4, 50_000), base.roll(1, 1)):
        correlation = torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 4 / base.numel() ** 0.5
