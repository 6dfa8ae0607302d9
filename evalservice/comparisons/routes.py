"""`/v1/comparisons` of stored runs, `/v1/ab-tests` that make and judge runs, `/v1/experiments`.

What brings statsmodels is imported where it is needed: it takes a second that no other route shall wait for.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from evalservice.comparisons import MAX_COVERAGE_GAP, MIN_COVERAGE
from evalservice.comparisons import experiments as service
from evalservice.comparisons.ab_schemas import ABTestChanges, ABTestRead, NewABTest
from evalservice.comparisons.experiment_schemas import (
    ExperimentChanges,
    ExperimentRead,
    ExperimentRunRead,
    NewExperiment,
    NewTemplate,
    TemplateRead,
)
from evalservice.comparisons.report_schemas import ReportRead
from evalservice.comparisons.schemas import ComparisonRead
from evalservice.errors import InvalidInput, NotFound
from evalservice.runs.service import get_run
from evalservice.tables import (
    AB_TEST_STATUSES,
    ABTest,
    ABTestRun,
    EvaluationRun,
    Experiment,
    ExperimentRun,
    ExperimentTemplate,
)
from evalservice.web.context import Context, Reader, TenantRoute, Writer
from evalservice.web.idempotency import Idempotent
from evalservice.web.pages import Filter, Page, Paging, page_of

comparisons = APIRouter(prefix="/comparisons", tags=["comparisons"], route_class=TenantRoute)
ab_tests = APIRouter(prefix="/ab-tests", tags=["ab-tests"], route_class=TenantRoute)
experiments = APIRouter(prefix="/experiments", tags=["experiments"], route_class=TenantRoute)
experiment_templates = APIRouter(prefix="/experiment-templates", tags=["experiments"], route_class=TenantRoute)

_RUNS = (
    selectinload(ABTest.models),
    selectinload(ABTest.runs).joinedload(ABTestRun.evaluation_run).joinedload(EvaluationRun.model),
)


def _get(context: Context, kind: type[Any], row_id: uuid.UUID, field: str) -> Any:
    row = context.session.get(kind, row_id)
    if row is None:
        raise NotFound(field, str(row_id))
    return row


def _locked(context: Context, kind: type[Any], row_id: uuid.UUID, field: str) -> Any:
    """The row, until the transaction ends nobody else's."""
    row = context.session.get(kind, row_id, with_for_update=True)
    if row is None:
        raise NotFound(field, str(row_id))
    return row


@comparisons.get("", response_model=ComparisonRead)
def compare_runs(
    context: Reader,
    run: Annotated[list[str], Query(min_length=2, max_length=20, description="Ids; the first is the candidate.")],
    metric: Annotated[
        list[str] | None, Query(max_length=50, description="Default: all that the runs have in common.")
    ] = None,
    alpha: Annotated[float, Query(gt=0, lt=1)] = 0.05,
    margin: Annotated[float, Query(ge=0, allow_inf_nan=False, description="The least difference that matters.")] = 0.0,
    min_coverage: Annotated[
        float, Query(ge=0, le=1, description="Scored test cases of every run, at least.")
    ] = MIN_COVERAGE,
    max_coverage_gap: Annotated[float, Query(ge=0, le=1, description="Between two runs, at most.")] = MAX_COVERAGE_GAP,
    seed: Annotated[int, Query(ge=0, lt=2**32, description="Of permutations and resamples.")] = 0,
) -> Response:
    """Compare runs of the same test cases: values, differences, tests, and a verdict on each metric."""
    from evalservice.comparisons.comparing import Asked
    from evalservice.comparisons.comparing import compare_runs as compared
    from evalservice.comparisons.designs import Rules

    runs = [get_run(context.session, reference) for reference in run]
    rules = Rules(alpha=alpha, margin=margin, seed=seed)
    asked = Asked(metric or (), rules, min_coverage, max_coverage_gap)
    return context.reply(compared(context.session, runs, asked))


@ab_tests.get("", response_model=Page[ABTestRead])
def list_ab_tests(context: Reader, paging: Paging, status: Filter = None, name: Filter = None) -> Response:
    """The A/B tests, the newest first."""
    query = select(ABTest).options(*_RUNS)
    if status is not None:
        if status not in AB_TEST_STATUSES:
            raise InvalidInput("status", status, f"accepted are {', '.join(AB_TEST_STATUSES)}")
        query = query.where(ABTest.status == status)
    query = query if name is None else query.where(ABTest.name == name)
    sorts = {"created_at": ABTest.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, ABTest.id, ABTestRead.of))


@ab_tests.post("", status_code=201, response_model=ABTestRead)
def create_ab_test(context: Writer, new: NewABTest, once: Idempotent) -> Response:
    """Make a draft of an A/B test: its design is checked against the benchmark, and its plan says what it may cost."""
    from evalservice.comparisons.ab_tests import create_ab_test as create

    def work() -> Response:
        row = create(context.session, context.organization_id, new, user_id=context.caller.user_id)
        return context.created(ABTestRead.of(row), row.id)

    return once.answer(context, work)


@ab_tests.get("/{ab_test_id}", response_model=ABTestRead)
def read_ab_test(context: Reader, ab_test_id: uuid.UUID) -> Response:
    """An A/B test; while it runs, how far it is and what it has found so far."""
    return context.reply(ABTestRead.of(_get(context, ABTest, ab_test_id, "ab_test")))


@ab_tests.patch("/{ab_test_id}", response_model=ABTestRead)
def change_ab_test(context: Writer, ab_test_id: uuid.UUID, changes: ABTestChanges) -> Response:
    """Change an A/B test; the design only while it is a draft."""
    from evalservice.comparisons.ab_tests import change_ab_test as change

    row = _locked(context, ABTest, ab_test_id, "ab_test")
    context.check_unchanged(ABTestRead.of(row))
    change(context.session, row, changes)
    return context.reply(ABTestRead.of(row))


@ab_tests.post("/{ab_test_id}/start", response_model=ABTestRead)
def start_ab_test(context: Writer, ab_test_id: uuid.UUID, once: Idempotent) -> Response:
    """Start a draft, or go on with a test that has failed: every model gets its run, shared or new.

    A test that runs already is left alone.
    """
    from evalservice.comparisons.ab_tests import start_ab_test as start

    def work() -> Response:
        row = _locked(context, ABTest, ab_test_id, "ab_test")
        wiring, user = context.wiring, context.caller.user_id
        start(context.session, row, user_id=user, check=wiring.check_run, on_run=wiring.on_run)
        return context.reply(ABTestRead.of(row))

    return once.answer(context, work)


@ab_tests.post("/{ab_test_id}/cancel", response_model=ABTestRead)
def cancel_ab_test(context: Writer, ab_test_id: uuid.UUID) -> Response:
    """Cancel an A/B test that has not ended, and the runs that it has made."""
    from evalservice.comparisons.ab_tests import cancel_ab_test as cancel

    row = _locked(context, ABTest, ab_test_id, "ab_test")
    cancel(context.session, row)
    return context.reply(ABTestRead.of(row))


@experiments.get("", response_model=Page[ExperimentRead])
def list_experiments(context: Reader, paging: Paging, status: Filter = None, name: Filter = None) -> Response:
    """The experiments, the newest first; archived ones only when `status=archived` asks for them."""
    query = select(Experiment).where(Experiment.status == status if status else Experiment.status != "archived")
    query = query if name is None else query.where(Experiment.name == name)
    sorts = {"created_at": Experiment.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, Experiment.id, ExperimentRead.of))


@experiments.post("", status_code=201, response_model=ExperimentRead)
def create_experiment(context: Writer, new: NewExperiment, once: Idempotent) -> Response:
    """Make a draft of an experiment. A grid is checked as a whole: nothing of it runs when a cell cannot."""

    def work() -> Response:
        user = context.caller.user_id
        row = service.create_experiment(context.session, context.organization_id, new, user_id=user)
        return context.created(ExperimentRead.of(row), row.id)

    return once.answer(context, work)


@experiments.get("/{experiment_id}", response_model=ExperimentRead)
def read_experiment(context: Reader, experiment_id: uuid.UUID) -> Response:
    """An experiment."""
    return context.reply(ExperimentRead.of(_get(context, Experiment, experiment_id, "experiment")))


@experiments.patch("/{experiment_id}", response_model=ExperimentRead)
def change_experiment(context: Writer, experiment_id: uuid.UUID, changes: ExperimentChanges) -> Response:
    """Change or archive an experiment."""
    row = _locked(context, Experiment, experiment_id, "experiment")
    context.check_unchanged(ExperimentRead.of(row))
    given = changes.model_dump(mode="json", include=changes.model_fields_set)
    service.change_experiment(context.session, row, given)
    return context.reply(ExperimentRead.of(row))


@experiments.post("/{experiment_id}/start", status_code=201, response_model=ExperimentRunRead)
def start_experiment(context: Writer, experiment_id: uuid.UUID, once: Idempotent) -> Response:
    """Start the next numbered run. Cells that runs of the same configuration have measured cost nothing."""

    def work() -> Response:
        row = _locked(context, Experiment, experiment_id, "experiment")
        wiring, user = context.wiring, context.caller.user_id
        run = service.start_experiment(context.session, row, user_id=user, check=wiring.check_run, on_run=wiring.on_run)
        return context.reply(ExperimentRunRead.of(run), 201)

    return once.answer(context, work)


@experiments.post("/{experiment_id}/pause", response_model=ExperimentRead)
def pause_experiment(context: Writer, experiment_id: uuid.UUID) -> Response:
    """Stop what the experiment has under way; what was answered is kept."""
    row = _locked(context, Experiment, experiment_id, "experiment")
    service.pause_experiment(context.session, row)
    return context.reply(ExperimentRead.of(row))


@experiments.post("/{experiment_id}/resume", response_model=ExperimentRead)
def resume_experiment(context: Writer, experiment_id: uuid.UUID) -> Response:
    """Go on with a paused experiment."""
    row = _locked(context, Experiment, experiment_id, "experiment")
    service.resume_experiment(context.session, row, context.wiring.on_run)
    return context.reply(ExperimentRead.of(row))


@experiments.get("/{experiment_id}/runs", response_model=Page[ExperimentRunRead])
def list_experiment_runs(context: Reader, experiment_id: uuid.UUID, paging: Paging) -> Response:
    """An experiment's runs, the latest number first."""
    _get(context, Experiment, experiment_id, "experiment")
    query = select(ExperimentRun).where(ExperimentRun.experiment_id == experiment_id)
    query = query.options(selectinload(ExperimentRun.evaluation_runs))
    sorts = {"run_number": ExperimentRun.run_number, "created_at": ExperimentRun.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, ExperimentRun.id, ExperimentRunRead.of))


@experiments.get("/{experiment_id}/report", response_model=ReportRead)
def report_experiment(
    context: Reader,
    experiment_id: uuid.UUID,
    run: Annotated[int | None, Query(ge=1, lt=2**31, description="Its number; default: the latest.")] = None,
) -> Response:
    """What a numbered run has found: scores by cell and by factor level, differences from the baseline, the Pareto
    front of quality and cost."""
    from evalservice.comparisons.reporting import report_of

    row = _get(context, Experiment, experiment_id, "experiment")
    number = row.total_runs if run is None else run
    query = select(ExperimentRun).where(
        ExperimentRun.experiment_id == experiment_id, ExperimentRun.run_number == number
    )
    found = context.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("run", number, f"the experiment has {row.total_runs} runs")
    return context.reply(report_of(context.session, row, found))


@experiment_templates.get("", response_model=Page[TemplateRead])
def list_templates(context: Reader, paging: Paging) -> Response:
    """The templates of experiments, the newest first."""
    sorts = {"created_at": ExperimentTemplate.created_at, "name": ExperimentTemplate.name}
    query = select(ExperimentTemplate)
    return context.reply(page_of(context.session, query, paging, sorts, ExperimentTemplate.id, TemplateRead.of))


@experiment_templates.post("", status_code=201, response_model=TemplateRead)
def create_template(context: Writer, new: NewTemplate, once: Idempotent) -> Response:
    """Make a template that experiments can be made from."""

    def work() -> Response:
        user = context.caller.user_id
        row = service.create_template(context.session, context.organization_id, new, user_id=user)
        return context.created(TemplateRead.of(row), row.id)

    return once.answer(context, work)


@experiment_templates.get("/{template_id}", response_model=TemplateRead)
def read_template(context: Reader, template_id: uuid.UUID) -> Response:
    """A template."""
    return context.reply(TemplateRead.of(_get(context, ExperimentTemplate, template_id, "template")))
