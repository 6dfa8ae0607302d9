"""Models that run on our own machines: vLLM and transformers behind the port of every model."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from actors.engines import transformers, vllm
from actors.engines.common import check_model_path, sampling_from
from evalservice.errors import EngineUnavailable

HINTS = {"vllm": vllm.HINT, "transformers": transformers.HINT}


def check_options(platform: str, engine: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """What can be known of an engine's configuration without loading it. Raises InvalidInput."""
    sampling_from(sampling)
    if platform == "vllm":
        vllm.gpus_needed(engine)
    else:
        transformers.check_engine(engine)


def check_here(platform: str, model_id: str) -> None:
    """That the engine is installed on this machine, and that a model given as a folder is there.

    Raises EngineUnavailable, which says how to get the engine.
    """
    if importlib.util.find_spec(platform) is None:
        raise EngineUnavailable(f"platform {platform!r} is not installed here: {HINTS[platform]}")
    check_model_path(model_id)
