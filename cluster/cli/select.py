"""`evalservice select`: which model for this request, why, and what every other one lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cluster.cli.common import Json, json_object, service
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import InvalidInput, NothingEligible

CANDIDATE_HEADER = ["", "MODEL", "SCORE", "PROBABILITY", "QUALITY", "COST", "LATENCY P95", "ERRORS", "OUT BECAUSE"]
_LISTS = ("platforms", "tags", "models", "exclude", "statuses")


def select(
    capability: Annotated[
        list[str] | None, typer.Option("--capability", metavar="C", help="What the model must declare; repeatable.")
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            metavar="K=V",
            help="A hard limit; repeatable: max_cost=0.002 max_p95_latency_ms=800 max_error_rate=0.05 min_quality=0.8 "
            "min_quality.benchmark=gsm8k min_quality.confidence=0.9 platforms=openai,vllm exclude=mini …",
        ),
    ] = None,
    use_case: Annotated[str, typer.Option("--use-case", metavar="U", help="What it is for, e.g. qa.")] = "",
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="P", help="A stored policy (NAME or NAME@VERSION) or an algorithm's name."),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="K=V", help="quality, cost, latency or reliability, for weighted and pareto."),
    ] = None,
    parameters: Annotated[
        str | None, typer.Option("--parameters", metavar="JSON", help="The algorithm's, where --policy names one.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="T", help="The request's text, for `nearest`.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of the draw; default: a random one.")] = None,
    json: Json = False,
) -> int:
    """Which model for this request? Hard constraints first, then the policy; every decision is logged.

    Exit code 1 when nothing is eligible: what relaxing each constraint would give is shown then.
    """
    body: dict[str, Any] = {"required_capabilities": capability or [], "use_case": use_case, "durable": True}
    if constraint:
        body["constraints"] = constraints_of(constraint)
    if weight:
        body["weights"] = {name: _number("weight", value) for name, value in _pairs("weight", weight)}
    if parameters is not None:
        body["parameters"] = json_object("parameters", parameters)
    for name, value in (("policy", policy), ("text", text), ("seed", seed)):
        if value is not None:
            body[name] = value
    with service() as opened:
        try:
            answer = opened.client.post(path_of("selections"), body)
        except NothingEligible as nothing:
            if json:
                print_json({"selected": None, "selection_id": nothing.selection_id, **nothing.problem()})
            else:
                note(f"error: {nothing.message}")
                show_relaxations(nothing)
            return 1
    if json:
        print_json(answer)
    else:
        show(answer)
    return 0


def constraints_of(given: Sequence[str]) -> dict[str, Any]:
    """`K=V` pairs as the API takes them; a dot goes into an object, commas separate a list. Raises InvalidInput."""
    constraints: dict[str, Any] = {}
    for name, value in _pairs("constraint", given):
        inside, _, last = name.rpartition(".")
        if name == "min_quality":
            inside, last = "min_quality", "value"
        target = constraints.setdefault(inside, {}) if inside else constraints
        if last in _LISTS:
            target[last] = [part for part in (each.strip() for each in value.split(",")) if part]
        elif last in ("benchmark", "category"):
            target[last] = value
        else:
            target[last] = _number(name, value)
    return constraints


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise InvalidInput(option, each, "NAME=VALUE, e.g. max_cost=0.002")
        pairs.append((name.strip(), value.strip()))
    return pairs


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidInput(name, value, "a number") from None


def show(answer: dict[str, Any]) -> None:
    """A decision as a table of candidates, and its sentence."""
    print_table(
        CANDIDATE_HEADER,
        [candidate_row(each, answer["selected"]["model_id"]) for each in answer["candidates"]],
        title=f"{answer['policy']['name']}: {answer['evidence']}",
    )
    say(answer["explanation"])
    for warning in answer["warnings"]:
        note(f"warning: {warning}")
    say(f"selection {answer['id']} (seed {answer['seed']}, evidence {answer['snapshot']['age_seconds']:.1f} s old)")


def candidate_row(each: dict[str, Any], selected: str) -> list[Any]:
    """A candidate under `CANDIDATE_HEADER`; `selected` is marked."""
    if "rejected" in each:
        rejected = each["rejected"]
        why = f"{rejected['constraint']}: {_short(rejected['value'])}, limit {_short(rejected['limit'])}"
        return ["", each["name"], "", "", "", "", "", "", why]
    quality = "no evidence" if each["quality"] is None else f"{each['quality']:.3f} ± {each['quality_sd']:.3f}"
    return [
        "→" if each["model_id"] == selected else "",
        each["name"],
        _figure(each["score"], "{:.3f}"),
        f"{each['probability']:.3f}",
        quality,
        _figure(each["cost"], "${:.3g}"),
        _figure(each["latency_ms"], "{:.0f} ms"),
        _figure(each["error_rate"], "{:.1%}"),
        "",
    ]


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(each)}" for name, each in value.items())
    return str(value)


def show_relaxations(nothing: NothingEligible) -> None:
    """What leaving out or moving each constraint would let in."""
    print_table(
        ["CONSTRAINT", "LIMIT", "REJECTS", "ALONE", "LETS IN AT", "MODELS"],
        [
            [
                each["constraint"],
                _short(each["limit"]),
                each.get("rejected", ""),
                each.get("eligible_without", ""),
                "" if each.get("eligible_at") is None else _short(float(each["eligible_at"])),
                ", ".join(each.get("models", [])),
            ]
            for each in nothing.relaxations
        ],
        title="what relaxing a constraint would give",
    )
