"""`exact_match` and `includes`: the completion is, or contains, an expected answer."""

from __future__ import annotations

import re
import string
import unicodedata
from typing import Literal

from evalservice.records import Score
from evalservice.scoring.base import Item, Metric, Scorer, ScorerParameters, brief, scored
from evalservice.scoring.references import references

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _TextParameters(ScorerParameters):
    """How texts are normalised before they are compared, completion and reference alike. Both are always NFC.

    strip: without surrounding white space; ignore_case: case-folded; ignore_punctuation: without ASCII punctuation;
    collapse_whitespace: every run of white space is one space.
    """

    strip: bool = True
    ignore_case: bool = False
    ignore_punctuation: bool = False
    collapse_whitespace: bool = False

    def normalised(self, text: str) -> str:
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = text.translate(_PUNCTUATION)
        if self.collapse_whitespace:
            text = " ".join(text.split())
        return text.strip() if self.strip else text


class ExactMatch(Scorer["ExactMatch.Parameters"]):
    """1 when the completion equals a reference after normalisation, else 0."""

    class Parameters(_TextParameters):
        pass

    name = "exact_match"
    declared = (Metric("exact_match", "binary"),)

    def score_item(self, item: Item) -> Score:
        given = self.parameters.normalised(item.text)
        hit = any(given == self.parameters.normalised(reference) for reference in references(item.case))
        return scored({"exact_match": float(hit)}, extracted=brief(given))


class Includes(Scorer["Includes.Parameters"]):
    """1 when the completion contains a reference (any or all of them), else 0. Case is ignored by default."""

    class Parameters(_TextParameters):
        """mode: "any" or "all" of the references; whole_words: no word character may touch the reference."""

        ignore_case: bool = True
        mode: Literal["any", "all"] = "any"
        whole_words: bool = False

    name = "includes"
    declared = (Metric("includes", "binary"),)

    def score_item(self, item: Item) -> Score:
        text = self.parameters.normalised(item.text)
        found = [r for r in references(item.case) if self._contains(text, self.parameters.normalised(r))]
        wanted = len(references(item.case)) if self.parameters.mode == "all" else 1
        return scored({"includes": float(len(found) >= wanted)}, found=[brief(r) for r in found])

    def _contains(self, text: str, reference: str) -> bool:
        if not self.parameters.whole_words:
            return reference in text
        return re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", text) is not None
