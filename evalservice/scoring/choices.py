"""`multiple_choice`: which of the choices the completion takes.

    "(B)", "B.", "**B**", "b", "Answer: B", "The answer is B because …", "\\boxed{B}", "B) Paris", "Paris"  ->  "B"

Where it is looked for, in this order:
1. the whole completion (without brackets, emphasis, full stop) is a letter or a choice's text;
2. after the last "answer is", "answer:", "correct option is" or in the last `\\boxed{}`: a choice's text or a letter;
3. the completion begins with a marked letter: "B)", "B.", "(B)", "**B**", "B: Paris";
4. the last letter in brackets or emphasis, or after "option" or "choice";
5. the only choice whose text occurs;
6. the last capital letter that stands alone.
"A" and "I" before a lower-case word are an article and a pronoun, unless a word such as "because" follows. Letters
within prose are capitals; small ones count only in brackets, after a marker, or alone.

With `mode` "likelihood" nothing is read: see `evalservice.scoring.likelihood`.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache
from typing import Literal

from pydantic import Field, model_validator

from evalservice.errors import shown
from evalservice.records import JSON, Score
from evalservice.scoring.base import Item, ItemFailed, Metric, Scorer, ScorerParameters, scored
from evalservice.scoring.likelihood import Continuation, Likelihood, PromptForm, likeliest, likeliest_by_length
from evalservice.scoring.references import alternatives

_DRESSING = " \t\r\n*_`\"'()[]{}.,:;$"
_MARKER = re.compile(
    r"(?:\banswer|\bANSWER|\bAnswer|\b(?:[Cc]orrect|[Bb]est|[Rr]ight)\s+(?:option|choice|answer))\b[\s*_]*"
    r"(?:is\b|was\b|would be\b|should be\b|:|=)[\s*_:]*(?:(?:option|choice|letter|Option|Choice)\b[\s*_:]*)?"
    r"|\\boxed\s*\{\s*(?:\\text\w*\s*\{)?",
)
_LIKELIHOOD_ONLY = {"continuation", "prompt", "delimiter"}
_CONNECTORS = (
    "because|since|as|and|which|is|was|for|due|but|so|or|not|seems|makes|would|matches|follows|given|from|with"
)
_NOT_ARTICLE = rf"(?!\s+(?!(?:{_CONNECTORS})\b)[a-z])"


class MultipleChoice(Scorer["MultipleChoice.Parameters"]):
    """1 when the chosen letter is an expected one, else 0; no choice found is 0, with `extracted` null.

    The expected output is a letter, a choice's text, or an index from 0 (a number, or its digits where no choice reads
    so). Choices are the test case's; without them only letters are understood.
    """

    class Parameters(ScorerParameters):
        """letters: the labels of the choices, in order.

        mode: "answer" reads the choice out of the completion, "likelihood" takes the likeliest continuation of the
        prompt. The rest is for that. continuation: the choice's text or its letter. prompt: "plain" text, or "chat" for
        the model's chat template. delimiter: between prompt and continuation; by default a blank, with "chat" nothing.
        """

        max_chars: int = Field(default=200_000, ge=1)
        letters: str = Field(default=string.ascii_uppercase, min_length=2, pattern=r"^[A-Z]+$")
        mode: Literal["answer", "likelihood"] = "answer"
        continuation: Continuation = "choice"
        prompt: PromptForm = "plain"
        delimiter: str | None = Field(default=None, max_length=100)

        @model_validator(mode="after")
        def _only_with_likelihood(self) -> MultipleChoice.Parameters:
            idle = sorted(_LIKELIHOOD_ONLY & self.model_fields_set)
            if self.mode == "answer" and idle:
                raise ValueError(f'{", ".join(idle)}: only with the mode "likelihood"')
            return self

        @property
        def likelihood(self) -> Likelihood | None:
            """How the model is asked, None where it answers."""
            if self.mode == "answer":
                return None
            default = " " if self.prompt == "plain" else ""
            delimiter = default if self.delimiter is None else self.delimiter
            return Likelihood(self.continuation, self.prompt, delimiter, self.letters)

    name = "multiple_choice"

    def own_metrics(self) -> tuple[Metric, ...]:
        """The accuracy; by likelihood also lm-evaluation-harness' acc_norm."""
        norm = (Metric("multiple_choice_norm", "binary"),) if self.parameters.mode == "likelihood" else ()
        return (Metric("multiple_choice", "binary"), *norm)

    def idle_parameters(self) -> set[str]:
        return set() if self.parameters.mode == "likelihood" else {"mode", *_LIKELIHOOD_ONLY}

    def score_item(self, item: Item) -> Score:
        choices = item.case.choices or ()
        if len(choices) > len(self.parameters.letters):
            raise ItemFailed(f"{len(choices)} choices but only {len(self.parameters.letters)} letters")
        letters = self.parameters.letters[: len(choices)] if choices else self.parameters.letters[:10]
        expected = {self._letter(answer, letters, choices) for answer in alternatives(item.case.expected_output)}
        if not expected:
            raise ItemFailed("the test case has no expected_output")
        if self.parameters.mode == "likelihood":
            texts = choices if self.parameters.continuation == "choice" else tuple(letters)
            return _by_likelihood(item, texts, letters, expected)
        found = chosen(item.text, letters, choices)
        wanted = sorted(expected)
        return scored({"multiple_choice": float(found in expected)}, extracted=found, expected=wanted[0])

    def _letter(self, answer: JSON, letters: str, choices: tuple[str, ...]) -> str:
        text = str(answer).strip()
        if isinstance(answer, str):
            by_text = [letter for letter, choice in zip(letters, choices, strict=False) if _same(choice, text)]
            bare = text.strip(_DRESSING).upper()
            if bare in letters and len(bare) == 1:
                return bare
            if by_text:
                return by_text[0]
        if not isinstance(answer, bool) and text.isdecimal() and len(text) < 3 and int(text) < len(letters):
            return letters[int(text)]
        raise ItemFailed(f"expected_output {shown(answer)} is no letter of {letters}, no index and no choice's text")


def _by_likelihood(item: Item, texts: tuple[str, ...], letters: str, expected: set[str]) -> Score:
    if not item.case.choices:
        raise ItemFailed("the test case has no choices")
    if item.log_likelihoods is None or len(item.log_likelihoods) != len(texts):
        raise ItemFailed(f"{len(item.log_likelihoods or ())} log-likelihoods for {len(texts)} choices")
    raw = letters[likeliest(item.log_likelihoods)]
    norm = letters[likeliest_by_length(item.log_likelihoods, texts)]
    return scored(
        {"multiple_choice": float(raw in expected), "multiple_choice_norm": float(norm in expected)},
        extracted=raw,
        extracted_norm=norm,
        expected=min(expected),
        log_likelihoods=list(item.log_likelihoods),
    )


def chosen(text: str, letters: str, choices: tuple[str, ...] = ()) -> str | None:
    """The letter that the text takes, or None. `choices` are the texts of the first letters, in order."""
    bare = text.strip(_DRESSING)
    if len(bare) == 1 and bare.upper() in letters:
        return bare.upper()
    for letter, choice in zip(letters, choices, strict=False):
        if _same(choice, bare):
            return letter
    patterns = _patterns(letters)
    for marker in reversed(list(_MARKER.finditer(text))):
        if found := _after(text[marker.end() :].lstrip(), letters, choices, patterns[0]):
            return found
    if begin := patterns[1].match(text):
        return _upper(begin)
    marked = None
    for marked in patterns[2].finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if marked:
        return _upper(marked)
    if found := _only_text(text, letters, choices):
        return found
    for alone in patterns[3].finditer(text):
        found = _upper(alone)
    return found


@lru_cache(maxsize=32)
def _patterns(letters: str) -> tuple[re.Pattern[str], ...]:
    """After a marker; at the beginning; in brackets or emphasis; alone."""
    big, both = f"[{letters}]", f"[{letters}{letters.lower()}]"
    article = rf"(?:(?![AI]){big}|(?=[AI]){big}{_NOT_ARTICLE})"
    return (
        re.compile(
            rf"[\"'(\[*_{{\s]*(?:(?P<a>{big}){_NOT_ARTICLE}|(?P<b>{both})(?=[)\]*_}}.\"']|\s*$|\s*\n))(?![\w'’])"
        ),
        re.compile(rf"[\s\"'(\[*_]*(?:(?P<a>{big})(?=[)\]*_.:]|\s*\n)|(?P<b>{both})(?=\)))(?!\w)"),
        re.compile(
            rf"\((?P<a>{both})\)|\[(?P<b>{both})\]|\*\*\(?(?P<c>{big})[).:]?(?:\*\*|\s)"
            rf"|\b(?:[Oo]ption|[Cc]hoice)\s+\(?(?P<d>{big})(?![\w'’])"
        ),
        re.compile(rf"(?<![\w'’.-])(?P<a>{article})(?![\w'’-])"),
    )


def _after(rest: str, letters: str, choices: tuple[str, ...], pattern: re.Pattern[str]) -> str | None:
    """What stands after a marker: a choice's text (the longest that fits), else a letter."""
    head = rest.lstrip("*_\"'` ")[:2_000].casefold()
    texts = sorted(zip(choices, letters, strict=False), key=lambda pair: -len(pair[0]))
    for choice, letter in texts:
        wanted = choice.strip().casefold()
        if len(wanted) > 1 and head.startswith(wanted) and not head[len(wanted) : len(wanted) + 1].isalnum():
            return letter
    match = pattern.match(rest)
    return _upper(match) if match else None


def _only_text(text: str, letters: str, choices: tuple[str, ...]) -> str | None:
    """The one choice whose text occurs as words; a text within another that occurs does not count."""
    folded = text.casefold()
    found = [
        (choice.strip().casefold(), letter)
        for letter, choice in zip(letters, choices, strict=False)
        if choice.strip() and re.search(rf"(?<!\w){re.escape(choice.strip().casefold())}(?!\w)", folded)
    ]
    outer = [(c, letter) for c, letter in found if not any(c != other and c in other for other, _ in found)]
    return outer[0][1] if len(outer) == 1 else None


def _same(choice: str, text: str) -> bool:
    return bool(choice.strip()) and choice.strip(_DRESSING).casefold() == text.strip(_DRESSING).casefold() != ""


def _upper(match: re.Match[str]) -> str:
    return next(group for group in match.groupdict().values() if group).upper()
