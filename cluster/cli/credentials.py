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


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What you will call it.")],
    base_url: Annotated[str, typer.Option("--base-url", metavar="URL", help="Whose key it is.")],
    api_key_env: Variable,
    json: Json = False,
) -> None:
    """Store a provider's key.

    Example: evalservice credentials add openai --base-url https://api.openai.com/v1 --api-key-env OPENAI_API_KEY
    """
    body = {"name": name, "base_url": base_url, "secret": _secret(api_key_env)}
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
    rows = [[c["name"], c["origin"], *(minute(c[m]) for m in ("created_at", "last_used_at"))] for c in credentials]
    print_table(["NAME", "ORIGIN", "CREATED", "LAST USED"], rows)


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


def _secret(variable: str) -> str:
    secret = secret_from_environment(variable)
    assert secret is not None
    return secret.get_secret_value()
