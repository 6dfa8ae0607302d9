"""Embedders by name: texts to unit vectors, so that requests find evaluated test cases like them.

    embedder = fit_embedder("hashed", ["What is 2 + 2?", "Name a prime."])
    embedder.embed(["What is 3 + 3?"]).shape  -> (1, 128)

Another package adds an embedder in its `pyproject.toml`:

    [project.entry-points."evalservice.embedders"]
    minilm = "actors.embedders.minilm:MiniLM"

It is loaded when it is asked for, never before, and cannot take a built-in name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from evalservice.errors import EvalserviceError, InvalidInput

GROUP = "evalservice.embedders"
DEFAULT = "hashed"
BUILT_IN: Mapping[str, str] = {"hashed": "evalservice.selection.hashed:Hashed"}

Vectors = npt.NDArray[np.float32]


@runtime_checkable
class Embedder(Protocol):
    """What an entry point names: a class whose instances can be pickled and used by several threads at once."""

    name: str

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Self:
        """One that knows the texts of the evaluated test cases, if it has anything to learn from them."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Float32 of shape (n, d), every row of length 1; d does not depend on the texts."""
        ...


def embedder_names() -> list[str]:
    """Every name that `fit_embedder` knows, built-in first; plug-ins are not loaded for it."""
    return [*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILT_IN))]


def fit_embedder(name: str, texts: Sequence[str]) -> Embedder:
    """An embedder for requests like these texts. Raises InvalidInput for a name that is unknown or does not load."""
    return embedder_class(name).fit(texts)


def embedder_class(name: str, field: str = "embedder") -> type[Embedder]:
    """The class behind a name. Raises InvalidInput for an unknown name or a plug-in that does not load."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return cast("type[Embedder]", getattr(import_module(module), attribute))
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise InvalidInput(field, name, f"one of: {', '.join(embedder_names())}")
    if len({point.value for point in points}) > 1:
        raise InvalidInput(field, name, f"it is claimed by several plug-ins: {', '.join(map(_origin, points))}")
    return _plugin(points[0], field)


def _plugin(point: EntryPoint, field: str) -> type[Embedder]:
    try:
        kind: Any = point.load()
    except EvalserviceError:
        raise
    except Exception as error:
        accepted = f"the plug-in {_origin(point)} does not load: {type(error).__name__}: {error}"
        raise InvalidInput(field, point.name, accepted) from error
    missing = [each for each in ("fit", "embed") if not callable(getattr(kind, each, None))]
    if missing:
        raise InvalidInput(field, point.name, f"the plug-in {_origin(point)} has no {', '.join(missing)}")
    if (own := getattr(kind, "name", None)) != point.name:
        raise InvalidInput(field, point.name, f"the plug-in {_origin(point)} calls itself {own!r}")
    return cast("type[Embedder]", kind)


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "unknown package"
    return f"{point.value} of {package}"
