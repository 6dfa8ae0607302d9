"""Metrics as Prometheus reads them: from the port of a node, after a real run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import ray

from actors.blocks import SCORED
from cluster.gauges import ServiceGauges
from cluster.hub import NAME, NAMESPACE, MeterHub, Report, find_hub
from cluster.meter import RunMeter
from cluster.metrics import METRICS
from tests.conftest import ROOT, Bench
from tests.prometheus import Samples, scraped, total
from tests.provider import RunningProvider

COUNT = 40
RECORDS = [{"input": f"What is {n} + {n}?", "expected_output": str(2 * n)} for n in range(COUNT)]
RECORDS[7]["input"] += " <<unauthorized>>"


def scraped_here() -> Samples:
    """What Prometheus gets of the node of the tests' Ray."""
    [node] = [each for each in ray.nodes() if each["Alive"]]
    return scraped(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}")


@pytest.fixture
def service(bench: Bench) -> Iterator[ServiceGauges]:
    """What a supervisor keeps, on the database and the Ray of the tests."""
    gauges = ServiceGauges(bench.platform.engine)
    gauges.tell()
    yield gauges
    ray.kill(find_hub())


def test_a_run_is_counted_where_prometheus_reads_by_organization_platform_and_kind_of_error(
    bench: Bench, provider: RunningProvider, service: ServiceGauges, eventually: Callable[..., Any]
) -> None:
    provider.control(latency=0.8)
    model = bench.model(provider.url, input_price="1", output_price="1")
    run = bench.run(model, bench.benchmark(RECORDS), max_concurrency=8)
    assert run.status == "completed"
    service.tell()
    of = {"organization": str(run.organization_id), "platform": "openai"}
    samples = eventually(lambda: _once_told(service), 40, what="the run's counters at the metrics port")

    assert total(samples, "ray_evalservice_test_cases_total", **of, outcome="completed") == COUNT - 1
    assert total(samples, "ray_evalservice_test_cases_total", **of, outcome="failed") == 1
    assert total(samples, "ray_evalservice_errors_total", **of, kind="authentication") == 1
    assert total(samples, "ray_evalservice_tokens_total", **of, direction="input") == run.input_tokens
    assert total(samples, "ray_evalservice_tokens_total", **of, direction="output") == run.output_tokens
    assert total(samples, "ray_evalservice_cost_dollars_total", **of) == pytest.approx(float(run.total_cost))
    assert total(samples, "ray_evalservice_runs_total", **of, status="completed") == 1
    assert total(samples, "ray_evalservice_write_seconds_count") > 0
    assert total(samples, "ray_evalservice_queue_length") == 0
    gauges = ("queue_age_seconds", "runs_driven", "test_cases_in_flight")
    assert {f"ray_evalservice_{name}" for name in gauges} <= samples.keys()
    assert not any(str(run.id) in str(labels) for series in samples.values() for labels, _ in series)


def test_the_hub_lives_on_while_the_queue_is_told(service: ServiceGauges) -> None:
    seen = set()
    for _ in range(4):
        service.tell()
        time.sleep(0.5)
        seen.add(ray.get_actor(NAME, NAMESPACE)._actor_id.hex())
    assert len(seen) == 1


def _once_told(service: ServiceGauges) -> Samples | None:
    time.sleep(1)
    service.tell()
    samples = scraped_here()
    return samples if total(samples, "ray_evalservice_runs_total", status="completed") else None


def test_the_hub_adds_up_what_runs_have_in_flight_and_forgets_those_that_are_silent() -> None:
    told: list[tuple[str, float, tuple[str, ...]]] = []

    class Told:
        def count(self, metric: Any, value: float, *labels: str) -> None:
            told.append((metric.name, value, labels))

        observe = set = count

    hub = MeterHub()
    hub._meters = Told()  # type: ignore[assignment]
    for run, in_flight in (("a", 10), ("b", 5), ("a", 7)):
        hub.report(Report(run, "one", "openai", in_flight, {}, ()))
    assert told[-1] == ("evalservice_test_cases_in_flight", 12, ("one", "openai"))
    hub._runs = {run: (of, in_flight, at - 60) for run, (of, in_flight, at) in hub._runs.items()}
    hub.show()
    assert told[-1] == ("evalservice_test_cases_in_flight", 0, ("one", "openai"))


def test_what_the_hub_did_not_hear_is_said_again() -> None:
    meter = RunMeter("one", "openai")
    rows = SCORED.empty_table()
    meter.stored(rows, Decimal("0.25"), 0.1)
    meter.ended("completed")
    unheard = meter.take("run", 0)
    meter.put_back(unheard)
    meter.stored(rows, Decimal("0.50"), 0.2)
    again = meter.take("run", 0)
    assert again.counts["evalservice_cost_dollars", ("one", "openai")] == 0.75
    assert again.counts["evalservice_runs", ("one", "openai", "completed")] == 1
    assert list(again.write_seconds) == [0.1, 0.2]
    assert meter.take("run", 0).counts == {}


def test_a_driver_knows_how_many_test_cases_are_in_flight_from_its_blocks() -> None:
    meter = RunMeter("one", "openai")
    meter.planned(1000, 256)
    assert [meter.in_flight(2, 0), meter.in_flight(4, 0), meter.in_flight(1, 990), meter.in_flight(0, 1000)] == [
        512,
        1000,
        10,
        0,
    ]


def test_no_label_has_values_that_somebody_can_make_more_of() -> None:
    bounded = {"organization", "platform", "outcome", "kind", "direction", "status", "reason", "method", "route"}
    assert {label for metric in METRICS for label in metric.labels} <= bounded
    assert len({metric.name for metric in METRICS}) == len(METRICS)


DASHBOARD = ROOT / "deploy/grafana/evalservice.json"
SERIES = re.compile(r"ray_evalservice_\w+")


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    shown = {name for expression in expressions for name in SERIES.findall(expression)}
    known = {name: metric.name for metric in METRICS for name in metric.exported}
    assert shown <= known.keys()
    assert {known[name] for name in shown} == {metric.name for metric in METRICS}


def test_the_dashboard_is_embedded_like_rays_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "evalserviceDashboard"
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"SessionName", "Cluster", "Organization"} <= variables.keys()
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == "${datasource}"
        for target in panel["targets"]:
            assert 'SessionName=~"$SessionName"' in target["expr"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
