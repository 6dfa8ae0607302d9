"""A benchmark's scorers, from its criteria."""

from __future__ import annotations

from evalservice.catalog.criteria import EvaluationCriteria
from evalservice.scoring import AnyScorer, build_scorers


def scorers_of(criteria: EvaluationCriteria) -> tuple[AnyScorer, ...]:
    """Built anew; raises InvalidInput when a third party's scorer is no longer installed."""
    return build_scorers([spec.model_dump(by_alias=True, exclude_none=True) for spec in criteria.scorers])
