"""The query-dependent layer of one process: for each organization an index over its evaluated test cases, by embedder.

It is built in the background from the latest completed run of each model on each benchmark, and used only while, in
cross-validation on these very results, it beats the best policy that does not look at the text.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from evalservice.database import tenant_transaction
from evalservice.selection.deciding import QueryEstimates
from evalservice.selection.embedders import Embedder, fit_embedder
from evalservice.selection.evidence import Benchmark, measured_benchmarks
from evalservice.selection.neighbours import Evidence, NeighbourIndex, Prior
from evalservice.selection.snapshot import Array, Snapshot
from evalservice.selection.study import Examples, study
from evalservice.selection.tuning import fit_neighbours

MOST_CASES = 100_000
MOST_CELLS = 1_000_000
"""Test cases times models."""
MOST_LAYERS = 8
"""In one process, those that were built last."""
FEWEST_CASES = 100
STUDIED_CASES = 3_000
FOLDS = 5
SEED = 0
MOST_CHARS = 8_000
LOGGED = 10
"""Neighbours that are logged of a decision."""
REBUILT_SECONDS = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """An index and the embedder of its test cases; None where it is not used, and `note` says why. version: what it was
    built from."""

    version: str
    index: NeighbourIndex | None = None
    embedder: Embedder | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Evaluated test cases: their ids, texts, categories, and quality and cost [n, M] of each model, NaN: none."""

    models: tuple[str, ...]
    ids: list[str]
    texts: list[str]
    categories: list[str]
    quality: Array
    cost: Array


class Nearby:
    """The layers of the organizations that ask for `nearest`. Safe to use from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._layers: dict[tuple[uuid.UUID, str], Layer] = {}
        self._built: dict[tuple[uuid.UUID, str], float] = {}
        self._lock = threading.Lock()
        self._building: set[tuple[uuid.UUID, str]] = set()
        self._pool: ThreadPoolExecutor | None = None

    def estimates(
        self, organization_id: uuid.UUID, request_text: str, use_case: str, embedder: str, snapshot: Snapshot
    ) -> QueryEstimates:
        """What evaluated test cases like the text say of each model, from the layer that there is; one that is missing
        or old is built in the background."""
        key = (organization_id, embedder)
        layer = self._layers.get(key)
        if layer is None or time.monotonic() - self._built.get(key, -REBUILT_SECONDS) > REBUILT_SECONDS:
            self._order(key)
        if layer is None:
            return QueryEstimates(note="the evaluated test cases are being read, so by the evaluations alone")
        if layer.index is None or layer.embedder is None:
            return QueryEstimates(note=layer.note)
        return _estimates(layer.index, layer.embedder, request_text[:MOST_CHARS], use_case, snapshot)

    def build(self, organization_id: uuid.UUID, embedder: str) -> Layer:
        """Build the layer now. Raises InvalidInput for an embedder that is not known, DatabaseUnavailable."""
        key = (organization_id, embedder)
        with tenant_transaction(self._engine, organization_id) as session:
            version = _version(session)
            layer = self._layers.get(key)
            current = layer is not None and layer.version == version
            cases = None if current else read_cases(session)
        if layer is None or cases is not None:
            assert cases is not None
            layer = made(cases, embedder, version)
        self._layers[key] = layer
        self._built[key] = time.monotonic()
        for oldest in sorted(self._built, key=self._built.__getitem__)[:-MOST_LAYERS]:
            self._layers.pop(oldest, None)
            self._built.pop(oldest, None)
        return layer

    def _order(self, key: tuple[uuid.UUID, str]) -> None:
        with self._lock:
            if key in self._building:
                return
            self._building.add(key)
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="nearby")
        self._pool.submit(self._build_quietly, key)

    def _build_quietly(self, key: tuple[uuid.UUID, str]) -> None:
        started = time.monotonic()
        about = {"organization_id": key[0], "embedder": key[1]}
        try:
            layer = self.build(*key)
            seconds = round(time.monotonic() - started, 1)
            log.info("neighbours_read", extra={**about, "used": layer.index is not None, "seconds": seconds})
        except Exception as error:
            log.exception("neighbours_not_read", extra={**about, "error": repr(error)})
            self._layers.setdefault(key, Layer("", note="the evaluated test cases could not be read"))
            self._built[key] = time.monotonic()
        finally:
            self._building.discard(key)


def made(cases: Cases, embedder: str, version: str) -> Layer:
    """The layer over these test cases, or why there is none."""
    if len(cases.ids) < FEWEST_CASES or len(cases.models) < 2:
        found = f"{len(cases.ids)} evaluated test cases of {len(cases.models)} models"
        return Layer(version, note=f"{found} are too few to go by the text, so by the evaluations alone")
    shared = _shared(cases)
    if shared is None:
        return Layer(version, note="too few test cases were answered by the same models to go by the text")
    found_gain = study(shared, partial(fit_embedder, embedder), FOLDS, SEED)
    if not found_gain.use:
        gain = (
            f"{found_gain.gain:+.4f} of quality, from {found_gain.gain_ci_low:+.4f} to {found_gain.gain_ci_high:+.4f}"
        )
        return Layer(version, note=f"going by the text gains nothing sure here ({gain}), so by the evaluations alone")
    fitted = fit_embedder(embedder, cases.texts)
    evidence = Evidence(cases.models, cases.ids, fitted.embed(cases.texts), cases.quality, cases.cost, cases.categories)
    return Layer(version, fit_neighbours(evidence, SEED), fitted)


def _shared(cases: Cases) -> Examples | None:
    """Test cases that the most measured models all answered, evenly taken."""
    measured = np.isfinite(cases.quality)
    counts = measured.sum(axis=0)
    models = np.flatnonzero(counts >= counts.max() / 2)
    rows = np.flatnonzero(measured[:, models].all(axis=1))
    if len(models) < 2 or len(rows) < FEWEST_CASES:
        return None
    rows = rows[:: max(1, len(rows) // STUDIED_CASES)]
    cost = cases.cost[np.ix_(rows, models)]
    with np.errstate(invalid="ignore"):
        means = np.nansum(cost, axis=0) / np.isfinite(cost).sum(axis=0)
    known = np.isfinite(means).all()
    return Examples(
        tuple(cases.models[model] for model in models),
        [cases.texts[row] for row in rows],
        cases.quality[np.ix_(rows, models)],
        np.where(np.isfinite(cost), cost, means) if known else None,
        [cases.categories[row] for row in rows],
    )


def _estimates(
    index: NeighbourIndex, embedder: Embedder, request_text: str, use_case: str, snapshot: Snapshot
) -> QueryEstimates:
    place = {own: position for position, own in enumerate(snapshot.ids)}
    own = [(number, place[model]) for number, model in enumerate(index.models) if model in place]
    if not own:
        return QueryEstimates(note="no evaluated test case is of these models, so by the evaluations alone")
    numbers, positions = (np.array(each) for each in zip(*own, strict=True))
    row = snapshot.targets[snapshot.target_of(use_case)]
    prior = Prior(np.full(len(index.models), np.nan), np.full(len(index.models), np.nan))
    prior.quality[numbers] = snapshot.quality[row][positions]
    prior.cost[numbers] = snapshot.cost[positions]
    found = index.estimate(embedder.embed([request_text])[0], use_case or None, prior)
    quality, deviation, cost = (np.full(len(snapshot), np.nan) for _ in range(3))
    quality[positions] = found.quality[numbers]
    deviation[positions] = found.quality_sd[numbers]
    cost[positions] = found.cost[numbers]
    nearest = tuple(
        {"id": each.id, "similarity": round(float(each.similarity), 6)} for each in found.neighbours[:LOGGED]
    )
    return QueryEstimates(quality, deviation, cost, nearest)


_LATEST = """
    SELECT DISTINCT ON (model_id, benchmark_id) id, model_id, benchmark_id, total_test_cases, completed_at
    FROM evaluation_runs WHERE status = 'completed'
    ORDER BY model_id, benchmark_id, completed_at DESC
"""
_CASES = """
    SELECT test_case_index, input_data, (metrics ->> :metric)::double precision AS value, cost::double precision
    FROM evaluation_results
    WHERE evaluation_run_id = :run AND success AND test_case_index % :stride = 0
"""


def _version(session: Session) -> str:
    runs, newest = session.execute(text(f"SELECT count(*), max(completed_at) FROM ({_LATEST}) AS latest")).one()
    return f"{runs} {newest}"


def read_cases(session: Session) -> Cases:
    """The test cases of the latest completed runs of the transaction's organization; of more than `MOST_CASES` every
    second, third, … one."""
    benchmarks = {benchmark.id: benchmark for benchmark in measured_benchmarks(session)}
    runs = [run for run in session.execute(text(_LATEST)) if run.benchmark_id in benchmarks]
    models = {own: number for number, own in enumerate(sorted({run.model_id for run in runs}))}
    sizes: dict[uuid.UUID, int] = {}
    for run in runs:
        sizes[run.benchmark_id] = max(sizes.get(run.benchmark_id, 0), run.total_test_cases)
    most = min(MOST_CASES, MOST_CELLS // max(len(models), 1))
    stride = -(-sum(sizes.values()) // max(most, 1)) or 1
    place: dict[tuple[uuid.UUID, int], int] = {}
    texts: list[str] = []
    cells: list[tuple[int, int, float, float]] = []
    for run in runs:
        benchmark = benchmarks[run.benchmark_id]
        for case, given, value, cost in _rows(session, run.id, benchmark, stride):
            row = place.setdefault((run.benchmark_id, case), len(texts))
            if row == len(texts):
                texts.append(text_of(given)[:MOST_CHARS])
            cells.append((row, models[run.model_id], value, cost))
    quality, cost_of = (np.full((len(texts), len(models)), np.nan) for _ in range(2))
    for row, model, value, cost in cells:
        quality[row, model], cost_of[row, model] = value, cost
    return Cases(
        tuple(str(own) for own in models),
        [f"{benchmarks[benchmark].name}:{case}" for benchmark, case in place],
        texts,
        [benchmarks[benchmark].category for benchmark, _ in place],
        quality,
        cost_of,
    )


def _rows(
    session: Session, run: uuid.UUID, benchmark: Benchmark, stride: int
) -> Iterator[tuple[int, Any, float, float]]:
    wanted = {"run": run, "metric": benchmark.metric, "stride": stride}
    for row in session.execute(text(_CASES).execution_options(yield_per=2000), wanted):
        if row.value is not None and np.isfinite(row.value):
            quality = min(max((row.value - benchmark.worst) / benchmark.span, 0.0), 1.0)
            yield row.test_case_index, row.input_data, quality, np.nan if row.cost is None else row.cost


def text_of(given: Any) -> str:
    """What a test case's input says: its text, the contents of its messages, or its values one after the other."""
    if isinstance(given, str):
        return given
    if isinstance(given, dict):
        messages = given.get("messages")
        if isinstance(messages, list):
            return "\n".join(text_of(each.get("content", "")) for each in messages if isinstance(each, dict))
        return "\n".join(text_of(each) for each in given.values())
    if isinstance(given, list):
        return "\n".join(text_of(each) for each in given)
    return orjson.dumps(given).decode()
