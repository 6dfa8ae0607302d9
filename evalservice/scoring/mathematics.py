r"""`math_match`: the final answer of a worked solution equals the expected one, as mathematics is written in LaTeX.

    "… so the answer is \boxed{\dfrac{3}{4}}."  =  "\frac34"  =  "0.75"  =  "3/4"        "x \in [1,2)"  =  "[1, 2)"
    "\boxed{\left( 3, \frac{\pi}{2} \right)}"   =  "(3,\frac{\pi}{2})"                    "12\text{ cm}" =  "12"

The answer is what stands in the last `\boxed{}` or `\fbox{}`, else after the last "answer is" or "answer:", else the
last line. Two answers are equal when they are the same text once spacing, sizes of brackets, units, degree, dollar and
percent signs, `x =` and the like are gone and fractions and roots are written one way (the normalisation of Hendrycks
et al., "Measuring Mathematical Problem Solving With the MATH Dataset", 2021, and of Lewkowycz et al., "Solving
Quantitative Reasoning Problems with Language Models", 2022, appendix), or the same exact number, or lists in the same
brackets whose parts are equal.

Nothing is simplified symbolically: `x+1` and `1+x` differ. A computer algebra system would say that they are equal,
but can be made to think for ever by a completion such as 9^{9^{9^9}}, and its own timeouts need the main thread.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from pydantic import Field

from evalservice.records import Score
from evalservice.scoring.base import Item, Metric, Scorer, ScorerParameters, brief, scored
from evalservice.scoring.references import references

MAX_ANSWER_CHARS: Final = 2_000
_BOX = re.compile(r"\\f?boxed\s*(\{)?")
_PHRASE = re.compile(r"\b[Aa]nswer(?:\s+is\b|\s*:)\s*[:*]*\s*")
_DROPPED = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|limits)(?![A-Za-z])"
    r"|(?<!\\)\\[!,;: ]|~|\\(?:quad|qquad)(?![A-Za-z])"
    r"|\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\\?[$%]|[°]"
)
_UNIT = re.compile(r"\\(?:text|mbox|mathrm|textrm)\s*\{\s*[^{}]*\}(?:\s*\^\s*\{?\d\}?)?$")
_DRESSED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|emph|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|\\[A-Za-z]+|[^\s{}\\])\s*(\{[^{}]*\}|\\[A-Za-z]+|[^\s{}\\])")
_ROOT = re.compile(r"\\sqrt\s*([A-Za-z0-9])")
_ASSIGNED = re.compile(r"^(?:[A-Za-z](?:_\{?\w\}?)?(?:\([A-Za-z]\))?|[A-Za-z](?:,[A-Za-z])+)(?:=|\\in(?![A-Za-z]))")
_THOUSANDS = re.compile(r",\\!\s*(?=\d{3})")
_LETTER = re.compile(r"\([A-Z]\)")
_PLAIN = re.compile(r"-?(?:\d+|\d*\.\d+)")
_RATIO = re.compile(r"(-?)\(?(-?\d+)\)?/\(?(-?\d+)\)?")
_LATEX_RATIO = re.compile(r"(-?)\\frac\{(-?\d+)\}\{(-?\d+)\}")
_MIXED = re.compile(r"(-?)(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_PAIRS: Final = {"(": ")]", "[": ")]", "\\{": ("\\}",)}
_SPELLINGS: Final = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\ne ", "\\neq "),
    ("\\leq", "\\le"),
    ("\\geq", "\\ge"),
    ("\\lbrace", "\\{"),
    ("\\rbrace", "\\}"),
    ("\\infinity", "\\infty"),
    ("\u2212", "-"),
    ("\\cdot", "*"),
    ("\\times", "*"),
    ("π", "\\pi"),
    ("∞", "\\infty"),
    ("√", "\\sqrt"),
)


class MathMatch(Scorer["MathMatch.Parameters"]):
    """1 when the final answer is equal to a reference, else 0. No answer is 0, with `extracted` null."""

    class Parameters(ScorerParameters):
        max_chars: int = Field(default=200_000, ge=1)

    name = "math_match"
    declared = (Metric("math_match", "binary"),)

    def score_item(self, item: Item) -> Score:
        found = final_answer(item.text)
        wanted = [final_answer(reference) or reference for reference in references(item.case)]
        hit = found is not None and any(equal(found, each) for each in wanted)
        return scored(
            {"math_match": float(hit)}, extracted=None if found is None else brief(found), expected=brief(wanted[0])
        )


def final_answer(text: str) -> str | None:
    """The answer that a solution ends in, as it was written; None where there is none."""
    boxes = list(_BOX.finditer(text))
    for box in reversed(boxes[-20:]):
        if found := _boxed(text, box):
            return found
    phrases = list(_PHRASE.finditer(text))
    rest = text[phrases[-1].end() :] if phrases else text.strip().rpartition("\n")[2]
    line = rest.strip().partition("\n")[0].strip().strip("*").rstrip(".").strip()
    return line[:MAX_ANSWER_CHARS] or None


def _boxed(text: str, box: re.Match[str]) -> str | None:
    """What is within a box whose braces nest; to the line's end where it has none or is not closed."""
    rest = text[box.end() : box.end() + MAX_ANSWER_CHARS]
    if box[1]:
        depth = 1
        for position, character in enumerate(rest):
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return rest[:position].strip() or None
    return rest.partition("\n")[0].strip().strip("$").rstrip(".") or None


def equal(one: str, other: str) -> bool:
    """Whether two answers are the same, however they are written."""
    return _equal(normalised(one), normalised(other))


def _equal(one: str, other: str, depth: int = 0) -> bool:
    if one == other:
        return True
    first, second = number(one), number(other)
    if first is not None or second is not None:
        return first == second
    left, right = _parts(one), _parts(other)
    if left is None or right is None or left[0] != right[0] or len(left[1]) != len(right[1]) or depth > 3:
        return False
    return all(_equal(a, b, depth + 1) for a, b in zip(left[1], right[1], strict=True))


def normalised(answer: str) -> str:
    """An answer in one way of writing it."""
    text = _THOUSANDS.sub("", answer.strip()[:MAX_ANSWER_CHARS])
    for written, meant in _SPELLINGS:
        text = text.replace(written, meant)
    text = _DROPPED.sub("", text).strip()
    bare = _UNIT.sub("", text)
    text = _DRESSED.sub(r"\1", bare if bare.strip() else text)
    for _ in range(4):
        text = _FRACTION.sub(lambda found: f"\\frac{{{found[1].strip('{}')}}}{{{found[2].strip('{}')}}}", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"(?<=\d),(?:\\!)?(?=\d{3}(?!\d))", "", text) if not text.startswith(("(", "[", "\\{")) else text
    text = re.sub(r"\s+", "", text).rstrip(".")
    text = _ASSIGNED.sub("", text)
    return text[1:-1] if _LETTER.fullmatch(text) else text


def number(text: str) -> Fraction | None:
    """The exact number that a normalised answer is; None where it is something else."""
    if len(text) > 200:
        return None
    if _PLAIN.fullmatch(text):
        return Fraction(text)
    if found := _MIXED.fullmatch(text):
        sign, whole, top, bottom = found.groups()
        return None if int(bottom) == 0 else (-1 if sign else 1) * (int(whole) + Fraction(int(top), int(bottom)))
    if found := _RATIO.fullmatch(text) or _LATEX_RATIO.fullmatch(text):
        sign, top, bottom = found.groups()
        return None if int(bottom) == 0 else (-1 if sign else 1) * Fraction(int(top), int(bottom))
    return None


def _parts(text: str) -> tuple[str, list[str]] | None:
    """The brackets of a list and its parts between commas that are in no bracket; None for what is no list."""
    opening = next((each for each in _PAIRS if text.startswith(each)), "")
    closing = next((each for each in _PAIRS.get(opening, ()) if text.endswith(each)), "") if opening else ""
    inner = text[len(opening) : len(text) - len(closing)] if closing else text
    parts, depth, start = [], 0, 0
    for position, character in enumerate(inner):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return None
        if character == "," and depth == 0:
            parts.append(inner[start:position])
            start = position + 1
    parts.append(inner[start:])
    if len(parts) == 1 and not closing:
        return None
    return (opening + closing if closing else "", parts)
