"""`evalservice members`: who belongs to your organization, and as what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.common import Json, minute, service
from cluster.cli.keys import member_named
from cluster.cli.output import print_json, print_table, say
from evalservice.client import path_of

if TYPE_CHECKING:
    from evalservice.client import Client

app = typer.Typer(help="Members of your organization and their roles.", no_args_is_help=True)
Username = Annotated[str, typer.Argument(metavar="USERNAME")]
ROLES = "viewer (reads), member (runs and registers), admin (keys, members, credentials), owner."


@app.command("add")
def add(
    username: Username,
    role: Annotated[str, typer.Option("--role", metavar="R", help=ROLES)] = "member",
    email: Annotated[str, typer.Option("--email", metavar="E")] = "",
    display_name: Annotated[str, typer.Option("--display-name", metavar="S")] = "",
    json: Json = False,
) -> None:
    """Make a user and their membership. Then make them a key: `evalservice keys create NAME --member USERNAME`."""
    from evalservice.catalog.schemas import parse
    from evalservice.organizations.schemas import NewMember

    new = parse(NewMember, {"username": username, "role": role, "email": email, "display_name": display_name})
    with service() as opened:
        member = opened.client.post(_path(opened.client), new.model_dump(mode="json"))
    if json:
        print_json(member)
    else:
        say(f"{member['username']!r} is a member with the role {member['role']}")


@app.command("list")
def list_members(json: Json = False) -> None:
    """List the members."""
    with service() as opened:
        members = list(opened.client.items(_path(opened.client)))
    if json:
        print_json({"items": members})
        return
    rows = [[m["username"], m["display_name"], m["email"], m["role"], minute(m["created_at"])] for m in members]
    print_table(["USERNAME", "NAME", "EMAIL", "ROLE", "SINCE"], rows)


@app.command("role")
def change_role(
    username: Username, role: Annotated[str, typer.Argument(metavar="ROLE", help=ROLES)], json: Json = False
) -> None:
    """Give a member another role."""
    from evalservice.catalog.schemas import parse
    from evalservice.organizations.schemas import MemberChanges

    changes = parse(MemberChanges, {"role": role})
    with service() as opened:
        user_id = member_named(opened.client, username)["user_id"]
        member = opened.client.patch(f"{_path(opened.client)}/{user_id}", changes.model_dump(mode="json"))
    if json:
        print_json(member)
    else:
        say(f"{member['username']!r} has the role {member['role']}")


@app.command("remove")
def remove(username: Username, json: Json = False) -> None:
    """Remove a member and their keys."""
    with service() as opened:
        user_id = member_named(opened.client, username)["user_id"]
        opened.client.delete(f"{_path(opened.client)}/{user_id}")
    if json:
        print_json({"username": username, "removed": True})
    else:
        say(f"{username!r} is no member any more")


def _path(client: Client) -> str:
    [organization] = client.items(path_of("organizations"), 1)
    return path_of("organizations", organization["id"], "members")
