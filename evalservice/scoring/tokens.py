"""`token_f1`: SQuAD's overlap of words, with its exact match beside it, both the best over the references."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Literal

from evalservice.records import Score
from evalservice.scoring.base import Item, Metric, Scorer, ScorerParameters, brief, scored
from evalservice.scoring.references import references

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """SQuAD's official normalisation: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(prediction: str, reference: str) -> float:
    """F1 of the words of two normalised texts, 0 when they share none (two empty texts included, as in SQuAD 1.1)."""
    given, wanted = prediction.split(), reference.split()
    common = (Counter(given) & Counter(wanted)).total()
    return 0.0 if common == 0 else 2 * common / (len(given) + len(wanted))


class TokenF1(Scorer["TokenF1.Parameters"]):
    """`token_f1` and `token_em` in 0..1 (SQuAD prints percent)."""

    class Parameters(ScorerParameters):
        """rules: what two answers without words are worth: 0 in SQuAD 1.1's script, 1 in 2.0's ("no answer")."""

        rules: Literal["1.1", "2.0"] = "1.1"

    name = "token_f1"
    declared = (Metric("token_f1", "continuous"), Metric("token_em", "binary"))

    def score_item(self, item: Item) -> Score:
        given = normalised(item.text)
        wanted = [normalised(reference) for reference in references(item.case)]
        exact = given in wanted
        best = max(f1(given, reference) for reference in wanted)
        if self.parameters.rules == "2.0" and exact:
            best = 1.0
        return scored({"token_f1": best, "token_em": float(exact)}, extracted=brief(given))
