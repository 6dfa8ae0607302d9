"""Which policy decides: the one that the request names, else the default for its use case, else `weighted`.

Beside an active version another one may serve a share of the requests (`canary`, `ab`) or decide along unserved
(`shadow`). The share is drawn with the request's seed, before and apart from the draw of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from evalservice.errors import Conflict, InvalidInput
from evalservice.selection.deciding import PolicyVersion, uniform
from evalservice.selection.policy_parameters import BUILTIN, Weights, algorithm_names, parameters_of
from evalservice.selection.request import SelectionRequest

DEFAULT = "weighted"
_SHARE_STREAM = 0x5EED_5A4E
"""Sets the draw of the version apart from the draw of the model."""


@dataclass(frozen=True, slots=True)
class Named:
    """The versions of one name that are in use. trial: serves `share` of the requests."""

    active: PolicyVersion | None = None
    trial: PolicyVersion | None = None
    share: float = 0.0
    shadows: tuple[PolicyVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class Policies:
    """An organization's policies as decisions need them. versions: "name@2" → version; defaults: use case → name."""

    named: Mapping[str, Named] = field(default_factory=dict)
    versions: Mapping[str, PolicyVersion] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """The version that decides a request, and those that decide along."""

    policy: PolicyVersion
    shadows: tuple[PolicyVersion, ...] = ()


def served(policies: Policies, request: SelectionRequest, seed: int) -> Served:
    """Who decides this request. Raises InvalidInput (policy, weights, parameters), Conflict: no version is in use."""
    asked = request.policy
    if asked is None:
        asked = policies.defaults.get(request.use_case) or policies.defaults.get("") or DEFAULT
    version = policies.versions.get(asked)
    if version is None and asked in policies.named:
        known = policies.named[asked]
        version = known.active
        if known.trial is not None and (version is None or uniform(seed ^ _SHARE_STREAM) < known.share):
            version = known.trial
        if version is None:
            raise Conflict(f"policy: {asked!r} has no version that is active: activate one, or name it as NAME@VERSION")
        _nothing_else(request, asked)
        return Served(version, known.shadows)
    if version is not None:
        _nothing_else(request, asked)
        return Served(version)
    return Served(asked_for(request, asked))


def asked_for(request: SelectionRequest, algorithm: str) -> PolicyVersion:
    """An algorithm by its name, with what the request says of it. Raises InvalidInput."""
    if algorithm not in BUILTIN and algorithm not in algorithm_names():
        accepted = f"a stored policy's name or one of {', '.join(algorithm_names())}"
        raise InvalidInput("policy", algorithm, accepted)
    if not request.parameters:
        return _weighed_by(algorithm, request.weights)
    given = dict(request.parameters)
    if request.weights is not None:
        if "weights" in given:
            raise InvalidInput("parameters.weights", given["weights"], "given once: here or as `weights`")
        given["weights"] = request.weights.model_dump()
    return _of(algorithm, given)


@lru_cache(maxsize=1024)
def _weighed_by(algorithm: str, weights: Weights | None) -> PolicyVersion:
    """Without other parameters: applications ask for the same over and over."""
    return _of(algorithm, {} if weights is None else {"weights": weights.model_dump()})


def _of(algorithm: str, given: Mapping[str, Any]) -> PolicyVersion:
    parameters = parameters_of(algorithm, given)
    return PolicyVersion(algorithm, algorithm, parameters.model_dump(), exploration=parameters.exploration)


def _nothing_else(request: SelectionRequest, name: str) -> None:
    for field_name in ("weights", "parameters"):
        value = getattr(request, field_name)
        if value is not None:
            raise InvalidInput(field_name, value, f"nothing: the stored policy {name!r} has its own")
