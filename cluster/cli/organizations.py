"""`evalservice organizations`: the operator's part, which needs the database owner's login."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.common import Json, minute, owners_engine, service
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of

app = typer.Typer(help="Organizations: your own, and for the operator new ones.", no_args_is_help=True)

ConcurrentRuns = Annotated[
    int | None, typer.Option("--max-concurrent-runs", metavar="N", help="Runs at once at most; default: no limit.")
]
DailySpendLimit = Annotated[
    str | None, typer.Option("--daily-spend-limit", metavar="USD", help="US dollars a day (UTC); default: no limit.")
]


@app.command("create")
def create(
    slug: Annotated[str, typer.Argument(help="Its short name: lower-case letters, digits and -.")],
    owner: Annotated[str, typer.Option("--owner", metavar="USERNAME", help="Its first owner, a new user.")],
    name: Annotated[str | None, typer.Option("--name", metavar="S", help="Its name for people.")] = None,
    email: Annotated[str, typer.Option("--email", metavar="E", help="The owner's.")] = "",
    max_concurrent_runs: ConcurrentRuns = None,
    daily_spend_limit: DailySpendLimit = None,
    json: Json = False,
) -> None:
    """Make an organization and its owner; prints the owner's key, once.

    Needs the database owner's login (DATABASE_URL, or the embedded Postgres): no API key may make tenants.
    """
    from evalservice.catalog.schemas import parse
    from evalservice.database import transaction
    from evalservice.organizations.members import found_organization
    from evalservice.organizations.schemas import NewMember, NewOrganization, organization_read

    limits = {"max_concurrent_runs": max_concurrent_runs, "daily_spend_limit": daily_spend_limit}
    new = parse(NewOrganization, {"slug": slug, "name": name or slug, **limits})
    member = parse(NewMember, {"username": owner, "email": email, "role": "owner"})
    with owners_engine() as engine, transaction(engine) as session:
        organization, secret = found_organization(session, new, member)
        session.refresh(organization)
        document = organization_read(organization).model_dump(mode="json")
    if json:
        print_json({**document, "owner": owner, "api_key": secret})
        return
    say(secret)
    note(f"organization {slug!r}, owner {owner!r}: keep the key now, it is not shown again")


@app.command("limit")
def limit(
    slug: Annotated[str, typer.Argument(help="The organization's short name.")],
    max_concurrent_runs: ConcurrentRuns = None,
    daily_spend_limit: DailySpendLimit = None,
    json: Json = False,
) -> None:
    """Set what an organization may use from now on; what is not given is not limited. Runs under way go on as they are.

    Needs the database owner's login (DATABASE_URL, or the embedded Postgres).
    """
    from evalservice.catalog.schemas import parse
    from evalservice.database import transaction
    from evalservice.organizations.members import limit_organization
    from evalservice.organizations.schemas import OrganizationLimits, organization_read

    given = {"max_concurrent_runs": max_concurrent_runs, "daily_spend_limit": daily_spend_limit}
    limits = parse(OrganizationLimits, given)
    with owners_engine() as engine, transaction(engine) as session:
        document = organization_read(limit_organization(session, slug, limits)).model_dump(mode="json")
    if json:
        print_json(document)
        return
    runs, spend = (document[name] if document[name] is not None else "no limit" for name in given)
    say(f"organization {slug!r}: runs at once: {runs}; US dollars a day: {spend}")


@app.command("list")
def list_organizations(json: Json = False) -> None:
    """List the organizations that you belong to, and their limits."""
    with service() as opened:
        organizations = list(opened.client.items(path_of("organizations")))
    if json:
        print_json({"items": organizations})
        return
    rows = [
        [o["slug"], o["name"], o["max_concurrent_runs"], o["daily_spend_limit"], minute(o["created_at"])]
        for o in organizations
    ]
    print_table(["SLUG", "NAME", "RUNS AT ONCE", "$ A DAY", "CREATED"], rows)
