"""`bleu`, `chrf` and `ter`: sacrebleu's metrics, per item and, from the sum of the items' statistics, of the corpus.

    Score("scored", {"bleu": 53.7}, statistics={"bleu": (9, 9, 8, 6, 4, 2, 9, 8, 7, 6)})

The statistics of BLEU are hypothesis length, reference length, correct and total n-grams; of chrF, for each order,
hypothesis, reference and matching n-grams; of TER, edits and mean reference length. The corpus value of a thousand
shards is sacrebleu's `corpus_score` of the whole.

Time: BLEU and chrF are linear and pure Python, which cannot be interrupted, so `max_chars` bounds them: an item at its
bound takes 0.3 to 0.8 s. TER's search for shifts took 7 s for 300 words that share no order and 50 s for 1,000, and
0.1 s for texts of the same length that resemble each other; so it looks at the clock between candidates (`timeout`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from sacrebleu.metrics import BLEU, CHRF, TER, lib_ter

from evalservice.errors import InvalidInput
from evalservice.records import Score
from evalservice.scoring.base import Item, ItemFailed, Metric, P, Scorer, ScorerParameters
from evalservice.scoring.references import references


class _Sacrebleu(Scorer[P]):
    """What the three share: statistics of a segment, a value from statistics."""

    def __init__(self, parameters: P, alias: str | None = None) -> None:
        self._metric = self._build(parameters)
        super().__init__(parameters, alias)

    def _build(self, parameters: P) -> Any:
        raise NotImplementedError

    def corpus_value(self, total: Sequence[float]) -> float | None:
        """The corpus' value from the sum of its items' statistics."""
        return float(self._metric._compute_score_from_stats(list(total)).score)

    def item_value(self, statistics: Sequence[float]) -> float | None:
        return self.corpus_value(statistics)

    def foreign_version(self) -> str:
        """sacrebleu's signature, less the number of references, which is the data's."""
        known = self._metric._SIGNATURE_TYPE({**vars(self._metric), "num_refs": -1})
        signature = dict(pair.split(":", 1) for pair in str(known).split("|"))
        return "|".join(f"{name}:{value}" for name, value in signature.items() if name != "nrefs")

    def score_items(self, items: Sequence[Item]) -> list[Score]:
        try:
            return super().score_items(items)
        finally:
            self._forget()

    def score_item(self, item: Item) -> Score:
        texts = references(item.case)
        self._check_length(item.text, texts)
        statistics = self._statistics(item.text, texts)
        return Score("scored", {self.name: self.item_value(statistics)}, {self.name: tuple(statistics)})

    def _statistics(self, text: str, texts: tuple[str, ...]) -> Sequence[float]:
        [statistics] = self._metric._extract_corpus_statistics([text], [[each] for each in texts])
        return tuple(statistics)

    def _check_length(self, text: str, texts: tuple[str, ...]) -> None:
        longest = max(map(len, texts))
        if longest > self.parameters.max_chars:
            raise ItemFailed(f"a reference has {longest} characters, max_chars is {self.parameters.max_chars}")

    def _forget(self) -> None:
        """sacrebleu's tokenizers remember their last 65,536 texts for ever: gigabytes, were the texts long."""
        tokenizer = getattr(self._metric, "tokenizer", None)
        while tokenizer is not None:
            clear = getattr(type(tokenizer).__call__, "cache_clear", None)
            if clear is not None:
                clear()
            tokenizer = getattr(tokenizer, "_post_tokenizer", None)


class Bleu(_Sacrebleu["Bleu.Parameters"]):
    """BLEU in 0..100. Per item with effective order, as sacrebleu's `sentence_bleu`; the corpus without."""

    class Parameters(ScorerParameters):
        """As sacrebleu's. Tokenizers that would download a model (spm, flores) are left out."""

        max_chars: int = Field(default=200_000, ge=1)
        tokenize: Literal["13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none"] = "13a"
        lowercase: bool = False
        smooth_method: Literal["exp", "floor", "add-k", "none"] = "exp"
        smooth_value: float | None = None
        max_ngram_order: int = Field(default=4, ge=1, le=8)

    name = "bleu"

    def own_metrics(self) -> tuple[Metric, ...]:
        return (Metric("bleu", "corpus", (0.0, 100.0), aggregate=self.corpus_value),)

    def _build(self, parameters: Bleu.Parameters) -> Any:
        try:
            return BLEU(**parameters.model_dump(exclude={"max_chars"}), force=True)
        except (ImportError, RuntimeError) as error:
            accepted = f"a tokenizer that is installed ({str(error).strip().splitlines()[0]})"
            raise InvalidInput("tokenize", parameters.tokenize, accepted) from error

    def corpus_value(self, total: Sequence[float]) -> float | None:
        return self._value(total, False)

    def item_value(self, statistics: Sequence[float]) -> float | None:
        return self._value(statistics, True)

    def _value(self, statistics: Sequence[float], effective_order: bool) -> float:
        order, counts = self.parameters.max_ngram_order, [round(count) for count in statistics]
        score = BLEU.compute_bleu(
            correct=counts[2 : 2 + order],
            total=counts[2 + order :],
            sys_len=counts[0],
            ref_len=counts[1],
            smooth_method=self.parameters.smooth_method,
            smooth_value=self.parameters.smooth_value,
            effective_order=effective_order,
            max_ngram_order=order,
        )
        return float(score.score)


class Chrf(_Sacrebleu["Chrf.Parameters"]):
    """chrF in 0..100; chrF++ with `word_order: 2`."""

    class Parameters(ScorerParameters):
        """As sacrebleu's."""

        max_chars: int = Field(default=100_000, ge=1)
        char_order: int = Field(default=6, ge=1, le=10)
        word_order: int = Field(default=0, ge=0, le=4)
        beta: int = Field(default=2, ge=1)
        lowercase: bool = False
        whitespace: bool = False
        eps_smoothing: bool = False

    name = "chrf"

    def own_metrics(self) -> tuple[Metric, ...]:
        return (Metric("chrf", "corpus", (0.0, 100.0), aggregate=self.corpus_value),)

    def _build(self, parameters: Chrf.Parameters) -> Any:
        return CHRF(**parameters.model_dump(exclude={"max_chars"}))


class Ter(_Sacrebleu["Ter.Parameters"]):
    """Translation edit rate, in percent of the reference's words: 0 is best, above 100 is possible."""

    class Parameters(ScorerParameters):
        """As sacrebleu's. max_words: of the completion and of each reference. timeout: seconds for one item."""

        max_chars: int = Field(default=20_000, ge=1)
        max_words: int = Field(default=1_000, ge=1)
        timeout: float = Field(default=5.0, gt=0, le=600)
        normalized: bool = False
        no_punct: bool = False
        asian_support: bool = False
        case_sensitive: bool = False

    name = "ter"

    def own_metrics(self) -> tuple[Metric, ...]:
        return (Metric("ter", "corpus", (0.0, None), higher_is_better=False, aggregate=self.corpus_value),)

    def _build(self, parameters: Ter.Parameters) -> Any:
        return TER(**parameters.model_dump(exclude={"max_chars", "max_words", "timeout"}))

    def _statistics(self, text: str, texts: tuple[str, ...]) -> Sequence[float]:
        given, *wanted = (self._metric._preprocess_segment(each).split() for each in (text, *texts))
        longest = max(map(len, (given, *wanted)))
        if longest > self.parameters.max_words:
            raise ItemFailed(f"a text of {longest} words is too long for TER: max_words is {self.parameters.max_words}")
        deadline = time.monotonic() + self.parameters.timeout
        try:
            edits = [fewest_edits(given, each, deadline) for each in wanted]
        except TimeoutError:
            raise ItemFailed(f"TER took longer than {self.parameters.timeout} s") from None
        return min(edits), sum(map(len, wanted)) / len(wanted)


def fewest_edits(given: list[str], wanted: list[str], deadline: float) -> int:
    """sacrebleu's `translation_edit_rate`, that raises TimeoutError past the deadline: shifts, then edits."""
    if not wanted:
        return len(given)
    distance = lib_ter.BeamEditDistance(wanted)

    def timed(words: list[str]) -> Any:
        if time.monotonic() > deadline:
            raise TimeoutError
        return distance(words)

    shifts = checked = 0
    while True:
        gain, shifted, checked = lib_ter._shift(given, wanted, timed, checked)
        if checked >= lib_ter._MAX_SHIFT_CANDIDATES or gain <= 0:
            break
        shifts += 1
        given = shifted
    edits, _ = timed(given)
    return shifts + int(edits)
