"""One turn of a running A/B test: look at what has arrived, stop who has lost, end it when it is decided.

Whoever is there takes the turns: the supervisors of a service, the command that follows a test without one. A turn is
one transaction under the test's row lock and goes on from what the last one has stored, so that a process may die at
any moment, and another's turn is the next. It reads only rows that no look has taken: of each model, by index, those of
the next `LOOK_ROWS` test cases in the test's order, and takes them up to the first that a model has not stored yet. So
which test cases a look sees depends on the seed and the clock, never on the answers.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import Float, Integer, any_, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, selectinload

from evalservice.catalog.blocks import random_order
from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.comparisons.ab_results import StoredResults
from evalservice.comparisons.ab_schemas import (
    ABTestConfig,
    ABTestPlan,
    config_of,
    model_order,
    plan_of,
    planned_discordance,
)
from evalservice.comparisons.ab_tests import end
from evalservice.comparisons.comparing import Asked, compare_taken
from evalservice.comparisons.designs import Rules
from evalservice.comparisons.pairing import Taken
from evalservice.comparisons.race import Race, Terms
from evalservice.comparisons.schemas import ComparisonRead
from evalservice.comparisons.sharing import stop_unused
from evalservice.comparisons.telling import calls_of, concluded, look_of, model_states, pair_states, thinned
from evalservice.errors import Conflict, EvalserviceError
from evalservice.runs.lifecycle import ENDED
from evalservice.runs.scorers import scorers_of
from evalservice.scoring import Metric
from evalservice.statistics.sequential import UNIFORM, planned_prior
from evalservice.tables import ABTest, ABTestRun, EvaluationResult, EvaluationRun

LOOK_ROWS = 2_000
LOOKS_A_TURN = 5

Floats = npt.NDArray[np.float64]


def take_turn(session: Session, test_id: uuid.UUID) -> str | None:
    """Bring a test forward, unless somebody else is at it (None) or it does not run; gives its status."""
    query = select(ABTest).where(ABTest.id == test_id).with_for_update(skip_locked=True, of=ABTest)
    loaded = selectinload(ABTest.runs).joinedload(ABTestRun.evaluation_run).joinedload(EvaluationRun.model)
    row = session.scalars(query.options(loaded).execution_options(populate_existing=True)).one_or_none()
    if row is None:
        return None
    if row.status == "running":
        _Turn(session, row).advance()
        session.flush()
    return row.status


class _Turn:
    """A test and its runs, as this turn finds them; its row is locked."""

    def __init__(self, session: Session, row: ABTest) -> None:
        self.session, self.row = session, row
        plan = plan_of(row)
        assert plan is not None
        self.config: ABTestConfig = config_of(row)
        self.plan: ABTestPlan = plan
        self.order = random_order(row.dataset.total_test_cases, self.config.seed)[: plan.test_cases]
        links = {link.model_id: link for link in row.runs}
        self.links = [links[model_id] for model_id in model_order(row)]
        self.runs = {str(link.model_id): link.evaluation_run for link in self.links}
        self.results = StoredResults.model_validate(row.results)
        self.now: datetime = session.execute(select(func.now())).scalar_one()

    def advance(self) -> None:
        """Look, stop, end: as far as it goes now."""
        try:
            decided = self._race() if self.config.design == "sequential" else self._wait()
        except (EvalserviceError, ValueError) as error:
            self._fail(str(error))
            return
        if not decided:
            broken = [run for model, run in self._going() if run.status in ("failed", "cancelled")]
            if broken:
                first = broken[0]
                self._fail(f"run {first.id} of {first.model.name} {_ended(first)}")
                return
            self._store()
            return
        kept = [] if self.results.stopped else self._stop(self.runs)
        self.results.stopped = True
        if not kept and self._settled():
            self._conclude()
        else:  # what goes on for others is locked: the comparison, which may take minutes, is the next turn's
            self._store()

    def _stop(self, models: Iterable[str]) -> list[uuid.UUID]:
        """Have these models' runs end; gives those that go on because they are not the test's alone."""
        kept = stop_unused(self.session, [self.runs[model].id for model in models], self.row.id)
        self.session.flush()
        return kept

    def _going(self) -> list[tuple[str, EvaluationRun]]:
        out = {str(model) for model, state in self.results.models.items() if state.stopped}
        return [(model, run) for model, run in self.runs.items() if model not in out]

    def _settled(self) -> bool:
        """Whether every run that was asked to end has ended: then calls can be counted."""
        runs = (link.evaluation_run for link in self.links if not link.is_shared)
        return all(run.status in ENDED or run.cancel_requested_at is None for run in runs)

    def _wait(self) -> bool:
        """A fixed design: nothing is looked at before every run has answered."""
        done = [
            min(run.completed_test_cases + run.failed_test_cases, self.plan.test_cases) for run in self.runs.values()
        ]
        self.results.test_cases = min(done)
        self.results.models = model_states(self.links, dict(zip(self.runs, done, strict=True)), ())
        return all(run.status == "completed" for run in self.runs.values())

    def _race(self) -> bool:
        """A sequential design: take what has arrived, and stop the losers. Whether it is over."""
        race = self._restored() or Race.begin(list(self.runs), self._terms())
        before = race.position
        for _ in range(LOOKS_A_TURN):
            if race.standing().verdict or not self._look(race):
                break
        standing = race.standing()
        if race.position > before:
            self.results.pairs = pair_states(race)
            looks = [*self.results.looks, look_of(race, self.now)]
            self.results.looks = thinned(looks, self.plan.test_cases)
        reached = {model: race.reached.get(model, race.position) for model in self.runs}
        self.results.models = model_states(self.links, reached, standing.beaten)
        self.results.leaders = [uuid.UUID(model) for model in standing.leaders]
        self.results.test_cases = race.position
        self.results.race = race.stored()
        if not self.results.stopped:
            self._stop(standing.beaten)
        return standing.verdict is not None or race.position >= len(self.order)

    def _look(self, race: Race) -> bool:
        """Let the race take the next test cases that all who are in it have stored; whether there were any."""
        wanted = self.order[race.position : race.position + LOOK_ROWS]
        values, settled = {}, len(wanted)
        for model in race.running():
            values[model], stored = self._values(self.runs[model].id, wanted[:settled])
            settled = int(stored.argmin()) if not stored.all() else len(stored)
            if not settled:
                return False
        race.take({model: own[:settled] for model, own in values.items()})
        return settled > 0

    def _values(self, run_id: uuid.UUID, indices: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """A run's values of these test cases, NaN where there is none, and whether each is stored."""
        values, stored = np.full(len(indices), np.nan), np.zeros(len(indices), dtype=np.bool_)
        place = {index: position for position, index in enumerate(indices.tolist())}
        rows = self.session.execute(
            select(
                EvaluationResult.test_case_index,
                EvaluationResult.success,
                EvaluationResult.metrics[self.plan.metric].astext.cast(Float),
            ).where(
                EvaluationResult.evaluation_run_id == run_id,
                EvaluationResult.test_case_index == any_(cast(list(place), ARRAY(Integer))),
            )
        )
        for index, success, value in rows:
            stored[place[index]] = True
            if success and value is not None:
                values[place[index]] = value
        return values, stored

    def _conclude(self) -> None:
        """All is settled: compare what was taken, and say who has won."""
        taken = {
            run.id: np.sort(self.order[: self.results.models[uuid.UUID(model)].test_cases])
            for model, run in self.runs.items()
        }
        rules = Rules(
            alpha=self.row.significance_level,
            margin=self.config.margin,
            power=self.config.power,
            seed=self.config.seed,
        )
        try:
            comparison = self._compared(Asked(self.plan.metrics, rules), taken)
        except EvalserviceError as error:
            self._fail(error.message)
            return
        self.results = concluded(self.results, comparison, self.plan, self.runs, self._restored())
        if self.results.verdict == "winner":
            self.row.winner_model_id = self.results.leaders[0]
        self._ended("completed")

    def _compared(self, asked: Asked, taken: Taken) -> ComparisonRead:
        """The runs compared; where another metric than the deciding one cannot be, that is a warning."""
        runs, race = list(self.runs.values()), self._restored()
        decided = race is not None and race.standing().verdict is not None
        only = replace(asked, metrics=self.plan.metrics[:1])
        if decided:  # it has held the rule of coverage whenever it decided, among those that were not out
            only = replace(only, min_coverage=0.0, max_coverage_gap=1.0)
        try:
            return compare_taken(self.session, runs, asked, taken)
        except Conflict as error:
            if not decided and len(asked.metrics) == 1:
                raise
            decisive = compare_taken(self.session, runs, only, taken)
            told = error.message if len(asked.metrics) == 1 else f"only {self.plan.metric} is compared: {error.message}"
            return decisive.model_copy(update={"warnings": [*decisive.warnings, told]})

    def _restored(self) -> Race | None:
        stored = self.results.race
        return None if stored is None else Race.restored(stored, self._terms())

    def _terms(self) -> Terms:
        first = next(iter(self.runs.values()))
        scorers = scorers_of(EvaluationCriteria.model_validate(first.provenance["criteria"]))
        metric = next(metric for scorer in scorers for metric in scorer.metrics if metric.name == self.plan.metric)
        return terms_of(self.config, self.plan, metric, self.row.significance_level)

    def _fail(self, reason: str) -> None:
        self._stop(self.runs)
        self.results.error = reason
        self._ended("failed")

    def _ended(self, status: str) -> None:
        self.results.calls = calls_of(self.links, self.plan)
        self.results.race, self.results.stopped = None, False
        end(self.session, self.row, status)
        self._store()

    def _store(self) -> None:
        self.row.results = self.results.model_dump(mode="json")


def terms_of(config: ABTestConfig, plan: ABTestPlan, metric: Metric, alpha: float) -> Terms:
    """How a sequential test of this design is decided."""
    low, high = metric.scale
    assert low is not None
    assert high is not None
    binary = metric.kind == "binary" and plan.epochs == 1
    effect, prior = config.minimum_detectable_effect, UNIFORM
    if binary and effect is not None:
        prior = planned_prior(effect, planned_discordance(config))
    return Terms(
        alpha=alpha,
        binary=binary,
        low=low,
        high=high,
        higher_is_better=metric.higher_is_better,
        margin=config.margin,
        prior=prior,
    )


def _ended(run: EvaluationRun) -> str:
    reason = f": {run.error_message}" if run.error_message else ""
    return f"has {run.status}{reason}" if run.status == "failed" else f"was cancelled{reason}"
