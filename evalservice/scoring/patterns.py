"""`regex_match`: the completion matches a pattern. Every search has a time limit, so no pattern can stop a run."""

from __future__ import annotations

from typing import Any, Literal

import regex  # type: ignore[import-untyped]
from pydantic import Field, field_validator, model_validator

from evalservice.errors import shown
from evalservice.records import Score
from evalservice.scoring.base import Item, ItemFailed, Metric, Scorer, ScorerParameters, brief, scored
from evalservice.scoring.references import references

MAX_PATTERN_CHARS = 5_000


def compiled(pattern: str, *, ignore_case: bool = False, multiline: bool = False, dotall: bool = False) -> Any:
    """The compiled pattern, of the `regex` package, whose searches take a `timeout`. Raises ValueError, in one line,
    for a pattern that is too long or does not compile."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"a pattern has at most {MAX_PATTERN_CHARS} characters, this one {len(pattern)}")
    flags = ignore_case * regex.IGNORECASE | multiline * regex.MULTILINE | dotall * regex.DOTALL
    try:
        return regex.compile(pattern, flags)
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{shown(pattern)} is no regular expression: {error}") from error


class RegexMatch(Scorer["RegexMatch.Parameters"]):
    """1 when the completion matches. Three uses:

    - `pattern` alone: does the completion match it (no expected output needed)?
    - `pattern` and `group`: is what the group captured an expected answer (compared stripped)?
    - no `pattern`: the expected output is the pattern, or several, any of which may match.
    """

    class Parameters(ScorerParameters):
        """mode: where the pattern must match; timeout: seconds for one item, after which that item fails."""

        pattern: str | None = None
        group: int | str | None = None
        mode: Literal["search", "match", "fullmatch"] = "search"
        ignore_case: bool = False
        multiline: bool = False
        dotall: bool = False
        timeout: float = Field(default=1.0, gt=0, le=60)

        @field_validator("pattern")
        @classmethod
        def _compiles(cls, pattern: str | None) -> str | None:
            if pattern is not None:
                compiled(pattern)
            return pattern

        @model_validator(mode="after")
        def _group_exists(self) -> RegexMatch.Parameters:
            if self.group is not None:
                found = compiled(self.pattern) if self.pattern is not None else None
                if found is None:
                    raise ValueError("group needs a pattern")
                if self.group not in found.groupindex and self.group not in range(found.groups + 1):
                    raise ValueError(f"the pattern has no group {self.group!r}")
            return self

    name = "regex_match"
    declared = (Metric("regex_match", "binary"),)

    def score_item(self, item: Item) -> Score:
        pattern, group = self.parameters.pattern, self.parameters.group
        patterns = (pattern,) if pattern is not None else references(item.case)
        match = next((m for p in patterns if (m := self._search(p, item.text)) is not None), None)
        found = match.group(group or 0) if match else None
        hit = match is not None if group is None else found is not None and self._expected(found, item)
        return scored({"regex_match": float(hit)}, extracted=None if found is None else brief(found))

    def _search(self, pattern: str, text: str) -> Any:
        try:
            found = compiled(
                pattern,
                ignore_case=self.parameters.ignore_case,
                multiline=self.parameters.multiline,
                dotall=self.parameters.dotall,
            )
            return getattr(found, self.parameters.mode)(text, timeout=self.parameters.timeout)
        except TimeoutError:
            raise ItemFailed(f"the pattern {shown(pattern)} took longer than {self.parameters.timeout} s") from None
        except ValueError as error:
            raise ItemFailed(f"expected_output: {error}") from None

    def _expected(self, found: str, item: Item) -> bool:
        fold = str.casefold if self.parameters.ignore_case else str
        return fold(found.strip()) in {fold(reference.strip()) for reference in references(item.case)}
