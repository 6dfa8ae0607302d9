"""An experiment's report as Markdown or HTML, with its plots as inline SVG. Pure.

Every number of a plot is in a table beside it, for where SVG is not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal

from evalservice.comparisons.plots import Estimate, Point, forest, scatter
from evalservice.comparisons.report_schemas import BenchmarkReport, ReportRead

Format = Literal["markdown", "html"]
Rows = Sequence[Sequence[str]]

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#1a1a1a}"
    "table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}td+td{white-space:nowrap}"
    "td,th{border-bottom:1px solid #ddd;padding:.3em .8em;text-align:left}"
    "svg{max-width:100%;height:auto}"
)


def render(report: ReportRead, form: Format) -> str:
    """The whole report."""
    writer: _Markdown | _Html = _Markdown() if form == "markdown" else _Html()
    writer.heading(1, f"{report.experiment}, run {report.run_number}")
    for name in ("hypothesis", "objective", "description"):
        if text := getattr(report, name):
            writer.paragraph(f"{name.capitalize()}: {text}")
    cost = "" if report.total_cost is None else f", ${report.total_cost:.4f}"
    shared = f", {report.shared_cells} cells shared with earlier runs" if report.shared_cells else ""
    writer.paragraph(f"{report.status.capitalize()}: {report.model_calls:,} model calls{cost}{shared}.")
    for each in report.benchmarks:
        _benchmark(writer, each, report.significance_level)
    return writer.done(f"{report.experiment}, run {report.run_number}")


def _benchmark(writer: _Markdown | _Html, found: BenchmarkReport, alpha: float) -> None:
    better = "higher" if found.higher_is_better else "lower"
    writer.heading(2, found.benchmark)
    if found.problem:
        writer.paragraph(f"Nothing can be compared: {found.problem}")
        return
    writer.paragraph(f"{found.metric} ({better} is better) over {found.test_cases:,} test cases, 95 % intervals.")
    for warning in found.warnings:
        writer.paragraph(f"Warning: {warning}")
    writer.table(
        ["cell", found.metric, "95 % interval", "n", "$ per 1,000 test cases", "Pareto front"],
        [
            [
                cell.label,
                _number(cell.value),
                _interval(cell.ci_low, cell.ci_high),
                f"{cell.n:,}",
                "" if cell.cost is None else f"{cell.cost:.4f}",
                "yes" if cell.pareto else "",
            ]
            for cell in found.cells
        ],
    )
    if found.levels:
        writer.heading(3, "By factor level")
        writer.table(
            ["factor", "level", "cells", found.metric, "95 % interval"],
            [
                [row.factor, row.level, str(row.cells), _number(row.value), _interval(row.ci_low, row.ci_high)]
                for row in found.levels
            ],
        )
        rows = [Estimate(f"{row.factor}: {row.level}", row.value, row.ci_low, row.ci_high) for row in found.levels]
        writer.figure(forest(rows, f"{found.metric} by factor level"))
    if found.differences:
        writer.heading(3, f"Differences from {found.baseline}")
        writer.table(
            ["cell", "difference", "95 % interval", "p (Holm)", "verdict"],
            [
                [
                    row.label,
                    _number(row.difference, "+"),
                    _interval(row.ci_low, row.ci_high, "+"),
                    f"{row.p_corrected:.3g}",
                    "not told apart" if row.better is None else "better" if row.better else "worse",
                ]
                for row in found.differences
            ],
        )
        writer.paragraph(f"A verdict has a chance of at most {alpha:g} that any of them is false.")
        rows = [Estimate(row.label, row.difference, row.ci_low, row.ci_high) for row in found.differences]
        writer.figure(forest(rows, f"{found.metric}: difference from {found.baseline}", reference=0.0))
    points = [
        Point(cell.label, float(cell.cost), cell.value, cell.pareto)
        for cell in found.cells
        if cell.cost is not None and cell.value is not None
    ]
    writer.heading(3, "Cost against quality")
    if points:
        writer.figure(scatter(points, "$ per 1,000 test cases", found.metric))
    else:
        writer.paragraph("No cost is known: give the models their prices (`models add --input-price --output-price`).")


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.4f}"


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f"[{low:{sign}.4f}, {high:{sign}.4f}]"


class _Markdown:
    def __init__(self) -> None:
        self._parts: list[str] = []

    def heading(self, level: int, text: str) -> None:
        self._parts.append(f"{'#' * level} {_plain(text)}")

    def paragraph(self, text: str) -> None:
        self._parts.append(_plain(text))

    def table(self, columns: Sequence[str], rows: Rows) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        cells = ([_plain(cell).replace("|", "\\|") for cell in line] for line in lines)
        self._parts.append("\n".join(f"| {' | '.join(line)} |" for line in cells))

    def figure(self, svg: str) -> None:
        self._parts.append(svg)

    def done(self, title: str) -> str:
        return "\n\n".join(self._parts) + "\n"


class _Html:
    def __init__(self) -> None:
        self._parts: list[str] = []

    def heading(self, level: int, text: str) -> None:
        self._parts.append(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{escape(text)}</p>")

    def table(self, columns: Sequence[str], rows: Rows) -> None:
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        self._parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def figure(self, svg: str) -> None:
        self._parts.append(f"<figure>{svg}</figure>")

    def done(self, title: str) -> str:
        body = "\n".join(self._parts)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
        )


def _plain(text: str) -> str:
    """On one line, and no markup of its own: names are other people's text."""
    return " ".join(text.split()).replace("<", "&lt;")
