"""Metric aggregates kept up with the rows: hours from `model_metrics`, days from hours, weeks and months from days.

A trigger on `model_metrics` marks each (model, hour) whose rows change, however late they come. `roll_up` computes
marked hours anew from all their rows and then what contains them, so doing it twice changes nothing, and a transaction
that dies leaves its marks. An aggregate's `metrics`:

    {"accuracy@0197…": {"n": 2, "sum": 1.3, "sum_squares": 0.85, "min": 0.6, "max": 0.7, "unusable": 0,
                        "sketch": "19975:1 19983:1"}}
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from evalservice.metrics.periods import MERGED_FROM, Period, period_end, period_start
from evalservice.statistics.sketches import LARGEST, OFFSET, SCALE, SMALLEST
from evalservice.tables import METRIC_TYPES, MetricRollupDue, Model, new_id

HOURS_AT_ONCE = 2_500
"""(model, hour) pairs in one transaction: a day of a hundred models."""

AS_THEY_COME = 64
"""Up to so many values an hour's sketch lists their codes uncounted: most series have few values in an hour, and to
count them took twice as long as to read and sum them."""

WORK_MEMORY = "32MB"
"""A default of 4 MB sends the series of a busy hour to disk."""

# JSON is put together as text and parsed once for each aggregate: jsonb_object_agg took half as long again. Each
# period is grouped on its own, LATERAL, in hash tables that fit the processor's cache.
_DOCUMENTS = """
    SELECT model_id, sum(n + unusable) AS sample_count,
           ('{' || string_agg(
               to_json(key)::text || ':{"n":' || n || ',"sum":' || coalesce(sum, 0)
               || ',"sum_squares":' || coalesce(sum_squares, 0) || ',"min":' || coalesce(min::text, 'null')
               || ',"max":' || coalesce(max::text, 'null') || ',"unusable":' || unusable
               || ',"sketch":"' || coalesce(sketch, '') || '"}', ',') || '}')::jsonb AS metrics
    FROM series GROUP BY model_id
"""

_FROM_ROWS = f"""
    WITH usable AS (
        SELECT model_id, metric_type, CASE WHEN metric_type = 'custom' THEN metadata ->> 'name' END AS name,
               benchmark_id, CASE WHEN abs(value) BETWEEN {SMALLEST!r} AND {LARGEST!r} THEN value
                                  WHEN abs(value) < {SMALLEST!r} THEN 0 END AS value
        FROM model_metrics
        WHERE metric_type IN ({", ".join(repr(name) for name in METRIC_TYPES)})
          AND timestamp >= target.period_start AND timestamp < target.period_end
          {{of_whom}} OFFSET 0
    ), coded AS (
        SELECT *, (CASE value WHEN 0 THEN 0
                   ELSE sign(value) * ({OFFSET} + ceil(ln(abs(value)) * {SCALE!r})) END)::int AS code
        FROM usable OFFSET 0
    ), named AS (
        SELECT model_id, metric_type || coalesce(':' || name, '') AS name, benchmark_id,
               count(value) AS n, count(*) - count(value) AS unusable,
               sum(value) AS sum, sum(value * value) AS sum_squares, min(value) AS min, max(value) AS max,
               array_agg(code) FILTER (WHERE code IS NOT NULL) AS codes
        FROM coded GROUP BY model_id, metric_type, coded.name, benchmark_id
    ), series AS (
        SELECT model_id, n, unusable, sum, sum_squares, min, max,
               CASE WHEN n <= {AS_THEY_COME} THEN array_to_string(codes, ' ') ELSE (
                   SELECT string_agg(code || ':' || count, ' ')
                   FROM (SELECT code, count(*) AS count FROM unnest(codes) AS code GROUP BY code) AS bucket
               ) END AS sketch,
               name || CASE WHEN benchmark_id IS NOT NULL THEN '@' || benchmark_id
                            WHEN strpos(name, '@') > 0 THEN '@' ELSE '' END AS key
        FROM named
    )
    {_DOCUMENTS.replace("{", "{{").replace("}", "}}")}
"""

_FROM_FINER = f"""
    WITH part AS MATERIALIZED (
        SELECT finer.model_id, each.key, each.value
        FROM metric_aggregations AS finer, jsonb_each(finer.metrics) AS each
        WHERE finer.model_id = target.model_id AND finer.period_type = :finer
          AND finer.period_start >= target.period_start AND finer.period_start < target.period_end
    ), bucket AS (
        SELECT key, split_part(pair, ':', 1) AS code,
               sum(coalesce(nullif(split_part(pair, ':', 2), '')::int, 1)) AS n
        FROM part, string_to_table(value ->> 'sketch', ' ') AS pair
        WHERE pair <> '' GROUP BY 1, 2
    ), sketch AS (
        SELECT key, string_agg(code || ':' || n, ' ') AS sketch FROM bucket GROUP BY key
    ), total AS (
        SELECT model_id, key, sum((value ->> 'n')::int) AS n, sum((value ->> 'unusable')::int) AS unusable,
               sum((value ->> 'sum')::double precision) AS sum,
               sum((value ->> 'sum_squares')::double precision) AS sum_squares,
               min((value ->> 'min')::double precision) AS min, max((value ->> 'max')::double precision) AS max
        FROM part GROUP BY model_id, key
    ), series AS (
        SELECT * FROM total LEFT JOIN sketch USING (key)
    )
    {_DOCUMENTS}
"""

_MODEL_BY_MODEL = "FROM target CROSS JOIN LATERAL ({documents}) AS document"

_ALL_MODELS = """
    FROM (SELECT DISTINCT period_start, period_end FROM target) AS target
    CROSS JOIN LATERAL ({documents}) AS document
"""

_HOURS_OF_A_MODEL = _MODEL_BY_MODEL.format(documents=_FROM_ROWS.format(of_whom="AND model_id = target.model_id"))
_HOURS_OF_ALL_MODELS = _ALL_MODELS.format(documents=_FROM_ROWS.format(of_whom=""))
_MERGED = _MODEL_BY_MODEL.format(documents=_FROM_FINER)

_STORE = """
    WITH target AS (
        SELECT * FROM unnest(
            CAST(:ids AS uuid[]), CAST(:models AS uuid[]), CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])
        ) AS target (id, model_id, period_start, period_end)
    )
    INSERT INTO metric_aggregations
        (id, organization_id, model_id, period_type, period_start, period_end, metrics, sample_count)
    SELECT id, :organization_id, model_id, :period, period_start, period_end, metrics, sample_count
    FROM target JOIN (SELECT document.*, target.period_start {source}) AS computed USING (model_id, period_start)
    ON CONFLICT (model_id, period_type, period_start) DO UPDATE SET
        period_end = excluded.period_end, metrics = excluded.metrics, sample_count = excluded.sample_count
    RETURNING period_start, model_id
"""

_REMOVE = """
    DELETE FROM metric_aggregations
    WHERE model_id = :model_id AND period_type = :period AND period_start = :period_start
"""

# A mark that was renewed since it was read stays, and so does one that a writer holds, for whom nobody waits here.
_SETTLE = """
    DELETE FROM metric_rollups_due AS due USING (
        SELECT held.model_id, held.hour
        FROM metric_rollups_due AS held
        JOIN unnest(CAST(:models AS uuid[]), CAST(:hours AS timestamptz[]), CAST(:versions AS uuid[]))
            AS seen (model_id, hour, version) USING (model_id, hour)
        WHERE held.version = seen.version
        FOR UPDATE OF held SKIP LOCKED
    ) AS done
    WHERE due.model_id = done.model_id AND due.hour = done.hour
"""


def due_organizations(session: Session) -> list[uuid.UUID]:
    """The organizations with hours to roll up, the longest waiting first. Needs no organization set."""
    return list(session.scalars(text("SELECT organization_id FROM evalservice_due_rollups()")))


def roll_up(session: Session, organization_id: uuid.UUID, *, limit: int = HOURS_AT_ONCE) -> int:
    """Bring the aggregates of up to `limit` due hours up to date, the longest waiting first; gives how many.

    In the organization's own transaction. Writers never wait for it and it waits for no writer; two roll-ups of one
    organization take turns, because a day must not be computed by one that does not see the other's hours. Below
    `limit` everything that was due at the call is done, except hours that are written to right now.
    """
    session.execute(text(f"SET LOCAL work_mem = '{WORK_MEMORY}'"))
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"rollup {organization_id}"}
    )
    due = session.execute(
        select(MetricRollupDue.model_id, MetricRollupDue.hour, MetricRollupDue.version)
        .where(MetricRollupDue.organization_id == organization_id)
        .order_by(MetricRollupDue.due_since, MetricRollupDue.model_id, MetricRollupDue.hour)
        .limit(limit)
    ).all()
    if not due:
        return 0
    hours = [(model_id, hour) for model_id, hour, _ in due]
    source = _HOURS_OF_ALL_MODELS if _most_models(session, hours) else _HOURS_OF_A_MODEL
    _store(session, organization_id, "hour", hours, source)
    for period, finer in MERGED_FROM.items():
        _store(session, organization_id, period, hours, _MERGED, finer=finer)
    models, starts, versions = zip(*due, strict=True)
    session.execute(text(_SETTLE), {"models": list(models), "hours": list(starts), "versions": list(versions)})
    return len(due)


def _most_models(session: Session, hours: list[tuple[uuid.UUID, datetime]]) -> bool:
    """Whether the due hours are better read whole than model by model: most of the models are due in each of them."""
    models = session.scalar(select(func.count()).select_from(Model)) or 0
    return len(hours) > models / 2 * len({hour for _, hour in hours})


def _store(
    session: Session,
    organization_id: uuid.UUID,
    period: Period,
    hours: Iterable[tuple[uuid.UUID, datetime]],
    source: str,
    **parameters: str,
) -> None:
    """Compute and store the periods that hold the hours; one without rows loses its aggregate."""
    # In the order of time, in which the rows lie: a page of them serves every model.
    targets = sorted({(period_start(hour, period), model_id) for model_id, hour in hours})
    stored = session.execute(
        text(_STORE.format(source=source)),
        {
            "organization_id": organization_id,
            "period": period,
            "ids": [new_id() for _ in targets],
            "models": [model_id for _, model_id in targets],
            "starts": [start for start, _ in targets],
            "ends": [period_end(start, period) for start, _ in targets],
            **parameters,
        },
    )
    gone = set(targets) - {(start, model_id) for start, model_id in stored}
    if gone:
        session.execute(
            text(_REMOVE),
            [{"model_id": model_id, "period": period, "period_start": start} for start, model_id in sorted(gone)],
        )
