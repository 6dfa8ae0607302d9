r"""The number that a worked solution ends in, exact.

    "… = <<48/2=24>>24 clips. #### 1,234.50"     1234.5        "\boxed{-\frac{3}{4}}"        -3/4
    "The answer is $18 per day, not 20."          18            "about 1 1/2 cups"            3/2
    "A: 3.0 bolts"                                3             "costs 1.5e-3, or 50 %"       50 (percent)

Where it is looked for, the first that holds a number wins, and of several the last:
1. `\boxed{…}` (braces nest; a box with a root or π in it is an answer that is no number);
2. `####`, to the end of its line;
3. "answer is", "answer:", "final answer:", or a line that begins with "A:", to the end of the line;
4. the last number of the text.
Within 1 to 3 it is the number after the last "=", else the first one.

Numbers are digits with thousands separators (1,234,567 or 1 234 567 with thin or non-breaking spaces; with plain
spaces only within 1 to 3), decimals, fractions (3/4, 1 1/2, ½, \frac{3}{4}), powers of ten (1e5, 3 × 10^5), a sign
(any dash that touches a number and follows neither letter nor digit), currency before or after, percent after.
A number of more than 400 digits or decimal places is none: that is what keeps arithmetic bounded.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Exact = int | Fraction
Where = Literal["final", "last", "first", "whole"]

MAX_DIGITS = 400
MAX_MARKERS = 20
"""Of boxes, #### and phrases only the last ones are looked at, …"""
MAX_SEGMENT = 1_000
"""… and no further than this many characters: time stays linear in the text."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written, and its value; `percent` when a percent sign follows (the value is not divided)."""

    text: str
    value: Exact
    percent: bool = False


_NUMBER = re.compile(
    r"""(?=[-+$€£¥₹.\d])(?<![\w.])                     # not in the middle of a word or number
    (?P<sign>(?<![\w)\]}%])[-+](?:[$€£¥₹][ ]?)?|(?:(?<![\w)\]}%])[$€£¥₹][ ]?[-+]))?+
    (?:
      (?P<whole>\d++)[ ](?P<n2>\d++)[ ]?/[ ]?(?P<d2>\d++)(?![\d/])       # 1 1/2
    | (?<!/)(?P<n>\d++)[ ]?/[ ]?(?P<d>\d++)(?![\d/]|\.\d)                      # 3/4
    | (?P<digits>\d{1,3}(?:,\d{3})++(?!\d)|\d{1,3}(?:[\u00a0\u2009\u202f]\d{3})++(?!\d)|\d++)(?P<point>\.\d++)?+
    | (?P<bare>\.\d++)
    )
    (?:[eE](?P<exp>[-+]?+\d++)|[ ]?(?:[x×*]|\\times)[ ]?10(?:\^|\*\*)\{?(?P<power>[-+]?\d++)\}?)?+
    (?P<percent>[ ]?\\?%)?+""",
    re.VERBOSE,
)
_ALONE = re.compile(r"\D{0,4}\d{1,3}(?: \d{3})+(?:\.\d+)?\D{0,20}")
_BRACE = re.compile(r"[{}]")
_PLAIN = re.compile(r"-?\d{1,15}")
_BREAK = re.compile(r"\n|(?<=[^\W\d_]{2})(?<!es) ")
"""After it a number may begin, but none reaches over it: a line's end, or a word (not \\times) and a space."""
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")
_BOX = re.compile(r"\\f?boxed\s*+(\{)?")
_PHRASE = re.compile(
    r"(?:^|\n)[ \t>*_#]*A[*_]*:"
    r"|\b(?:answer|ANSWER|Answer)\b[ *_]*(?:\([^()\n]{0,20}\)[ *_]*)?(?::|=|is\b|are\b|was\b|equals\b)"
)
_NO_NUMBER = re.compile(r"\\(?:sqrt|pi|infty|emptyset|varnothing)\b|[√π∞∅]")
_SPACED = re.compile(r"(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d,/-]| ?/)")
_FRAC = re.compile(r"\\[dtc]?frac\s*+(?:\{\s*+(-?+\d++)\s*+\}|(\d))\s*+(?:\{\s*+(\d++)\s*+\}|(\d))")
_LATEX = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|operatorname)\s*+\{([^{}]*+)\}"
    r"|\\(?:left|right|big|Big|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;:!> ]|\^\s*+\{?+\s*+\\circ\b\s*+\}?+"
    r"|\{(,)\}|\\([$%€£&#])"
)
_CHARACTERS = {
    **dict.fromkeys(map(ord, "\u2212\u2012\u2013\u2010\u2011\ufe63\uff0d"), "-"),
    **{0xFF10 + digit: str(digit) for digit in range(10)},
    ord("，"): ",",
    ord("．"): ".",
    ord("％"): "%",
    ord("＝"): "=",
    ord("："): ":",
    ord("⁄"): "/",
    **{
        ord(sign): f" {value}"
        for sign, value in {
            "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
            "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
        }.items()
    },
}  # fmt: skip


def find_number(text: str, where: Where = "final", decimal: Literal[".", ","] = ".") -> Number | None:
    """The number that the text answers with, or None.

    where: "final": the order above; "last" and "first": of the whole text; "whole": the text is one number and nothing
    else but a unit or currency. decimal: the decimal sign; "," makes "." the thousands separator.
    """
    if _PLAIN.fullmatch(text):
        return Number(text, int(text))
    text = _plain(text, decimal)
    if len(text) < 50 and _ALONE.fullmatch(text):
        text = _spaced(text)
    if where == "whole":
        return _only(_spaced(text.strip()))
    if where == "first":
        return next(_numbers(text), None)
    if where == "final":
        for boxed in _boxes(text) if "boxed" in text else ():
            if _NO_NUMBER.search(boxed):
                return None
            if found := _marked(boxed):
                return found
        if "####" in text and (found := _after_marker(text, "####")):
            return found
        if ("nswer" in text or "A:" in text or "A*" in text or "ANSWER" in text) and (found := _after_phrase(text)):
            return found
    return _last(text)


def _plain(text: str, decimal: str) -> str:
    """The text without calculator annotations, LaTeX dressing and typographic variants."""
    if "<<" in text:
        text = _ANNOTATION.sub("", text)
    if not text.isascii():
        text = text.translate(_CHARACTERS)
    if "\\" in text or "{,}" in text:
        text = _LATEX.sub(lambda m: m[1] if m[1] is not None else m[2] or m[3] or "", text)
        text = _FRAC.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)
        text = re.sub(r"(?<![\w)\]}])- (?=\d+/\d)", "-", text)
    if decimal == ",":
        text = text.translate({ord(","): ".", ord("."): ","})
    return text


def _boxes(text: str) -> Iterator[str]:
    """What stands in each `\\boxed{…}`, the last first; braces nest; without or unclosed, to the line's end."""
    for box in reversed(deque(_BOX.finditer(text), MAX_MARKERS)):
        start, depth = box.end(), 1
        if box[1]:
            for brace in _BRACE.finditer(text, start, start + MAX_SEGMENT):
                depth += 1 if brace[0] == "{" else -1
                if depth == 0:
                    yield text[start : brace.start()]
                    break
        if depth:
            yield _line(text[start : start + MAX_SEGMENT])


def _after_marker(text: str, marker: str) -> Number | None:
    for part in reversed(text.rsplit(marker, MAX_MARKERS)[1:]):
        if found := _marked(_line(part)):
            return found
    return None


def _after_phrase(text: str) -> Number | None:
    for end in reversed(deque((phrase.end() for phrase in _PHRASE.finditer(text)), MAX_MARKERS)):
        if found := _marked(_line(text[end : end + MAX_SEGMENT].lstrip("*_ \t\n:"))):
            return found
    return None


def _line(text: str) -> str:
    return text[:MAX_SEGMENT].split("\n", 1)[0]


def _marked(segment: str) -> Number | None:
    """The number of a place that is marked as the answer."""
    segment = _spaced(segment)
    if "=" in segment and (found := next(_numbers(segment.rsplit("=", 1)[1]), None)):
        return found
    return next(_numbers(segment), None)


def _spaced(segment: str) -> str:
    return _SPACED.sub(lambda m: m[0].replace(" ", ","), segment) if " " in segment else segment


def _last(text: str) -> Number | None:
    """The last number, looked for from the end backwards, twice as far each time."""
    end, reach = len(text), 64
    while end > 0:
        start = max(end - reach, 0)
        reach *= 2
        if start > 0:
            rest = _BREAK.search(text, start, end)
            if rest is None or rest.end() == end:
                continue
            start = rest.end()
        for match in reversed(list(_NUMBER.finditer(text, start, end))):
            if found := _number(match):
                return found
        end = start
    return None


def _only(text: str) -> Number | None:
    found = list(_numbers(text))
    if len(found) != 1:
        return None
    rest = text.replace(found[0].text, "", 1).strip(" $€£¥₹%.")
    return found[0] if len(rest.split()) <= 1 and not any(c.isdigit() for c in rest) else None


def _numbers(text: str) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        if found := _number(match):
            yield found


def _number(match: re.Match[str]) -> Number | None:
    value = _value(match)
    return None if value is None else Number(match[0].strip(), value, match["percent"] is not None)


def _value(match: re.Match[str]) -> Exact | None:
    whole, top, bottom = match["whole"], match["n2"] or match["n"], match["d2"] or match["d"]
    exponent = match["exp"] or match["power"]
    if len(match[0]) > MAX_DIGITS or (exponent is not None and abs(int(exponent)) > MAX_DIGITS):
        return None
    value: Exact
    if bottom is not None:
        if int(bottom) == 0:
            return None
        value = Fraction(int(top), int(bottom))
        if whole is not None and value < 1:  # 1 1/2, but not "5 10/2"
            value += int(whole)
    else:
        digits, point = match["digits"] or "", match["point"] or match["bare"] or ""
        if len(digits) > 3 and not digits.isdecimal():
            digits = re.sub(r"\D", "", digits)
        value = int(digits) if digits else 0
        if point:
            decimals = point[1:]
            if decimals.strip("0"):
                value += Fraction(int(decimals), 10 ** len(decimals))
    if exponent is not None:
        power = int(exponent)
        value = value * 10**power if power >= 0 else Fraction(value) / 10**-power
    return -value if match["sign"] and "-" in match["sign"] else value
