"""Two plots as SVG text: a forest plot of estimates with their intervals, and points of cost against quality. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape

WIDTH = 760
LABELS = 250
ROW = 26
MARGIN = 40
INK, SOFT, ACCENT = "#1a1a1a", "#9aa0a6", "#1a5fb4"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A row of a forest plot; without a value it is named and left empty."""

    label: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a scatter plot. front: it is on the Pareto front."""

    label: str
    x: float
    y: float
    front: bool


def forest(rows: Sequence[Estimate], title: str, reference: float | None = None) -> str:
    """Estimates as dots on their intervals, one below the other. reference: where a line is drawn to compare with."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    scale = _Scale([*ends, *([] if reference is None else [reference])], LABELS, WIDTH - MARGIN)
    height = MARGIN + ROW * len(rows) + MARGIN
    bottom = MARGIN + ROW * len(rows)
    parts = [_text(WIDTH / 2, 20, title, "middle"), *_axis(scale, bottom)]
    if reference is not None:
        parts.append(
            _line(scale.at(reference), MARGIN - 8, scale.at(reference), bottom, SOFT, ' stroke-dasharray="4 3"')
        )
    for position, row in enumerate(rows):
        y = MARGIN + ROW * position + ROW / 2
        parts.append(_text(LABELS - 12, y + 4, _short(row.label), "end"))
        if row.low is not None and row.high is not None:
            parts.append(_line(scale.at(row.low), y, scale.at(row.high), y, ACCENT))
        if row.value is not None:
            parts.append(f'<circle cx="{scale.at(row.value):.1f}" cy="{y:.1f}" r="4" fill="{ACCENT}"/>')
    return _svg(height, title, parts)


def scatter(points: Sequence[Point], x_name: str, y_name: str) -> str:
    """Points with their labels; those of the Pareto front are filled and joined."""
    height, left, bottom = 360, 80, 310
    across = _Scale([point.x for point in points], left, WIDTH - 160)
    up = _Scale([point.y for point in points], bottom, MARGIN)
    parts = [*_axis(across, bottom), _text((left + WIDTH - 160) / 2, height - 8, x_name, "middle")]
    for tick in up.ticks:
        y = up.at(float(tick))
        parts += [_line(left - 4, y, left, y, SOFT), _text(left - 10, y + 4, f"{tick:f}", "end")]
    parts += [_line(left, MARGIN, left, bottom, SOFT), _text(left, 20, y_name, "middle")]
    front = sorted((point for point in points if point.front), key=lambda point: point.x)
    path = " ".join(f"{across.at(point.x):.1f},{up.at(point.y):.1f}" for point in front)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{ACCENT}" stroke-width="1.5"/>')
    for point in points:
        x, y, fill = across.at(point.x), up.at(point.y), ACCENT if point.front else "white"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{ACCENT}"/>')
        parts.append(_text(x + 9, y + 4, _short(point.label), "start"))
    return _svg(height, f"{y_name} against {x_name}", parts)


class _Scale:
    """From values to pixels, with a little room at both ends, and none below zero where nothing is negative.

    ticks: two to eight multiples of 1, 2 or 5 times a power of ten.
    """

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
        self._low = low - room if low < 0 else max(0.0, low - room)
        self._high = high + room
        self._start, self._stop = start, stop
        self.ticks = _round_numbers(self._low, self._high)

    @property
    def ends(self) -> tuple[float, float]:
        """The pixels of both ends."""
        return self._start, self._stop

    def at(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._stop - self._start)


def _round_numbers(low: float, high: float) -> list[Decimal]:
    """The multiples of the smallest round step that gives at most eight from `low` to `high`."""
    power = math.floor(math.log10((high - low) / 8))
    step = next(
        step
        for step in (Decimal(digit).scaleb(power + more) for more in (0, 1) for digit in (1, 2, 5))
        if (high - low) / float(step) <= 7
    )
    first, last = math.ceil(low / float(step)), math.floor(high / float(step))
    return [number * step for number in range(first, last + 1)]


def _axis(scale: _Scale, y: float) -> list[str]:
    start, stop = scale.ends
    parts = [_line(start, y, stop, y, SOFT)]
    for tick in scale.ticks:
        x = scale.at(float(tick))
        parts += [_line(x, y, x, y + 4, SOFT), _text(x, y + 18, f"{tick:f}", "middle")]
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, style: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1.5"{style}/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    halo = 'stroke="white" stroke-width="3" paint-order="stroke"'  # readable where a line passes
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" {halo}>{escape(text)}</text>'


def _short(label: str, most: int = 34) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'role="img" aria-label="{escape(title)}" font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )
