"""Models that run on our own machines: vLLM and transformers behind the port of every model."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from actors.engines import transformers, vllm, vllm_options
from actors.engines.checkpoints import check_adapter, check_model_path, check_parallel, folder_of
from actors.engines.common import sampling_from
from evalservice.errors import EngineUnavailable

HINTS = {"vllm": vllm.HINT, "transformers": transformers.HINT}


def check_options(
    platform: str, engine: Mapping[str, Any], sampling: Mapping[str, Any], trusted: Collection[str] = ()
) -> None:
    """What can be known of an engine's configuration without loading it. Raises InvalidInput.

    trusted: operator's options that models may set here.
    """
    sampling_from(sampling)
    if platform == "vllm":
        vllm_options.check_engine(engine, trusted)
    else:
        transformers.check_engine(engine, trusted)


def check_here(platform: str) -> None:
    """That the engine is installed on this machine. Raises EngineUnavailable, which says how to get it."""
    if importlib.util.find_spec(platform) is None:
        raise EngineUnavailable(f"platform {platform!r} is not installed here: {HINTS[platform]}")


def check_files(platform: str, model_id: str, engine: Mapping[str, Any]) -> None:
    """That a model or adapter given as a folder is one, and that options and adapter fit the model.

    Raises EngineUnavailable, and InvalidInput where it is an option that does not fit.
    """
    config = check_model_path(model_id)
    if config is not None and platform == "vllm":
        check_parallel(engine, config)
    if engine.get("lora"):
        adapter = check_adapter(engine["lora"], model_id)
        if platform == "vllm":
            vllm_options.check_lora_rank(engine, adapter.rank)


def check_files_seen(platform: str, model_id: str, engine: Mapping[str, Any]) -> None:
    """The same of what this machine sees, for workers that may see more: a folder that is not here is passed over."""
    folder = folder_of(model_id)
    if folder is not None and not folder.is_dir():
        return
    seen = {k: v for k, v in engine.items() if k != "lora" or Path(v).expanduser().is_dir()}
    check_files(platform, model_id, seen)
