"""`evalservice credentials`: providers' keys, stored encrypted, each for one origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json, minute, named, secret_from_environment, service
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of

if TYPE_CHECKING:
    from evalservice.client import Client

app = typer.Typer(help="Provider credentials: stored encrypted, sent to their own origin only.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="CREDENTIAL", help="Its name or id.")]
Variable = Annotated[
    str, typer.Option("--api-key-env", metavar="VAR", help="The variable that holds the key: read now.")
]

RequestsPerMinute = Annotated[
    int | None, typer.Option("--requests-per-minute", metavar="N", help="What the provider allows, over all models.")
]
TokensPerMinute = Annotated[
    int | None, typer.Option("--tokens-per-minute", metavar="N", help="What the provider allows, over all models.")
]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What you will call it.")],
    base_url: Annotated[str, typer.Option("--base-url", metavar="URL", help="Whose key it is.")],
    api_key_env: Variable,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    json: Json = False,
) -> None:
    """Store a provider's key. Its limits are kept by all actors of all runs together.

    Example: evalservice credentials add openai --base-url https://api.openai.com/v1 --api-key-env OPENAI_API_KEY
    """
    body: dict[str, Any] = {"name": name, "base_url": base_url, "secret": _secret(api_key_env)}
    body |= _limits(requests_per_minute, tokens_per_minute)
    with service() as opened:
        credential = opened.client.post(path_of("provider-credentials"), body)
    if json:
        print_json(credential)
    else:
        say(f"stored credential {credential['name']!r} for {credential['origin']}")


@app.command("list")
def list_credentials(json: Json = False) -> None:
    """List the credentials: where they may be sent, never what they are."""
    with service() as opened:
        credentials = list(opened.client.items(path_of("provider-credentials")))
    if json:
        print_json({"items": credentials})
        return
    limits, times = ("requests_per_minute", "tokens_per_minute"), ("created_at", "last_used_at")
    rows = [[c["name"], c["origin"], *(c[x] for x in limits), *(minute(c[x]) for x in times)] for c in credentials]
    print_table(["NAME", "ORIGIN", "REQUESTS/MIN", "TOKENS/MIN", "CREATED", "LAST USED"], rows)


@app.command("limit")
def limit(
    credential: Name,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    json: Json = False,
) -> None:
    """Say what a provider allows whoever uses the key; what is not given is not limited.

    Runs that start from now on keep to it, and with them those that are under way.
    """
    wanted = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    with service() as opened:
        found = _credential(opened.client, credential)
        changed = opened.client.patch(path_of("provider-credentials", found["id"]), wanted)
    if json:
        print_json(changed)
    else:
        kept = [f"{changed[name]} {name.replace('_', ' ')}" for name in wanted if changed[name] is not None]
        say(f"credential {changed['name']!r}: {', '.join(kept) or 'no limit is known'}")


@app.command("replace")
def replace(credential: Name, api_key_env: Variable, json: Json = False) -> None:
    """Replace a key without downtime: runs that start from now on use the new one."""
    with service() as opened:
        path = path_of("provider-credentials", _credential(opened.client, credential)["id"])
        changed = opened.client.patch(path, {"secret": _secret(api_key_env)})
    if json:
        print_json(changed)
    else:
        say(f"credential {changed['name']!r} has a new key")


@app.command("remove")
def remove(credential: Name, json: Json = False) -> None:
    """Forget a key that no model uses."""
    with service() as opened:
        found = _credential(opened.client, credential)
        opened.client.delete(path_of("provider-credentials", found["id"]))
    if json:
        print_json({"id": found["id"], "removed": True})
    else:
        say(f"credential {found['name']!r} is forgotten")


def _credential(client: Client, wanted: str) -> dict[str, Any]:
    credentials = client.items(path_of("provider-credentials"))
    return named("credential", wanted, credentials, lambda credential: (credential["name"], credential["id"]))


def _limits(requests_per_minute: int | None, tokens_per_minute: int | None) -> dict[str, int]:
    given = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    return {name: value for name, value in given.items() if value is not None}


def _secret(variable: str) -> str:
    secret = secret_from_environment(variable)
    assert secret is not None
    return secret.get_secret_value()
