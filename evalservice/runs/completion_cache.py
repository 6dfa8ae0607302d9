"""Completions that an organization's runs have stored, by the requests that they answer."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from evalservice.errors import InvalidInput
from evalservice.records import CacheUse
from evalservice.storable import dump
from evalservice.tables import CompletionCacheEntry, EvaluationResult, Organization

SETTING = "completion_cache"
"""The organization's setting, and the key in a run's `evaluation_config`."""

CACHED = "cached_test_cases"
"""In the metadata of a run: how many of its completed test cases have only completions that were stored before."""


@dataclass(frozen=True, slots=True)
class Answered:
    """That a request was answered: its key, and in which row, as which of the row's samples."""

    key: bytes
    test_case_index: int
    sample: int


def cache_use(session: Session, organization_id: uuid.UUID, asked: CacheUse | None) -> CacheUse:
    """What a new run does: what was asked, else the organization's setting, else nothing. Raises InvalidInput."""
    if asked is not None:
        return asked
    settings = session.scalar(select(Organization.settings).where(Organization.id == organization_id)) or {}
    found: CacheUse = settings.get(SETTING, "off")
    if found not in get_args(CacheUse):
        raise InvalidInput(f"organization.settings.{SETTING}", found, " or ".join(get_args(CacheUse)))
    return found


def stored_completions(session: Session, keys: Collection[bytes]) -> dict[bytes, tuple[str, str, Any]]:
    """Of these keys those that are known: run id, text and `completion_info` of the completion."""
    entry, row = CompletionCacheEntry, EvaluationResult
    found = session.execute(
        select(entry.key, entry.evaluation_run_id, entry.sample, row.actual_output, row.completion_info)
        .join(
            row,
            tuple_(row.evaluation_run_id, row.test_case_index)
            == tuple_(entry.evaluation_run_id, entry.test_case_index),
        )
        .where(entry.key.in_(keys), row.success)
    )
    return {key: (str(run_id), *_sample(output, info, sample)) for key, run_id, sample, output, info in found}


def _sample(output: Any, info: Any, sample: int) -> tuple[str, Any]:
    texts, infos = (output, info["samples"]) if "samples" in info else ([output], [info])
    text = texts[sample]
    return text if isinstance(text, str) else dump(text), infos[sample]


def remember(session: Session, organization_id: uuid.UUID, run_id: uuid.UUID, answered: Iterable[Answered]) -> None:
    """Note where the completions of these requests are; the first that was noted of a request stays."""
    values = [
        {
            "organization_id": organization_id,
            "evaluation_run_id": run_id,
            "key": each.key,
            "test_case_index": each.test_case_index,
            "sample": each.sample,
        }
        for each in sorted(answered, key=lambda each: each.key)  # in one order, so that two runs cannot deadlock
    ]
    if values:
        session.execute(insert(CompletionCacheEntry).on_conflict_do_nothing(), values)
