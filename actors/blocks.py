"""The two tables that flow between the stages of a run. One row a test case, in and out, at every stage.

A generated block (`GENERATED`), e.g.

    test_case_index=17  test_case_id="q-17"  case='{"input":"17+25?","choices":null,…}'
    input_data='{"messages":[{"role":"user","content":"17+25?"}]}'  expected_output='"42"'  texts=["17 + 25 = 42"]
    success=true  latency_ms=212.4  input_tokens=9  output_tokens=8  cost="0.0000525"  executed_at=…

and the scored block (`SCORED`), whose columns are those of the table `evaluation_results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
from uuid_utils import uuid7

from evalservice.catalog.content import without_image_data
from evalservice.records import JSON, Completion, ItemError, TestCase
from evalservice.storable import dump, storable_text

_COMMON = [
    ("test_case_index", pa.int64()),
    ("test_case_id", pa.string()),
    ("cluster", pa.string()),
    ("input_data", pa.string()),
    ("expected_output", pa.string()),
    ("success", pa.bool_()),
    ("error_message", pa.string()),
    ("error_kind", pa.string()),
    ("is_retryable", pa.bool_()),
    ("latency_ms", pa.float64()),
    ("tokens_used", pa.int64()),
    ("input_tokens", pa.int64()),
    ("output_tokens", pa.int64()),
    ("cost", pa.string()),
    ("completion_info", pa.string()),
    ("executed_at", pa.timestamp("us", tz="UTC")),
    ("cache_keys", pa.list_(pa.binary())),
]
GENERATED = pa.schema([*_COMMON, ("case", pa.string()), ("texts", pa.list_(pa.string()))])
TO_SCORE = (
    "test_case_index", "test_case_id", "cluster", "expected_output", "success", "error_message", "error_kind",
    "is_retryable", "case", "texts",
)  # fmt: skip
"""What of a generated block the scorers look at."""
_TOLD = ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "logprobs")
"""What `completion_info` says of a completion where its provider does."""
SCORED = pa.schema(
    [
        ("id", pa.string()),
        *_COMMON,
        ("actual_output", pa.string()),
        ("metrics", pa.string()),
        ("score_details", pa.string()),
    ]
)


def generated_row(
    case: TestCase,
    messages: Sequence[Any] | None,
    completions: Sequence[Completion],
    cache_keys: Sequence[bytes | None] | None = None,
) -> dict[str, Any]:
    """The row of a test case and its completions, one for each epoch; the first error among them is the item's.

    cache_keys: under which each completion may be used again.
    """
    error = next((completion.error for completion in completions if completion.error is not None), None)
    return {
        **_identity(case),
        "input_data": dump(_asked(case, messages)),
        **_outcome(error),
        "latency_ms": _mean([c.latency_ms for c in completions if c.latency_ms is not None and c.error is None]),
        **_tokens(completions),
        "cost": _total_cost(completions),
        "completion_info": dump(_info(completions)),
        "executed_at": max((c.executed_at for c in completions if c.executed_at is not None), default=None),
        "texts": [storable_text(completion.text) for completion in completions],
        "cache_keys": cache_keys,
    }


def failed_row(case: TestCase, error: ItemError) -> dict[str, Any]:
    """The row of a test case that never reached the model."""
    return generated_row(case, None, [Completion(error=error)])


def _asked(case: TestCase, messages: Sequence[Any] | None) -> JSON:
    """The messages; of a test case that was never asked, its input."""
    if messages is not None:
        return {"messages": without_image_data(messages)}
    if isinstance(case.input, Mapping) and isinstance(case.input.get("messages"), list):
        return {**case.input, "messages": without_image_data(case.input["messages"])}
    return case.input


def _identity(case: TestCase) -> dict[str, Any]:
    return {
        "test_case_index": case.index,
        "test_case_id": case.id,
        "cluster": case.cluster,
        "expected_output": None if case.expected_output is None else dump(case.expected_output),
        "case": case_json(case),
    }


def case_json(case: TestCase) -> str:
    """What of a test case scorers may look at and no other column holds."""
    return orjson.dumps({"input": case.input, "choices": case.choices, "metadata": dict(case.metadata)}).decode()


def case_of(row: dict[str, Any]) -> TestCase:
    """The test case of a generated row."""
    case = orjson.loads(row["case"])
    return TestCase(
        index=row["test_case_index"],
        id=row["test_case_id"],
        input=case["input"],
        expected_output=None if row["expected_output"] is None else orjson.loads(row["expected_output"]),
        choices=None if case["choices"] is None else tuple(case["choices"]),
        cluster=row["cluster"],
        metadata=case["metadata"],
    )


def _outcome(error: ItemError | None) -> dict[str, Any]:
    if error is None:
        return {"success": True, "error_message": "", "error_kind": "", "is_retryable": False}
    return {
        "success": False,
        "error_message": storable_text(error.message),
        "error_kind": error.kind,
        "is_retryable": error.retryable,
    }


def _tokens(completions: Sequence[Completion]) -> dict[str, int | None]:
    inputs, outputs = _total([c.input_tokens for c in completions]), _total([c.output_tokens for c in completions])
    used = None if inputs is None and outputs is None else (inputs or 0) + (outputs or 0)
    return {"input_tokens": inputs, "output_tokens": outputs, "tokens_used": used}


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _total_cost(completions: Sequence[Completion]) -> str | None:
    costs = [completion.cost for completion in completions if completion.cost is not None]
    return format(sum(costs, Decimal(0)), "f") if costs else None


def _info(completions: Sequence[Completion]) -> JSON:
    infos = [
        {
            "finish_reason": completion.finish_reason,
            "model": completion.model,
            "system_fingerprint": completion.system_fingerprint,
            "attempts": completion.attempts,
            **{name: value for name in _TOLD if (value := getattr(completion, name)) is not None},
            **({"refused": True} if completion.refused else {}),
            **({"log_likelihoods": list(completion.log_likelihoods)} if completion.log_likelihoods is not None else {}),
            **({"cached_from": completion.cached_from} if completion.cached_from is not None else {}),
            **({"error": _error(completion.error)} if completion.error is not None else {}),
        }
        for completion in completions
    ]
    if len(infos) == 1:
        return infos[0]
    cached = {completion.cached_from for completion in completions}
    return {"samples": infos, **({} if None in cached else {"cached_from": min(cached, key=str)})}


def _error(error: ItemError) -> JSON:
    return {name: value for name, value in asdict(error).items() if name != "retry_after" or value is not None}


def generated_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of `generated_row` as a table."""
    return pa.Table.from_pylist(list(rows), schema=GENERATED)


def scored_table(
    generated: pa.Table, actual: Sequence[str], metrics: Sequence[str], details: Sequence[str]
) -> pa.Table:
    """A generated block with its scores (JSON texts, one a row) and a new id for each row."""
    columns = {
        "id": pa.array([str(uuid7()) for _ in actual]),
        "actual_output": pa.array(actual, pa.string()),
        "metrics": pa.array(metrics, pa.string()),
        "score_details": pa.array(details, pa.string()),
    }
    return pa.table(
        [columns[field.name] if field.name in columns else generated.column(field.name) for field in SCORED],
        schema=SCORED,
    )
