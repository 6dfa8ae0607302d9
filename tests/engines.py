"""Engines for tests: the demo's checkpoints behind real vLLM and real transformers, each started once."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cluster.demo
from actors.backend import Backend
from actors.engines.transformers import TransformersBackend
from actors.engines.vllm import VllmBackend
from evalservice.records import ChatRequest, Completion

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a tiny model waits for its own threads on a busy machine
CHECKPOINTS = Path(cluster.demo.__path__[0]) / "checkpoints"
EARLY, LATE = str(CHECKPOINTS / "arithmetic-early"), str(CHECKPOINTS / "arithmetic-late")
KINDS: dict[str, Any] = {"vllm": VllmBackend, "transformers": TransformersBackend}
EXACT: dict[str, dict[str, Any]] = {"vllm": {"dtype": "float32"}, "transformers": {"dtype": "float32"}}


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


needs_vllm = [pytest.mark.vllm, pytest.mark.skipif(not has("vllm"), reason="vllm is not installed")]
needs_transformers = [
    pytest.mark.skipif(not has("torch"), reason="torch is not installed"),
    pytest.mark.skipif(not has("transformers"), reason="transformers is not installed"),
]
BOTH = [pytest.param("vllm", marks=needs_vllm), pytest.param("transformers", marks=needs_transformers)]


def make(kind: str, model: str, engine: dict[str, Any] | None = None) -> Any:
    return KINDS[kind](model, engine or {})


class Engines:
    """Backends by kind and model, computing in float32: started when they are first wanted, closed all together.

    vLLM's engines of one process share global state that the first to be closed takes away from the others.
    """

    def __init__(self) -> None:
        self._started: dict[tuple[str, str], Any] = {}

    def get(self, kind: str, model: str = LATE) -> Any:
        if (kind, model) not in self._started:
            self._started[kind, model] = make(kind, model, EXACT[kind])
        return self._started[kind, model]

    @contextlib.contextmanager
    def alone(self, kind: str, model: str = LATE, options: dict[str, Any] | None = None) -> Iterator[Any]:
        """A backend with options of its own, closed at the end; the others are closed before it is started."""
        self.close()
        backend = make(kind, model, options)
        try:
            yield backend
        finally:
            asyncio.run(backend.aclose())

    def close(self) -> None:
        while self._started:
            asyncio.run(self._started.popitem()[1].aclose())


def answers(backend: Backend, requests: list[ChatRequest]) -> list[Completion]:
    found = asyncio.run(backend.complete(requests, asyncio.Event()))
    assert all(completion is not None for completion in found)
    return [completion for completion in found if completion is not None]
