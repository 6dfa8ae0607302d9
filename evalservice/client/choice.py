"""What a router answers: the model to call, those to fall back to, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalservice.errors import ServiceUnreachable


@dataclass(frozen=True, slots=True)
class ModelToCall:
    """How to reach a model. `platform_model_id` is what its provider calls it; the caller has the key."""

    model_id: str
    name: str
    version: str
    display_name: str
    platform: str
    platform_model_id: str
    base_url: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision.

    fallbacks: in their order, at most five. score: None where the policy gives none. propensity: the probability with
    which it was chosen, in (0, 1]. policy: NAME@VERSION, or the algorithm that was asked for. evidence: where its
    quality was taken from. candidates: each model with its estimates and probability, or the constraint that it breaks.
    warnings: what the caller should know, e.g. how old the evidence is. local: decided in this process.
    """

    id: str
    selected: ModelToCall
    fallbacks: tuple[ModelToCall, ...]
    score: float | None
    propensity: float
    explanation: str
    policy: str
    evidence: str
    seed: int
    warnings: tuple[str, ...]
    candidates: tuple[Mapping[str, Any], ...]
    local: bool = False


def choice_of(document: Any, *, local: bool = False) -> Choice:
    """From what `POST /v1/selections` answers. Raises ServiceUnreachable: something else has answered."""
    try:
        policy = document["policy"]
        version = policy["version"]
        return Choice(
            id=document["id"],
            selected=_model(document["selected"]),
            fallbacks=tuple(map(_model, document["fallbacks"])),
            score=document["score"],
            propensity=document["propensity"],
            explanation=document["explanation"],
            policy=policy["name"] if version is None else f"{policy['name']}@{version}",
            evidence=document["evidence"],
            seed=document["seed"],
            warnings=tuple(document["warnings"]),
            candidates=tuple(document["candidates"]),
            local=local,
        )
    except (KeyError, TypeError) as error:
        raise ServiceUnreachable(f"the answer is no selection of evalservice ({error!r})") from None


def _model(call: Mapping[str, Any]) -> ModelToCall:
    return ModelToCall(
        call["model_id"],
        call["name"],
        call["version"],
        call["display_name"],
        call["platform"],
        call["platform_model_id"],
        call["base_url"],
        call["config"],
    )
