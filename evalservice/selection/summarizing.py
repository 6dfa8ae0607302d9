"""What the log of decisions says as a whole: who is chosen, what constraints reject, what was got, given up and saved.

One statement over the latest decisions of a window, `most` of them at most, because each has to be taken apart: 100,000
decisions of 20 candidates are 2 million JSON objects. Decisions that served and shadows are never added together.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from evalservice.errors import InvalidInput
from evalservice.selection.schemas import (
    DecisionsSummary,
    ModelOutcomes,
    ModelShare,
    Regret,
    Rejections,
    Savings,
    SelectionSummary,
    Statistic,
)
from evalservice.statistics.intervals import Interval, Moments, proportion_interval
from evalservice.tables import Model

DEFAULT_WINDOW = timedelta(days=7)
_EARLIEST = datetime.min.replace(tzinfo=UTC) + 2 * DEFAULT_WINDOW
SECONDS = 60
"""So long Postgres may take for it."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which decisions: the latest `most` of those stored in [since, until). use_case, policy_name: None for all."""

    since: datetime
    until: datetime
    use_case: str | None = None
    policy_name: str | None = None
    most: int = 20_000


def window_of(
    since: datetime | None,
    until: datetime | None,
    now: datetime,
    use_case: str | None,
    policy_name: str | None,
    most: int,
) -> Window:
    """The last seven days unless something else is asked for. Raises InvalidInput: an empty time."""
    end = until or now
    start = since or max(end, _EARLIEST) - DEFAULT_WINDOW
    if start >= end:
        raise InvalidInput("since", start.isoformat(), f"a moment before until ({end.isoformat()})")
    return Window(start, end, use_case, policy_name, most)


def summary_of(session: Session, window: Window) -> SelectionSummary:
    """The summary of the transaction's organization.

    The estimates are the ones that are logged with the decisions, not those of today. Raises InvalidInput: Postgres
    takes longer than `SECONDS`.
    """
    given: dict[str, Any] = {"since": window.since, "until": window.until, "most": window.most}
    conditions = ""
    for name in ("use_case", "policy_name"):
        if getattr(window, name) is not None:
            given[name] = getattr(window, name)
            conditions += f" AND {name} = :{name}"
    session.execute(text(f"SET LOCAL statement_timeout = '{SECONDS}s'"))
    try:
        found = session.execute(text(_SUMMARY.replace("/*conditions*/", conditions)), given).one()
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.QueryCanceled):
            accepted = f"fewer decisions or a shorter time: these take more than {SECONDS} s to look at"
            raise InvalidInput("limit", window.most, accepted) from None
        raise
    session.execute(text("SET LOCAL statement_timeout TO DEFAULT"))
    rows = found.models or []
    names = _names(session, {each["model_id"] for each in (*rows, *(found.outcomes or [])) if each["model_id"]})
    parts = {
        shadow: _part(
            [each for each in rows if each["is_shadow"] is shadow],
            [each for each in found.rejections or [] if each["is_shadow"] is shadow],
            [] if shadow else found.outcomes or [],
            next((each for each in found.regret or [] if each["is_shadow"] is shadow), {}),
            names,
        )
        for shadow in (False, True)
    }
    complete = found.looked_at <= window.most
    return SelectionSummary(
        since=window.since,
        until=window.until,
        use_case=window.use_case,
        policy_name=window.policy_name,
        limit=window.most,
        complete=complete,
        looked_at_since=window.since if complete else found.oldest,
        served=parts[False],
        shadows=parts[True],
    )


# The latest decisions; of each its best eligible candidate and its chosen one as [quality, cost, sd of quality], of
# equally good ones the cheapest (`best` has its cost negated for that); then four small tables of them as JSON.
_SUMMARY = """
WITH latest AS MATERIALIZED (
    SELECT id, organization_id, created_at, is_shadow, selected_model_id, candidate_models
    FROM model_selection_logs
    WHERE created_at >= :since AND created_at < :until/*conditions*/
    ORDER BY created_at DESC LIMIT :most + 1
), decided AS MATERIALIZED (
    SELECT log.id, log.created_at, log.is_shadow, log.selected_model_id, seen.*,
           outcome.success, outcome.quality AS got, outcome.cost AS paid, outcome.latency_ms,
           coalesce(outcome.served_model_id, log.selected_model_id) AS served_model_id
    FROM (SELECT * FROM latest ORDER BY created_at DESC LIMIT :most) AS log
    CROSS JOIN LATERAL (
        SELECT max(ARRAY[quality, -cost, quality_sd]) FILTER (WHERE quality IS NOT NULL AND rejected IS NULL) AS best,
               max(ARRAY[quality, cost, quality_sd]) FILTER (WHERE model_id = log.selected_model_id::text) AS own,
               array_agg(rejected ->> 'constraint') FILTER (WHERE rejected IS NOT NULL) AS constraints
        FROM jsonb_to_recordset(
            CASE jsonb_typeof(log.candidate_models) WHEN 'array' THEN log.candidate_models ELSE '[]' END
        ) AS candidate(model_id text, quality float8, quality_sd float8, cost float8, rejected jsonb)
    ) AS seen
    LEFT JOIN selection_outcomes AS outcome
        ON outcome.organization_id = log.organization_id AND outcome.selection_id = log.id AND NOT log.is_shadow
), models AS (
    SELECT is_shadow, selected_model_id AS model_id, count(*) AS decisions FROM decided GROUP BY 1, 2
), rejected AS (
    SELECT is_shadow, name, count(*) AS candidates FROM decided CROSS JOIN unnest(constraints) AS name GROUP BY id, 1, 2
), rejections AS (
    SELECT is_shadow, name AS constraint_name, sum(candidates) AS candidates, count(*) AS decisions
    FROM rejected GROUP BY 1, 2
), outcomes AS (
    SELECT served_model_id AS model_id, count(success) AS n, count(*) FILTER (WHERE success) AS succeeded,
           count(got) AS quality_n, sum(got) AS quality, sum(got * got) AS quality_squares,
           count(paid) AS cost_n, sum(paid)::float8 AS cost, sum(paid::float8 * paid::float8) AS cost_squares,
           count(latency_ms) AS latency_n, sum(latency_ms) AS latency, sum(latency_ms * latency_ms) AS latency_squares
    FROM decided
    WHERE num_nonnulls(success, got, paid, latency_ms) > 0 AND served_model_id IS NOT NULL GROUP BY 1
), regret AS (
    SELECT is_shadow,
           count(best[1] - own[1]) AS n, avg(best[1] - own[1]) AS mean,
           avg(CASE WHEN best[1] > own[1] THEN sqrt(best[3] * best[3] + own[3] * own[3]) ELSE 0 END)
               FILTER (WHERE own[1] IS NOT NULL) AS deviation,
           count(best[1] - got) FILTER (WHERE served_model_id = selected_model_id) AS realised_n,
           sum(best[1] - got) FILTER (WHERE served_model_id = selected_model_id) AS realised,
           sum((best[1] - got) ^ 2) FILTER (WHERE served_model_id = selected_model_id) AS realised_squares,
           avg(best[3]) FILTER (WHERE served_model_id = selected_model_id AND got IS NOT NULL) AS best_deviation,
           count(best[2] + own[2]) AS savings_n, sum(-best[2] - own[2]) AS saved,
           avg(best[1] - own[1]) FILTER (WHERE best[2] + own[2] IS NOT NULL) AS given_up
    FROM decided WHERE selected_model_id IS NOT NULL GROUP BY 1
)
SELECT (SELECT count(*) FROM latest) AS looked_at, (SELECT min(created_at) FROM decided) AS oldest,
       (SELECT jsonb_agg(to_jsonb(models) ORDER BY decisions DESC, model_id) FROM models) AS models,
       (SELECT jsonb_agg(to_jsonb(rejections) ORDER BY candidates DESC, constraint_name) FROM rejections) AS rejections,
       (SELECT jsonb_agg(to_jsonb(outcomes) ORDER BY n DESC, model_id) FROM outcomes) AS outcomes,
       (SELECT jsonb_agg(to_jsonb(regret)) FROM regret) AS regret
"""


def _names(session: Session, model_ids: set[str]) -> dict[str, str]:
    query = select(Model.id, Model.name, Model.version).where(Model.id.in_([uuid.UUID(own) for own in model_ids]))
    return {str(row.id): f"{row.name}@{row.version}" for row in session.execute(query)}


def _part(
    models: Sequence[Mapping[str, Any]],
    rejections: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Mapping[str, Any]],
    regret: Mapping[str, Any],
    names: Mapping[str, str],
) -> DecisionsSummary:
    decisions = sum(each["decisions"] for each in models)
    chosen = [each for each in models if each["model_id"] is not None]
    some = sum(each["decisions"] for each in chosen)
    return DecisionsSummary(
        decisions=decisions,
        nothing_eligible=decisions - some,
        models=[
            ModelShare(
                model_id=each["model_id"],
                name=names.get(each["model_id"]),
                decisions=each["decisions"],
                share=each["decisions"] / some,
            )
            for each in chosen
        ],
        rejections=[
            Rejections(constraint=each["constraint_name"], candidates=each["candidates"], decisions=each["decisions"])
            for each in rejections
            if each["constraint_name"] is not None
        ],
        outcomes=[_outcomes(each, names) for each in outcomes],
        regret=_regret(regret),
        savings=_savings(regret, some),
    )


def _outcomes(row: Mapping[str, Any], names: Mapping[str, str]) -> ModelOutcomes:
    def mean(part: str) -> Statistic:
        moments = Moments(row[f"{part}_n"], row[part] or 0.0, row[f"{part}_squares"] or 0.0)
        return _statistic(moments.interval())

    return ModelOutcomes(
        model_id=row["model_id"],
        name=names.get(row["model_id"]),
        success_rate=_statistic(proportion_interval(row["succeeded"], row["n"])),
        quality=mean("quality"),
        cost=mean("cost"),
        latency_ms=mean("latency"),
    )


def _regret(row: Mapping[str, Any]) -> Regret:
    """Estimates are shared by many decisions, so their errors do not average out: the mean of the deviations bounds the
    deviation of the mean, however they depend on each other (Minkowski's inequality)."""
    n, deviation = row.get("n", 0), row.get("deviation")
    realised = Moments(row.get("realised_n", 0), row.get("realised") or 0.0, row.get("realised_squares") or 0.0)
    sampled, shared = realised.variance, row.get("best_deviation")
    of_realised = None
    if sampled is not None and shared is not None:
        of_realised = math.hypot(math.sqrt(sampled / realised.n), shared)
    return Regret(
        estimated=_about(n, row.get("mean"), deviation), realised=_about(realised.n, realised.mean, of_realised)
    )


def _about(n: int, value: float | None, stderr: float | None) -> Statistic:
    if value is None or stderr is None:
        return Statistic(n=n, value=value, stderr=None, ci_low=None, ci_high=None)
    return Statistic(n=n, value=value, stderr=stderr, ci_low=value - 1.96 * stderr, ci_high=value + 1.96 * stderr)


def _savings(row: Mapping[str, Any], decisions: int) -> Savings:
    n, total = row.get("savings_n", 0), row.get("saved")
    return Savings(
        n=n,
        unknown=decisions - n,
        total_usd=total,
        per_request_usd=None if total is None or not n else total / n,
        quality_given_up=row.get("given_up"),
    )


def _statistic(found: Interval) -> Statistic:
    return Statistic(n=found.n, value=found.value, stderr=found.stderr, ci_low=found.low, ci_high=found.high)
