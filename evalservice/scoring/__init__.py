"""Scoring: what an answer is worth. Pure, a file per family; `BUILTIN` maps each name to its scorer.

scorers = build_scorers(["exact_match", {"name": "rouge", "params": {"stemmer": True}}])
extraction = build_extraction([{"after": "</think>"}, {"strip": True}])
items = [extraction.item(case, completion) for case, completion in answers]
scores = [scorer.score(items) for scorer in scorers]
"""

from evalservice.scoring.base import AnyScorer, Item, ItemFailed, Metric, MetricKind, Scorer, ScorerParameters
from evalservice.scoring.details import ItemScore, from_details, item_metrics, over_samples, score_details
from evalservice.scoring.extraction import Extraction, build_extraction
from evalservice.scoring.registry import BUILTIN, build_scorers, scorer_names

__all__ = [
    "BUILTIN",
    "AnyScorer",
    "Extraction",
    "Item",
    "ItemFailed",
    "ItemScore",
    "Metric",
    "MetricKind",
    "Scorer",
    "ScorerParameters",
    "build_extraction",
    "build_scorers",
    "from_details",
    "item_metrics",
    "over_samples",
    "score_details",
    "scorer_names",
]
