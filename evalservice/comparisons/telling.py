"""What an A/B test says of itself: its state while it runs, its conclusion in numbers and in words. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from evalservice.comparisons.ab_results import MOST_LOOKS, Calls, Look, ModelState, PairState, StoredResults
from evalservice.comparisons.ab_schemas import ABTestPlan
from evalservice.comparisons.comparing import gate_of
from evalservice.comparisons.race import SHOWN_LEVEL, Duel, Race, simultaneous_level
from evalservice.comparisons.schemas import ComparisonRead, MetricRead, PairRead
from evalservice.statistics.sequential import share_interval
from evalservice.tables import ABTestRun, EvaluationRun

_OUTCOMES = {"first": "a", "second": "b", "equivalent": "equivalent"}


def pair_states(race: Race) -> list[PairState]:
    """Every pair as it stands."""
    return [_pair_state(duel, race) for duel in race.duels]


def _pair_state(duel: Duel, race: Race) -> PairState:
    difference = duel.interval(SHOWN_LEVEL)
    share = share_interval(duel.wins, duel.losses, SHOWN_LEVEL, race.terms.prior) if race.terms.binary else None
    return PairState.model_validate(
        {
            "model_a": duel.first,
            "model_b": duel.second,
            "n": duel.n,
            "wins_a": duel.wins,
            "ties": duel.ties,
            "wins_b": duel.losses,
            "difference": difference.value,
            "ci_low": difference.low,
            "ci_high": difference.high,
            "win_share": share and share.value,
            "win_share_low": share and share.low,
            "win_share_high": share and share.high,
            "p_value": duel.p_value,
            "p_corrected": duel.p_corrected,
            "outcome": None if duel.outcome is None else _OUTCOMES[duel.outcome],
        }
    )


def model_states(
    links: Sequence[ABTestRun], reached: Mapping[str, int], stopped: Collection[str]
) -> dict[uuid.UUID, ModelState]:
    """Each model's part, by model id."""
    return {
        link.model_id: ModelState(
            evaluation_run_id=link.evaluation_run_id,
            is_shared=link.is_shared,
            test_cases=reached[str(link.model_id)],
            stopped=str(link.model_id) in stopped,
        )
        for link in links
    }


def look_of(race: Race, now: datetime) -> Look:
    """A race's look at this moment."""
    return Look(at=now, test_cases=race.position, p_values=[duel.p_corrected for duel in race.duels])


def thinned(looks: list[Look], planned: int) -> list[Look]:
    """The looks without the last but one, when it came too soon after the one before it."""
    if len(looks) > 2 and looks[-2].test_cases - looks[-3].test_cases < planned / MOST_LOOKS:
        return [*looks[:-2], looks[-1]]
    return looks


def calls_of(links: Sequence[ABTestRun], plan: ABTestPlan) -> Calls:
    """What the test has cost, and what it has not."""
    each = plan.test_cases * plan.epochs
    runs = [link.evaluation_run for link in links if not link.is_shared]
    made = sum(run.completed_test_cases + run.failed_test_cases for run in runs) * plan.epochs
    return Calls(
        planned=each * len(links),
        made=made,
        saved_by_stopping=max(0, each * len(runs) - made),
        saved_by_sharing=each * (len(links) - len(runs)),
    )


def concluded(
    results: StoredResults,
    comparison: ComparisonRead,
    plan: ABTestPlan,
    runs: Mapping[str, EvaluationRun],
    race: Race | None,
) -> StoredResults:
    """The results with their verdict. runs: by model id, the candidate's first. race: of a sequential test.

    A sequential test is decided by its race: the deciding metric's verdict, p values and intervals are then those that
    hold at every look, because those of a fixed number of test cases would claim too much.
    """
    metric = comparison.metrics[plan.metric]
    model_of = {run.id: uuid.UUID(model) for model, run in runs.items()}
    warnings = list(comparison.warnings)
    if race is None:
        beaten = {model_of[loser] for pair in metric.pairs if (loser := _loser(pair, metric, comparison))}
        leaders = [model for model in model_of.values() if model not in beaten]
        verdict, said = metric.verdict, metric.said
        if verdict == "inconclusive":
            said = f"no winner: {_tied(leaders, runs)}; {said}"
    else:
        standing = race.standing()
        leaders = [uuid.UUID(model) for model in standing.leaders]
        verdict = standing.verdict or "inconclusive"
        said = _said(race, runs, plan)
        winner = runs[standing.leaders[0]].id if verdict == "winner" else None
        pairs = [_replaced(pair, duel, race) for pair, duel in zip(metric.pairs, race.duels, strict=True)]
        metric = metric.model_copy(update={"verdict": verdict, "winner": winner, "said": said, "pairs": pairs})
        if race.position < plan.test_cases and len(plan.metrics) > 1:
            warnings.append(
                f"the test ended early because of {plan.metric}: the intervals of the other metrics are for exploring"
            )
    gate = gate_of(metric, next(iter(runs.values())).id)
    if verdict == "equivalent" and uuid.UUID(next(iter(runs))) not in leaders:
        gate = "no_go"
    shown = comparison.model_copy(
        update={
            "metrics": {**comparison.metrics, plan.metric: metric},
            "primary": plan.metric,
            "gate": gate,
            "warnings": warnings,
        }
    )
    return results.model_copy(
        update={"verdict": verdict, "said": said, "leaders": leaders, "comparison": shown, "error": ""}
    )


def _loser(pair: PairRead, metric: MetricRead, comparison: ComparisonRead) -> uuid.UUID | None:
    """The run that a pair's test says is worse, beyond the margin."""
    low, high = pair.simultaneous_low, pair.simultaneous_high
    if low is None or high is None or pair.p_corrected >= comparison.alpha:
        return None
    if low > comparison.margin:
        return pair.run_b if metric.higher_is_better else pair.run_a
    if high < -comparison.margin:
        return pair.run_a if metric.higher_is_better else pair.run_b
    return None


def _replaced(pair: PairRead, duel: Duel, race: Race) -> PairRead:
    """The pair with the p values and intervals that hold at every look."""
    own = duel.interval(SHOWN_LEVEL)
    level = simultaneous_level(race.terms.alpha, len(race.duels))
    simultaneous = duel.interval(level)
    return pair.model_copy(
        update={
            "test": "e_process" if race.terms.binary else "betting",
            "interval": "confidence_sequence",
            "ci_low": own.low,
            "ci_high": own.high,
            "simultaneous_low": simultaneous.low,
            "simultaneous_high": simultaneous.high,
            "p_value": duel.p_value,
            "p_corrected": duel.p_corrected,
        }
    )


def _said(race: Race, runs: Mapping[str, EvaluationRun], plan: ABTestPlan) -> str:
    standing = race.standing()
    leaders = [uuid.UUID(model) for model in standing.leaders]
    involved = [duel for duel in race.duels if duel.first in standing.leaders or duel.second in standing.leaders]
    seen = _seen(max(involved or race.duels, key=lambda duel: duel.p_corrected), runs)
    after = f"after {race.position:,} of at most {plan.test_cases:,} test cases"
    if standing.verdict == "winner":
        deciding = [duel for duel in involved if duel.outcome in ("first", "second")]
        nearest = max(deciding, key=lambda duel: duel.p_corrected)
        rest = "the other" if len(runs) == 2 else "every other"
        early = "; at an early stop a difference tends to look too large" if race.position < plan.test_cases else ""
        return f"{_named(leaders, runs)} is better than {rest}, decided {after}: {_seen(nearest, runs)}{early}"
    if standing.verdict == "equivalent":
        within = f"their differences lie within ±{race.terms.margin:g}"
        return f"{_named(leaders, runs)} are equivalent: {within}, decided {after} ({seen})"
    return f"no winner: {_tied(leaders, runs)} {after} ({seen})"


def _tied(leaders: Sequence[uuid.UUID], runs: Mapping[str, EvaluationRun]) -> str:
    return f"{_named(leaders, runs)} tie" if len(leaders) > 1 else "no model beats every other"


def _seen(duel: Duel, runs: Mapping[str, EvaluationRun]) -> str:
    found = duel.interval(SHOWN_LEVEL)
    names = f"{runs[duel.first].model.name} - {runs[duel.second].model.name}"
    if found.value is None or found.low is None or found.high is None:
        return f"{names}: nothing measured"
    wins = f", {duel.wins} wins to {duel.losses}" if duel.wins + duel.losses else ""
    interval = f"[{found.low:+.4f}, {found.high:+.4f}]"
    return f"{names} = {found.value:+.4f} {interval}{wins}, p = {duel.p_corrected:.3g}"


def _named(models: Sequence[uuid.UUID], runs: Mapping[str, EvaluationRun]) -> str:
    names = [runs[str(model)].model.name for model in models]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
