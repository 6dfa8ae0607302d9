"""`evalservice models`: register and list models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.common import (
    Description,
    Json,
    Tags,
    body_of,
    dollars,
    json_object,
    money,
    put_away,
    secret_from_environment,
    service,
)
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import InvalidInput

MAX_TEMPLATE_BYTES = 256_000
app = typer.Typer(help="Models: hosted (OpenAI-compatible, Anthropic, Google) and self-hosted.", no_args_is_help=True)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What you will call it.")],
    platform_name: Annotated[
        str,
        typer.Option(
            "--platform", help="openai (and every compatible server), anthropic, google; vllm, transformers (engines)."
        ),
    ],
    model_id: Annotated[
        str, typer.Option("--model-id", help="The provider's id, or for an engine a folder or hub id of weights.")
    ],
    base_url: Annotated[
        str,
        typer.Option(
            "--base-url", metavar="URL", help="The server, e.g. http://localhost:11434/v1; else the platform's own."
        ),
    ] = "",
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", metavar="VAR", help="The variable that holds the key: read now, stored encrypted."
        ),
    ] = None,
    capability: Annotated[list[str] | None, typer.Option("--capability", metavar="C", help="Repeatable.")] = None,
    input_price: Annotated[str | None, typer.Option("--input-price", metavar="USD", help="Per million tokens.")] = None,
    output_price: Annotated[
        str | None, typer.Option("--output-price", metavar="USD", help="Per million tokens.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="JSON", help='E.g. \'{"temperature": 0, "max_tokens": 256}\'.'),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", metavar="FILE", help="Of an engine, in place of the tokenizer's; read now."),
    ] = None,
    display_name: Annotated[str, typer.Option("--display-name", metavar="S")] = "",
    description: Description = "",
    version: Annotated[str, typer.Option("--version", metavar="V")] = "1.0.0",
    parent: Annotated[str | None, typer.Option("--parent", metavar="NAME", help="The model it derives from.")] = None,
    tag: Tags = None,
    json: Json = False,
) -> None:
    """Register a model.

    Examples:

      evalservice models add llama --platform openai --model-id llama3.2 --base-url http://localhost:11434/v1

      evalservice models add mini --platform openai --model-id gpt-4o-mini --api-key-env OPENAI_API_KEY
      --input-price 0.15 --output-price 0.60

      evalservice models add sonnet --platform anthropic --model-id claude-sonnet-4-5 --api-key-env ANTHROPIC_API_KEY

      evalservice models add flash --platform google --model-id gemini-2.5-flash --api-key-env GEMINI_API_KEY
    """
    from evalservice.catalog.model_config import BASE_URLS, ENGINES, ModelConfig
    from evalservice.catalog.schemas import NewModel, parse

    given = json_object("config", config)
    ModelConfig.parse("config", given)
    if chat_template is not None:
        given = {**given, "engine": {**(given.get("engine") or {}), "chat_template": read_text(chat_template)}}
    if platform_name in ENGINES:
        model_id = absolute(model_id)
        if isinstance(engine := given.get("engine"), dict) and isinstance(engine.get("lora"), str):
            given = {**given, "engine": {**engine, "lora": absolute(engine["lora"])}}
    settings = ModelConfig.parse("config", given)
    values = {
        "name": name,
        "platform": platform_name,
        "model_id": model_id,
        "base_url": base_url,
        "api_key": secret_from_environment(api_key_env),
        "capabilities": tuple(capability or ()),
        "input_price": dollars("input_price", input_price),
        "output_price": dollars("output_price", output_price),
        "display_name": display_name,
        "description": description,
        "version": version,
        "parent": parent,
        "tags": tuple(tag or ()),
    }
    if platform_name in BASE_URLS and not base_url and api_key_env is None:
        raise InvalidInput(
            "api_key_env",
            None,
            f"{BASE_URLS[platform_name]} needs a key: name the variable that holds it with "
            "--api-key-env, or give --base-url for another server",
        )
    body = {**body_of(parse(NewModel, values)), "config": settings.set_values()}
    with service() as opened:
        model = opened.client.post(path_of("models"), body)
    if json:
        print_json(model)
    else:
        say(f"registered model {model['name']!r} ({model['platform']} {model['platform_model_id']})")


@app.command("list")
def list_models(json: Json = False) -> None:
    """List the models, the newest first."""
    with service() as opened:
        models = list(opened.client.items(path_of("models")))
    if json:
        print_json({"items": models})
        return
    print_table(
        ["NAME", "VERSION", "PLATFORM", "MODEL ID", "STATUS", "RUNS", "ACCURACY", "LATENCY MS", "$/1K TOKENS"],
        [
            [
                model["name"],
                model["version"],
                model["platform"],
                model["platform_model_id"],
                model["status"],
                model["total_evaluations"],
                _rounded(model["avg_accuracy"], 4),
                _rounded(model["avg_latency_ms"], 1),
                _rounded(model["avg_cost_per_1k_tokens"], 6),
            ]
            for model in models
        ],
    )


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="Name, name@version or id.")], json: Json = False) -> None:
    """Show one model. Keys are never shown."""
    with service() as opened:
        model = opened.client.get(path_of("models", name))
    if json:
        print_json(model)
        return
    for key, value in model.items():
        shown = money(value) if key.endswith("_price_per_million") else value
        say(f"{key:>26}  {'' if shown is None else shown}")


@app.command("archive")
def archive(name: Annotated[str, typer.Argument(help="Name, name@version or id.")], json: Json = False) -> None:
    """Take a model out of lists and new runs; one that nothing hangs on is deleted."""
    put_away("model", name, json)


def _rounded(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def absolute(name: str) -> str:
    """A folder that is here, by a name that means the same in a worker's working directory; else the name."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_dir() else name


def read_text(file: Path) -> str:
    """A file's text. Raises InvalidInput for what is no text, or too much of it."""
    try:
        if file.stat().st_size > MAX_TEMPLATE_BYTES:
            raise InvalidInput("--chat-template", str(file), f"a file of at most {MAX_TEMPLATE_BYTES:,} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("--chat-template", str(file), f"a text file: {error}") from None
