"""Engines that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engines import BOTH, Engines


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    shared = Engines()
    yield shared
    shared.close()


@pytest.fixture(params=BOTH)
def backend(request: pytest.FixtureRequest, engines: Engines) -> Any:
    """The better checkpoint, once behind each engine."""
    return engines.get(request.param)
