"""`rouge`: ROUGE-1, -2, -L and -Lsum, the F-measure of rouge-score to the last digit, the best over the references.

Tokens, n-grams and the union of ROUGE-Lsum are rouge-score's own code; only the length of ROUGE-L's common subsequence
is counted here, with one machine word for 64 tokens instead of a table (the same number, some hundred times faster).

Time: rouge-score is pure Python and cannot be interrupted, so what it may cost is bounded beforehand: ROUGE-Lsum fills
a table of (words of the completion) x (words of the reference) cells, about 0.1 microseconds each (`max_cells`).
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any, Literal

from pydantic import Field
from rouge_score import rouge_scorer
from rouge_score.tokenizers import DefaultTokenizer

from evalservice.records import Score
from evalservice.scoring.base import Item, ItemFailed, Metric, Scorer, ScorerParameters
from evalservice.scoring.references import references

RougeType = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+")


class Rouge(Scorer["Rouge.Parameters"]):
    """F-measures in 0..1."""

    class Parameters(ScorerParameters):
        """types: which metrics; stemmer: Porter's, which changes the values.

        sentences: where ROUGE-Lsum finds sentences: "newline", one a line as rouge-score expects; "split", after each
        . ! or ? as well, for texts that are not laid out so (elsewhere ROUGE-Lsum of one line is just ROUGE-L).
        """

        types: tuple[RougeType, ...] = Field(default=("rouge1", "rouge2", "rougeL", "rougeLsum"), min_length=1)
        stemmer: bool = False
        sentences: Literal["newline", "split"] = "newline"
        max_chars: int = Field(default=100_000, ge=1)
        max_cells: int = Field(default=4_000_000, ge=1)

    name = "rouge"

    def __init__(self, parameters: Rouge.Parameters, alias: str | None = None) -> None:
        super().__init__(parameters, alias)
        self._tokenizer = DefaultTokenizer(parameters.stemmer)
        self._types = tuple(dict.fromkeys(parameters.types))

    def own_metrics(self) -> tuple[Metric, ...]:
        return tuple(Metric(name, "continuous") for name in dict.fromkeys(self.parameters.types))

    def foreign_version(self) -> str:
        return (
            f"rouge-score:{version('rouge-score')}|nltk:{version('nltk')}"
            if self.parameters.stemmer
            else (f"rouge-score:{version('rouge-score')}")
        )

    def score_item(self, item: Item) -> Score:
        given = _Text(item.text, self)
        best: dict[str, float | None] = dict.fromkeys(self._types, 0.0)
        for reference in references(item.case):
            if len(reference) > self.parameters.max_chars:
                raise ItemFailed(
                    f"a reference has {len(reference)} characters, max_chars is {self.parameters.max_chars}"
                )
            wanted = _Text(reference, self)
            for name in self._types:
                best[name] = max(best[name] or 0.0, float(self._compare(name, wanted, given)))
        return Score("scored", best)

    def _compare(self, name: RougeType, wanted: _Text, given: _Text) -> float:
        if name == "rougeLsum":
            cells = len(wanted.tokens) * len(given.tokens)
            if cells > self.parameters.max_cells:
                raise ItemFailed(f"rougeLsum would fill {cells} cells, max_cells is {self.parameters.max_cells}")
            return float(rouge_scorer._summary_level_lcs(wanted.sentences, given.sentences).fmeasure)
        if name == "rougeL":
            if not wanted.tokens or not given.tokens:
                return 0.0
            length = common_subsequence(wanted.tokens, given.tokens)
            precision, recall = length / len(given.tokens), length / len(wanted.tokens)
            return 2 * precision * recall / (precision + recall) if length else 0.0
        order = int(name[-1])
        return float(rouge_scorer._score_ngrams(wanted.ngrams(order), given.ngrams(order)).fmeasure)


class _Text:
    """A text cut in what the ROUGE types compare; each cut is made once and only when asked for."""

    def __init__(self, text: str, scorer: Rouge) -> None:
        tokenize = scorer._tokenizer.tokenize
        self._ngrams: dict[int, Any] = {}
        self.sentences: list[list[str]] = []
        if "rougeLsum" in scorer._types:
            if scorer.parameters.sentences == "split":
                text = _SENTENCE_END.sub("\n", text)
            self.sentences = [tokenize(line) for line in text.split("\n") if line]
        # a line break is no part of a token, so the text's tokens are its lines' (stemming twice would cost the most)
        self.tokens: list[str] = [t for line in self.sentences for t in line] if self.sentences else tokenize(text)

    def ngrams(self, order: int) -> Any:
        if order not in self._ngrams:
            self._ngrams[order] = rouge_scorer._create_ngrams(self.tokens, order)
        return self._ngrams[order]


def common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö 2004): a Python integer is the table's column."""
    where: dict[str, int] = {}
    for position, token in enumerate(first):
        where[token] = where.get(token, 0) | 1 << position
    everything = (1 << len(first)) - 1
    row = everything
    for token in second:
        if matches := where.get(token, 0):
            kept = row & matches
            row = ((row + kept) | (row - kept)) & everything
    return len(first) - row.bit_count()
