"""An organization's evidence and policies as one JSON document, and back: who has it decides the same, bit for bit.

{"format": 1, "version": "9f1c…", "read_at": 1772000000.0, "targets": {"": 0, "category:qa": 1},
 "models": [{"id": "0197…", "name": "gpt", "version": "1.0.0", "platform": "openai", "status": "active",
             "capabilities": ["chat"], "tags": [], "call": {"base_url": "https://…", "config": {…}, …}}, …],
 "quality": [[0.91, null], [0.88, null]], "quality_sd": …, "quality_n": …, "cost": [0.0004, 0.01], …,
 "breakers": ["closed", "open"],
 "policies": {"versions": {"cheap@2": {"algorithm": "weighted", …}},
              "named": {"cheap": {"active": "cheap@2", "trial": null, "share": 0.0, "shadows": []}},
              "defaults": {"": "cheap"}}}

Arrays are those of `Snapshot`; null: not known. A float is written in the fewest digits that give it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel

from evalservice.errors import InvalidInput
from evalservice.selection.deciding import PolicyVersion
from evalservice.selection.policies_in_use import Named, Policies
from evalservice.selection.snapshot import Array, ModelCard, Snapshot

FORMAT = 1
ARRAYS = (
    "quality",
    "quality_sd",
    "quality_n",
    "cost",
    "cost_per_1k",
    "latency",
    "error_rate",
    "outcomes",
    "newest",
)
_BY_TARGET = ("quality", "quality_sd", "quality_n")

Number = float | str | None
"""null: not known; "Infinity" and "-Infinity", which JSON has no number for."""


class ModelEvidence(BaseModel):
    """What a model declares, and `call`: what its caller needs to reach it."""

    id: str
    name: str
    version: str
    platform: str
    status: str
    capabilities: list[str]
    tags: list[str]
    call: dict[str, Any]


class PolicyInUse(BaseModel):
    """The versions of a name that decide, as NAME@VERSION; trial: serves `share` of the requests."""

    active: str | None
    trial: str | None
    share: float
    shadows: list[str]


class PoliciesInUse(BaseModel):
    """versions: NAME@VERSION → its algorithm, parameters, exploration and budget; defaults: use case → name."""

    versions: dict[str, dict[str, Any]]
    named: dict[str, PolicyInUse]
    defaults: dict[str, str]


class SnapshotDocument(BaseModel):
    """Everything that decisions are made from. Arrays are over the models, in their order; `quality`, `quality_sd` and
    `quality_n` have a row for each target, `latency` one for each of p50, p95, p99 in milliseconds."""

    format: int
    version: str
    read_at: float
    models: list[ModelEvidence]
    targets: dict[str, int]
    quality: list[list[Number]]
    quality_sd: list[list[Number]]
    quality_n: list[list[Number]]
    cost: list[Number]
    cost_per_1k: list[Number]
    latency: list[list[Number]]
    error_rate: list[Number]
    outcomes: list[Number]
    newest: list[Number]
    breakers: list[str]
    policies: PoliciesInUse


def to_json(snapshot: Snapshot, policies: Policies) -> bytes:
    """A `SnapshotDocument`."""
    document = {
        "format": FORMAT,
        "version": snapshot.version,
        "read_at": snapshot.read_at,
        "models": [_model(card) for card in snapshot.models],
        "targets": dict(snapshot.targets),
        **{name: _numbers(getattr(snapshot, name)) for name in ARRAYS},
        "breakers": snapshot.breakers,
        "policies": {
            "versions": {name: asdict(version) for name, version in policies.versions.items()},
            "named": {name: _named(named) for name, named in policies.named.items()},
            "defaults": dict(policies.defaults),
        },
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def from_json(document: bytes) -> tuple[Snapshot, Policies]:
    """What `to_json` was given. Raises InvalidInput (snapshot): it is no such document, or of a later format."""
    try:
        found = orjson.loads(document)
        if found["format"] != FORMAT:
            raise InvalidInput("snapshot.format", found["format"], f"{FORMAT}: update this package to read it")
        return _snapshot(found), _policies(found["policies"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        accepted = f"a document of /v1/selections/snapshot ({type(error).__name__}: {error})"
        raise InvalidInput("snapshot", document[:60].decode(errors="replace"), accepted) from error


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.id,
        "name": card.name,
        "version": card.version,
        "platform": card.platform,
        "status": card.status,
        "capabilities": sorted(card.capabilities),
        "tags": sorted(card.tags),
        "call": orjson.Fragment(card.call),
    }


def _numbers(array: Array) -> Any:
    """NaN becomes null in orjson, and so would what is infinite."""
    if not np.isinf(array).any():
        return np.ascontiguousarray(array)
    return np.where(np.isinf(array), np.where(array > 0, "Infinity", "-Infinity"), array.astype(object)).tolist()


def _reference(version: PolicyVersion | None) -> str | None:
    return None if version is None else f"{version.name}@{version.version}"


def _named(named: Named) -> dict[str, Any]:
    return {
        "active": _reference(named.active),
        "trial": _reference(named.trial),
        "share": named.share,
        "shadows": [_reference(each) for each in named.shadows],
    }


def _snapshot(found: Mapping[str, Any]) -> Snapshot:
    models = tuple(
        ModelCard(
            each["id"],
            each["name"],
            each["version"],
            each["platform"],
            each["status"],
            frozenset(each["capabilities"]),
            frozenset(each["tags"]),
            orjson.dumps(each["call"]),
        )
        for each in found["models"]
    )
    count, targets = len(models), dict(found["targets"])
    rows = max(targets.values()) + 1
    shapes = {"latency": (3, count), **dict.fromkeys(_BY_TARGET, (rows, count))}
    arrays: dict[str, Any] = {
        name: np.array(found[name], np.float64).reshape(shapes.get(name, (count,))) for name in ARRAYS
    }
    return Snapshot(
        version=found["version"],
        read_at=found["read_at"],
        models=models,
        targets=targets,
        breakers=tuple(found["breakers"]),
        **arrays,
    )


def _policies(found: Mapping[str, Any]) -> Policies:
    versions = {name: PolicyVersion(**each) for name, each in found["versions"].items()}
    named = {
        name: Named(
            None if each["active"] is None else versions[each["active"]],
            None if each["trial"] is None else versions[each["trial"]],
            each["share"],
            tuple(versions[shadow] for shadow in each["shadows"]),
        )
        for name, each in found["named"].items()
    }
    return Policies(named, versions, dict(found["defaults"]))
