"""`/v1/evaluation-runs`: make runs, watch them, steer them, read their results."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from evalservice.errors import DatabaseUnavailable, EvalserviceError, InvalidInput, InvalidTransition
from evalservice.interchange import FORMATS, export_chunks
from evalservice.interchange.exporting import exported_run
from evalservice.lookup import find
from evalservice.runs.lifecycle import ENDED, request_cancel
from evalservice.runs.queue import request_rescore, request_resume
from evalservice.runs.results import count_results, stream_results
from evalservice.runs.schemas import ResultRead, RunAsked, RunBody, RunChanges, RunProgress, RunRead, RunResume
from evalservice.runs.service import NewRun, change_budget, create_run, get_run, items_query, refuse_unrunnable
from evalservice.tables import RUN_STATUSES, BenchmarkSuite, EvaluationResult, EvaluationRun, Model
from evalservice.web.context import Context, Door, Reader, ReadingDoor, TenantRoute, Writer
from evalservice.web.idempotency import Idempotent, Once
from evalservice.web.pages import Filter, Page, Paging, page_of

runs = APIRouter(prefix="/evaluation-runs", tags=["evaluation-runs"], route_class=TenantRoute)
ExportFormat = Literal["jsonl", "csv", "parquet", "lm-eval", "inspect", "every-eval-ever"]
POLL_SECONDS = 0.5
SILENCE_SECONDS = 15.0


@runs.get("", response_model=Page[RunRead])
def list_runs(
    context: Reader, paging: Paging, status: Filter = None, model: Filter = None, benchmark: Filter = None
) -> Response:
    """The runs, the newest first. `model` and `benchmark` are names or ids."""
    query = select(EvaluationRun).options(joinedload(EvaluationRun.model), joinedload(EvaluationRun.benchmark))
    if status is not None:
        if status not in RUN_STATUSES:
            raise InvalidInput("status", status, f"accepted are {', '.join(RUN_STATUSES)}")
        query = query.where(EvaluationRun.status == status)
    if model is not None:
        query = query.where(EvaluationRun.model_id == find(context.session, Model, model, "model").id)
    if benchmark is not None:
        suite = find(context.session, BenchmarkSuite, benchmark, "benchmark")
        query = query.where(EvaluationRun.benchmark_id == suite.id)
    sorts = {"created_at": EvaluationRun.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, EvaluationRun.id, RunRead.in_list))


@runs.post("", status_code=201, response_model=RunRead)
def create(context: Writer, new: RunBody, once: Idempotent) -> Response:
    """Make a run. All that can be checked is checked now; it is started as soon as there is room."""

    def work() -> Response:
        model = find(context.session, Model, new.model, "model")
        benchmark = find(context.session, BenchmarkSuite, new.benchmark, "benchmark")
        refuse_unrunnable(model, benchmark)
        context.wiring.check_run(model, benchmark, new.config)
        asked = NewRun(
            model,
            benchmark,
            new.config,
            new.limit,
            new.max_concurrency,
            new.name,
            new.priority,
            max_cost=new.max_cost,
            completion_cache=new.completion_cache,
        )
        run = create_run(context.session, context.organization_id, asked, user_id=context.caller.user_id)
        context.wiring.on_run(context.session, run)
        context.session.refresh(run)
        return context.created(RunRead.of(run), run.id)

    return once.answer(context, work)


@runs.get("/{run}", response_model=RunRead)
def read(context: Reader, run: str) -> Response:
    """A run by id, or by the beginning of it (8 characters or more)."""
    return context.reply(RunRead.of(get_run(context.session, run)))


@runs.patch("/{run}", response_model=RunRead)
def change(context: Writer, run: str, changes: RunChanges) -> Response:
    """Rename a run, or change its priority while it is pending."""
    row = get_run(context.session, run)
    context.session.refresh(row, with_for_update=True)
    context.check_unchanged(RunRead.of(row))
    if changes.priority is not None and changes.priority != row.priority:
        if row.status != "pending":
            raise InvalidTransition(f"run {row.id} is {row.status}: only a pending run's priority can be changed")
        row.priority = changes.priority
    if changes.name is not None:
        row.name = changes.name
    context.session.flush()
    context.session.refresh(row)
    return context.reply(RunRead.of(row))


@runs.post("/{run}/cancel", response_model=RunAsked)
def cancel(context: Writer, run: str, once: Idempotent) -> Response:
    """Stop a run: its driver stops sending within two seconds and keeps what was answered."""
    return _asked(context, once, run, lambda run_id: request_cancel(context.session, run_id))


@runs.post("/{run}/resume", response_model=RunAsked)
def resume(context: Writer, run: str, once: Idempotent, how: RunResume | None = None) -> Response:
    """Go on with a run that ended early: only what is missing or may succeed now is asked again."""

    def ask(run_id: uuid.UUID) -> str:
        if how is not None and how.max_cost is not None:
            change_budget(context.session, run_id, how.max_cost)
        return request_resume(context.session, run_id)

    return _asked(context, once, run, ask)


@runs.post("/{run}/rescore", response_model=RunAsked)
def rescore(context: Writer, run: str, once: Idempotent) -> Response:
    """Score the stored completions again, with the scorers as they are now. No model is asked."""
    return _asked(context, once, run, lambda run_id: request_rescore(context.session, run_id))


def _asked(context: Context, once: Once, reference: str, ask: Callable[[uuid.UUID], str]) -> Response:
    def work() -> Response:
        row = get_run(context.session, reference)
        status = ask(row.id)
        context.session.flush()
        context.session.refresh(row)
        return context.reply(
            RunAsked(
                id=row.id,
                status=status,
                requested_work=row.requested_work,
                cancel_requested=row.cancel_requested_at is not None,
            )
        )

    return once.answer(context, work)


@runs.get("/{run}/results", response_model=Page[ResultRead])
def list_results(
    context: Reader,
    run: str,
    paging: Paging,
    success: bool | None = None,
    wrong: Annotated[bool, Query(description="Only answers that the primary metric calls wrong.")] = False,
    search: Annotated[Filter, Query(description="Only where this text occurs.")] = None,
    after: Annotated[int, Query(ge=-1, lt=2**31, description="Only test cases after this index.")] = -1,
) -> Response:
    """A run's rows by test case index."""
    query = items_query(get_run(context.session, run), success=success, wrong=wrong, search=search, after=after)
    index = EvaluationResult.test_case_index
    paging.sort = paging.sort or "test_case_index"
    return context.reply(page_of(context.session, query, paging, {"test_case_index": index}, index, ResultRead.of))


@runs.get(
    "/{run}/export",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The rows as a file.", "content": {each.media_type: {} for each in FORMATS.values()}}
    },
)
def export(door: ReadingDoor, run: str, format: ExportFormat = "jsonl") -> Response:
    """All of a run's rows as a file, streamed. `X-Row-Count` says how many there were at the beginning.

    `lm-eval` and `every-eval-ever` are archives of the files that these tools write, `inspect` is one JSON log.
    """
    with door.open() as (session, _):
        exported = exported_run(get_run(session, run))
        rows = count_results(session, exported.id)

    def chunks() -> Iterator[bytes]:
        with door.open() as (session, _):
            for chunk, _ in export_chunks(exported, stream_results(session, exported.id), format):
                yield chunk

    written = FORMATS[format]
    headers = {
        "Content-Disposition": f'attachment; filename="{written.stem(exported)}.{written.suffix}"',
        "X-Row-Count": str(rows),
    }
    return StreamingResponse(chunks(), media_type=written.media_type, headers=headers)


@runs.get(
    "/{run}/events",
    response_class=StreamingResponse,
    responses={200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}},
)
def events(door: ReadingDoor, run: str) -> Response:
    """The run's progress as server-sent events: `progress` whenever it changes, `end` when the run has ended."""
    with door.open() as (session, _):
        run_id = get_run(session, run).id
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(door, run_id), media_type="text/event-stream", headers=headers)


async def _events(door: Door, run_id: uuid.UUID) -> AsyncIterator[str]:
    """Asks once each half second, with the key checked again each time: a revoked one hears nothing more."""
    last, spoke = "", time.monotonic()
    while True:
        try:
            now = await door.wiring.in_thread(_progress, door, run_id)
        except DatabaseUnavailable:
            await asyncio.sleep(POLL_SECONDS * 4)
            continue
        except EvalserviceError as error:
            yield f"event: error\ndata: {error.message}\n\n"
            return
        data = now.model_dump_json()
        ended = now.status in ENDED
        if data != last or ended:
            yield f"event: {'end' if ended else 'progress'}\ndata: {data}\n\n"
            last, spoke = data, time.monotonic()
        if ended:
            return
        if time.monotonic() - spoke > SILENCE_SECONDS:
            yield ": still here\n\n"
            spoke = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)


def _progress(door: Door, run_id: uuid.UUID) -> RunProgress:
    with door.open() as (session, _):
        return RunProgress.of(session.get_one(EvaluationRun, run_id))
