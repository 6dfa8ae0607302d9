"""Evidence that travels as JSON decides as it did at home, bit for bit."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evalservice.errors import InvalidInput, NothingEligible
from evalservice.selection.answers import candidates_json
from evalservice.selection.deciding import PolicyVersion, decide
from evalservice.selection.explaining import explanation
from evalservice.selection.nothing import why_nothing
from evalservice.selection.policies_in_use import Named, Policies, served
from evalservice.selection.request import SelectionRequest
from evalservice.selection.snapshot import ModelCard, Snapshot
from evalservice.selection.snapshot_json import ARRAYS, from_json, to_json

NAMES = st.sampled_from(["a", "b", "ä b"])
SHARES = st.floats(0, 1) | st.just(np.nan)
ANY = st.floats(allow_nan=True, allow_infinity=True)
POSITIVE = st.floats(1e-9, 1e6) | st.just(np.nan)
NOW = 1_772_000_000.0


@st.composite
def snapshots(draw: st.DrawFn, numbers: st.SearchStrategy[float] | None = None) -> Snapshot:
    """Any; with `numbers` every array holds those."""
    count = draw(st.integers(0, 6))
    rows = draw(st.integers(1, 4))
    names = ["", "category:qa", "benchmark:gsm8k", "use_case:support"][:rows]

    def of(kind: st.SearchStrategy[float], *shape: int) -> Any:
        return draw(arrays(np.float64, shape, elements=kind if numbers is None else numbers))

    models = []
    for index in range(count):
        call = {"model_id": str(index), "config": {"temperature": draw(st.floats(allow_nan=False))}}
        models.append(
            ModelCard(
                f"id-{index}",
                f"m{index}",
                "1",
                draw(NAMES),
                draw(st.sampled_from(["active", "experimental"])),
                draw(st.frozensets(NAMES)),
                draw(st.frozensets(NAMES)),
                orjson.dumps(call),
            )
        )
    return Snapshot(
        version="v",
        read_at=NOW - draw(st.floats(0, 100)),
        models=tuple(models),
        targets={**{name: row for row, name in enumerate(names)}, "benchmark:by-id": rows - 1},
        quality=of(SHARES, rows, count),
        quality_sd=of(SHARES, rows, count),
        quality_n=of(POSITIVE, rows, count),
        cost=of(POSITIVE, count),
        cost_per_1k=of(POSITIVE, count),
        latency=of(POSITIVE, 3, count),
        error_rate=of(SHARES, count),
        outcomes=of(st.floats(0, 1000), count),
        newest=of(st.floats(0, NOW) | st.just(np.nan), count),
        breakers=tuple(draw(st.sampled_from(["closed", "open", "half-open"])) for _ in range(count)),
    )


VERSIONS = (
    PolicyVersion("p", "weighted", {"weights": {"quality": 1.0, "cost": 0.5}}, "i1", 1, 0.05),
    PolicyVersion("p", "thompson", {"cost_weight": 0.3, "draws": 64}, "i2", 2, 0.0, {"mean_cost_usd": 0.1}),
    PolicyVersion("p", "cheapest_above_quality", {"min_quality": 0.4, "confidence": 0.9}, "i3", 3),
)
POLICIES = Policies(
    {"p": Named(VERSIONS[0], VERSIONS[1], 1 / 3, (VERSIONS[2],)), "draft": Named()},
    {f"p@{version.version}": version for version in VERSIONS},
    {"qa": "p"},
)


@st.composite
def requests(draw: st.DrawFn) -> SelectionRequest:
    numbers = {
        "max_cost": draw(st.none() | st.floats(1e-6, 1e6)),
        "max_error_rate": draw(st.none() | st.floats(0, 1)),
        "max_evidence_age_seconds": draw(st.none() | st.floats(1, NOW)),
        "min_quality": draw(st.none() | st.just({"value": 0.3, "category": "qa"})),
        "platforms": draw(st.none() | st.lists(NAMES)),
    }
    constraints = {name: value for name, value in numbers.items() if value is not None}
    algorithms = ["weighted", "pareto", "thompson", "nearest", "p", "p@3", None]
    return SelectionRequest.model_validate(
        {
            "required_capabilities": draw(st.just([]) | st.lists(NAMES)),
            "constraints": constraints,
            "use_case": draw(st.sampled_from(["", "qa", "gsm8k", "support"])),
            "policy": draw(st.sampled_from(algorithms)),
        }
    )


def decided(snapshot: Snapshot, policies: Policies, request: SelectionRequest, seed: int) -> Any:
    """Everything that can be seen of a decision, as bytes."""
    chosen = served(policies, request, seed)
    seen: list[Any] = []
    for version in (chosen.policy, *chosen.shadows):
        decision = decide(snapshot, request, version, seed=seed, now=NOW, price=0.1)
        words = explanation(decision)
        seen += [version, decision.model, decision.propensity, decision.score, words, candidates_json(decision)]
        if decision.chosen is None:
            nothing: NothingEligible = why_nothing(decision, "id", words)
            seen.append(orjson.dumps(nothing.problem()))
    return seen


@given(snapshots(), requests(), st.integers(0, 2**63 - 1))
@settings(deadline=None, max_examples=50)
def test_evidence_that_was_sent_decides_as_it_did_before(
    snapshot: Snapshot, request: SelectionRequest, seed: int
) -> None:
    back, policies = from_json(to_json(snapshot, POLICIES))
    assert policies == POLICIES
    assert decided(back, policies, request, seed) == decided(snapshot, POLICIES, request, seed)


@given(snapshots(ANY))
def test_every_field_comes_back_as_it_was(snapshot: Snapshot) -> None:
    back, _ = from_json(to_json(snapshot, POLICIES))
    for field in fields(Snapshot):
        before, after = getattr(snapshot, field.name), getattr(back, field.name)
        if isinstance(before, np.ndarray):
            known = ~np.isnan(before) if before.dtype.kind == "f" else np.ones(before.shape, bool)
            assert before.shape == after.shape
            assert before.dtype == after.dtype
            assert (~np.isnan(after) == known).all() if before.dtype.kind == "f" else True
            assert before[known].tobytes() == after[known].tobytes(), field.name
        else:
            assert before == after


@pytest.mark.parametrize(
    "document", [b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "models": [], "targets": {}, "policies": {}}']
)
def test_what_is_no_evidence_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidInput, match="snapshot"):
        from_json(document)


def test_the_arrays_of_the_document_are_those_of_a_snapshot() -> None:
    kinds = {field.name: str(field.type) for field in fields(Snapshot) if field.init}
    assert {name for name, kind in kinds.items() if kind == "Array"} == set(ARRAYS)
