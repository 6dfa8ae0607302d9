"""`evalservice keys`: API keys of your organization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json, minute, named, service
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of
from evalservice.errors import ServiceUnreachable

if TYPE_CHECKING:
    from evalservice.client import Client

app = typer.Typer(help="API keys: make, list, rotate, revoke.", no_args_is_help=True)
KeyName = Annotated[str, typer.Argument(metavar="KEY", help="Its name, its id, or the beginning that lists show.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What you will call it.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", metavar="S", help="read, write, admin or owner; repeatable. Default: all of your role."
        ),
    ] = None,
    expires_in_days: Annotated[float | None, typer.Option("--expires-in-days", metavar="N")] = None,
    member: Annotated[
        str | None, typer.Option("--member", metavar="USERNAME", help="Whose key it is; default: yours.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key. It is printed once, on stdout, and stored nowhere.

    Example: export EVALSERVICE_API_KEY=$(evalservice keys create nightly --scope read --scope write)
    """
    from evalservice.catalog.schemas import parse
    from evalservice.organizations.schemas import NewApiKey

    new = parse(NewApiKey, {"name": name, "scopes": tuple(scope or ()), "expires_in_days": expires_in_days})
    with service() as opened:
        body = new.model_dump(mode="json")
        if member is not None:
            body["user_id"] = member_named(opened.client, member)["user_id"]
        key = opened.client.post(path_of("api-keys"), body)
    _print_secret(key, json)


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List the keys, the newest first. What they are is not shown, only how they begin."""
    with service() as opened:
        keys = list(opened.client.items(path_of("api-keys")))
    if json:
        print_json({"items": keys})
        return
    print_table(
        ["NAME", "BEGINS", "SCOPES", "CREATED", "EXPIRES", "LAST USED", "REVOKED"],
        [
            [
                key["name"],
                f"{key['prefix']}…",
                ", ".join(key["scopes"]) or "all",
                *(minute(key[moment]) for moment in ("created_at", "expires_at", "last_used_at", "revoked_at")),
            ]
            for key in keys
        ],
    )


@app.command("rotate")
def rotate(
    key: KeyName,
    grace_seconds: Annotated[
        int, typer.Option("--grace-seconds", metavar="N", min=0, help="How long the old one works on.")
    ] = 86_400,
    json: Json = False,
) -> None:
    """Make a new secret under the key's name; the old one works on for a day, so that nothing stands still."""
    with service() as opened:
        found = _key(opened.client, key)
        path = path_of("api-keys", found["id"], "rotate")
        rotated = opened.client.post(path, {"grace_seconds": grace_seconds})
    _print_secret(rotated, json)


@app.command("revoke")
def revoke(key: KeyName, json: Json = False) -> None:
    """Revoke a key at once."""
    with service() as opened:
        revoked = opened.client.delete(path_of("api-keys", _key(opened.client, key)["id"]))
    if json:
        print_json(revoked)
    else:
        say(f"key {revoked['name']!r} is revoked")


def _key(client: Client, wanted: str) -> dict[str, Any]:
    keys = client.items(path_of("api-keys"))
    return named("key", wanted, keys, lambda key: (key["name"], key["id"], key["prefix"], f"{key['prefix']}…"))


def _print_secret(key: dict[str, Any], json: bool) -> None:
    if key["key"] is None:  # the first answer was lost, and a repetition does not tell secrets
        raise ServiceUnreachable(f"key {key['name']!r} was made, but its secret was lost on the way: rotate it")
    if json:
        print_json(key)
        return
    say(key["key"])
    note(f"key {key['name']!r}: keep it now, it is not shown again")


def member_named(client: Client, username: str) -> dict[str, Any]:
    """A member of the caller's organization. Raises NotFound."""
    [organization] = client.items(path_of("organizations"), 1)
    members = client.items(path_of("organizations", organization["id"], "members"))
    return named("member", username, members, lambda member: (member["username"], member["user_id"]))
