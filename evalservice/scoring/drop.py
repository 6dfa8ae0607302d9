"""`drop_f1`: the metric of DROP, which aligns spans one to one and lets no wrong number count.

expected_output: one answer (a text) or several accepted ones, each a text or a list of spans:

    [["3"]]    [["Bears", "Packers"], ["Bears", "Green Bay Packers"]]

Dua, Wang, Dasigi, Stanovsky, Singh and Gardner, "DROP: A Reading Comprehension Benchmark Requiring Discrete Reasoning
Over Paragraphs", NAACL 2019, section 4, and their evaluation script. Texts are cut at spaces and hyphens, lower-cased,
stripped of punctuation and articles, and numbers written alike (3.0). The F1 of two spans is that of their sets of
words, and 0 unless they share a number where the expected span has one; spans are paired so that the sum is greatest,
and the mean is over the larger number of spans. The best accepted answer counts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from evalservice.records import JSON, Score
from evalservice.scoring.base import Item, ItemFailed, Metric, Scorer, ScorerParameters, brief, scored

MAX_SPANS: Final = 200
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class DropF1(Scorer["DropF1.Parameters"]):
    """`drop_f1` and `drop_em` in 0..1."""

    class Parameters(ScorerParameters):
        """separator: what divides the spans of a completion; "" takes it as one span."""

        max_chars: int = Field(default=10_000, ge=1)
        separator: str = "|"

    name = "drop_f1"
    declared = (Metric("drop_f1", "continuous"), Metric("drop_em", "binary"))

    def score_item(self, item: Item) -> Score:
        separator = self.parameters.separator
        spans = [span for span in item.text.split(separator) if span.strip()] if separator else [item.text]
        given = normalised_spans(spans[:MAX_SPANS] or [""])
        exact = best = 0.0
        for answer in _answers(item.case.expected_output):
            wanted = normalised_spans(answer)
            exact = max(exact, float(set(given) == set(wanted) and len(given) == len(wanted)))
            best = max(best, aligned_f1(given, wanted))
        return scored({"drop_f1": best, "drop_em": exact}, extracted=brief(" | ".join(given)))


def _answers(expected: JSON) -> list[list[str]]:
    """The accepted answers as lists of spans. Raises `ItemFailed` where there is none."""
    several = expected if isinstance(expected, list | tuple) else [expected]
    answers = [[str(span) for span in (each if isinstance(each, list | tuple) else [each])] for each in several]
    known = [spans for spans in answers if spans and spans != ["None"] and any(span.strip() for span in spans)]
    if not known:
        raise ItemFailed("the test case has no expected_output")
    return known


def normalised_spans(spans: Sequence[str]) -> list[str]:
    """Each span as the script compares it."""
    return [" ".join(filter(None, (_token(token) for token in re.split(r"[ -]", span)))) for span in spans]


def _token(token: str) -> str:
    token = token.lower()
    if not _is_number(token):
        token = token.translate(_PUNCTUATION)
    if _is_number(token):
        token = str(float(token))
    return " ".join(_ARTICLES.sub(" ", token).split())


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def aligned_f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    """The mean F1 of spans that are paired for the greatest sum; spans without a partner are worth 0."""
    given_bags, wanted_bags = [set(span.split()) for span in given], [set(span.split()) for span in wanted]
    values = np.array([[_bag_f1(one, other) for one in given_bags] for other in wanted_bags])
    rows, columns = linear_sum_assignment(values, maximize=True)
    return float(values[rows, columns].sum()) / max(len(given), len(wanted))


def _bag_f1(given: set[str], wanted: set[str]) -> float:
    numbers = {word for word in wanted if _is_number(word)}
    if numbers and not numbers & given:
        return 0.0
    common = len(given & wanted)
    precision = common / len(given) if given else 1.0
    recall = common / len(wanted) if wanted else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
