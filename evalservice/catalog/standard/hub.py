"""A data set from the Hugging Face Hub, by the `datasets` library, as a folder of Parquet files.

The files are named as the Hub names its own (`test-00000-of-00001.parquet`), so that a download is read as a local copy
of the same layout is. What cannot be had is told at once: no library, no network within 10 s, no such data set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import httpx

from evalservice.catalog.standard.definition import StandardBenchmark
from evalservice.errors import InvalidInput, ServiceUnreachable

SECONDS: Final = 10.0
"""For a connection and for each piece of an answer."""


def download(definition: StandardBenchmark, folder: Path) -> str:
    """Fetch the splits that a definition needs into the folder; gives the revision that was asked for.

    Raises `InvalidInput` (the library is missing), `ServiceUnreachable`: both say what to fetch by hand.
    """
    source = definition.source
    if source.host != "huggingface":
        raise InvalidInput("--from", None, f"a copy of {source.address}: this data set is not on the Hugging Face Hub")
    for variable in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ.setdefault(variable, str(int(SECONDS)))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
        from huggingface_hub import constants
    except ImportError:
        raise InvalidInput(
            "--from",
            None,
            f"a copy of {source.address} (fetch it, then --from FILE_OR_FOLDER); or, with a network, "
            "pip install 'evalservice[datasets]'",
        ) from None
    _refuse_without_network(f"{constants.ENDPOINT}/datasets/{source.repository}", definition)
    datasets.disable_progress_bars()
    splits = [source.split, *([definition.few_shot.split] if definition.few_shot is not None else [])]
    where = folder / (source.config or "data")
    where.mkdir(parents=True, exist_ok=True)
    for split in splits:
        try:
            loaded: Any = datasets.load_dataset(
                source.repository, source.config, split=split, revision=source.revision, cache_dir=str(folder / "cache")
            )
            loaded.to_parquet(str(where / f"{split}-00000-of-00001.parquet"))
        except Exception as error:  # the library raises what its many parts raise
            raise _unreachable(definition, error) from error
    return source.revision


def _refuse_without_network(url: str, definition: StandardBenchmark) -> None:
    try:
        httpx.head(url, timeout=SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        raise _unreachable(definition, error) from error


def _unreachable(definition: StandardBenchmark, error: Exception) -> ServiceUnreachable:
    reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return ServiceUnreachable(
        f"{definition.source.repository} cannot be downloaded: {reason}. Fetch {definition.source.address} elsewhere "
        f"and install it with --from FILE_OR_FOLDER"
    )
