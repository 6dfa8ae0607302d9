"""An organization of 1,000 models and 50 benchmarks, whose evidence is read over and over in another thread."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

from cluster.runtime import Platform, open_platform, read_settings
from evalservice.database import tenant_transaction
from evalservice.selection.evidence import read_snapshot, utc_now
from evalservice.selection.keeper import SWITCH_SECONDS

MODELS, BENCHMARKS = 1000, 50
_MODELS = """
    INSERT INTO evaluation_models (id, organization_id, name, display_name, platform, platform_model_id)
    SELECT gen_random_uuid(), :organization, 'm' || n, '', 'openai', 'm' || n FROM generate_series(1, :models) AS n
"""
_DATASET = "INSERT INTO evaluation_datasets (id, organization_id, name) VALUES (gen_random_uuid(), :organization, 'd')"
_BENCHMARKS = """
    INSERT INTO benchmark_suites (id, organization_id, name, category, dataset_id, evaluation_criteria)
    SELECT gen_random_uuid(), :organization, 'b' || n, (ARRAY['qa', 'custom', 'summarization'])[1 + n % 3], dataset.id,
           '{"scorers": ["exact_match"]}'
    FROM generate_series(1, :benchmarks) AS n, evaluation_datasets AS dataset
"""
_METRICS = """
    INSERT INTO model_metrics (id, organization_id, model_id, metric_type, value, benchmark_id, evaluation_run_id,
                               metadata, timestamp)
    SELECT gen_random_uuid(), m.organization_id, m.id, 'accuracy', random(), b.id, gen_random_uuid(),
           jsonb_build_object('name', 'exact_match', 'n', 500, 'stderr', 0.02), now() - random() * interval '60 days'
    FROM evaluation_models AS m, benchmark_suites AS b
"""


@contextmanager
def refreshing() -> Iterator[Callable[[], list[float]]]:
    """Reads in the background as the service does; the function gives the seconds of each reading so far."""
    with tempfile.TemporaryDirectory() as home, _platform(home) as platform:
        organization = platform.organization_id
        with tenant_transaction(platform.engine, organization) as session:
            for statement in (_MODELS, _DATASET, _BENCHMARKS, _METRICS):
                sizes = {"organization": organization, "models": MODELS, "benchmarks": BENCHMARKS}
                used = {name: value for name, value in sizes.items() if f":{name}" in statement}
                session.execute(text(statement), used)
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        stop = threading.Event()
        seconds: list[float] = []
        thread = threading.Thread(target=_read, args=(platform.engine, organization, stop, seconds))
        thread.start()
        try:
            yield lambda: seconds
        finally:
            stop.set()
            thread.join()
            sys.setswitchinterval(before)


@contextmanager
def _platform(home: str) -> Iterator[Platform]:
    before = dict(os.environ)
    os.environ["EVALSERVICE_HOME"] = home
    for name in ("DATABASE_URL", "EVALSERVICE_URL"):
        os.environ.pop(name, None)
    try:
        with open_platform(read_settings()) as platform:
            yield platform
    finally:
        os.environ.clear()
        os.environ.update(before)


def _read(engine: Engine, organization: uuid.UUID, stop: threading.Event, seconds: list[float]) -> None:
    while not stop.is_set():
        started = time.perf_counter()
        with tenant_transaction(engine, organization) as session:
            read_snapshot(session, utc_now())
        seconds.append(time.perf_counter() - started)
