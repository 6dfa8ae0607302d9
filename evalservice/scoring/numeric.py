"""`numeric_match`: the number that the completion ends in is an expected one. How it is found: `numbers`."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Literal

from pydantic import Field

from evalservice.errors import shown
from evalservice.records import JSON, Score
from evalservice.scoring.base import Item, ItemFailed, Metric, Scorer, ScorerParameters, brief, scored
from evalservice.scoring.numbers import Exact, Number, Where, find_number
from evalservice.scoring.references import alternatives


class NumericMatch(Scorer["NumericMatch.Parameters"]):
    """1 when the numbers are equal, exactly or within a tolerance, else 0. No number in the completion is 0.

    The expected output is a number, or a text (a whole worked solution, too) that is read as the completion is.
    """

    class Parameters(ScorerParameters):
        """|x - expected| <= max(rel_tol * |expected|, abs_tol); both 0: equal as fractions, 0.1 + 0.2 being 0.3.

        extract: "final" (boxed, ####, "answer is", last number), "last", "first", or "whole" (nothing but a number).
        percent: "shown" compares the number before the sign (50% is 50), "ratio" divides by 100 (50% is 0.5).
        decimal: the decimal sign of completion and expected text.
        """

        rel_tol: float = Field(default=0.0, ge=0, lt=1)
        abs_tol: float = Field(default=0.0, ge=0, allow_inf_nan=False)
        extract: Where = "final"
        percent: Literal["shown", "ratio"] = "shown"
        decimal: Literal[".", ","] = "."

    name = "numeric_match"
    declared = (Metric("numeric_match", "binary"),)

    def __init__(self, parameters: NumericMatch.Parameters, alias: str | None = None) -> None:
        super().__init__(parameters, alias)
        self._rel_tol, self._abs_tol = Fraction(str(parameters.rel_tol)), Fraction(str(parameters.abs_tol))

    def score_item(self, item: Item) -> Score:
        parameters = self.parameters
        expected = [self._expected(answer) for answer in alternatives(item.case.expected_output)]
        if not expected:
            raise ItemFailed("the test case has no expected_output")
        found = find_number(item.text, parameters.extract, parameters.decimal)
        if found is None:
            return scored({"numeric_match": 0.0}, extracted=None, expected=brief(expected[0].text))
        value = self._value(found)
        hit = next((e for e in expected if self._equal(value, self._value(e))), None)
        return scored(
            {"numeric_match": 0.0 if hit is None else 1.0},
            extracted=brief(found.text),
            expected=brief((hit or expected[0]).text),
        )

    def _expected(self, answer: JSON) -> Number:
        found = None
        if isinstance(answer, str):
            found = _read(answer, self.parameters.decimal)
        elif isinstance(answer, int | float) and not isinstance(answer, bool):
            found = find_number(repr(answer))
        if found is None:
            raise ItemFailed(f"expected_output {shown(answer)} holds no number")
        return found

    def _value(self, number: Number) -> Exact:
        return Fraction(number.value) / 100 if number.percent and self.parameters.percent == "ratio" else number.value

    def _equal(self, value: Exact, expected: Exact) -> bool:
        if value == expected:
            return True
        if not self._rel_tol and not self._abs_tol:
            return False
        given, wanted = Fraction(value), Fraction(expected)
        return abs(given - wanted) <= max(self._rel_tol * abs(wanted), self._abs_tol)


@lru_cache(maxsize=4096)
def _read(answer: str, decimal: Literal[".", ","]) -> Number | None:
    return find_number(answer, "final", decimal)
