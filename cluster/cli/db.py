"""`evalservice db`: the database's schema, and the embedded server."""

from __future__ import annotations

import typer

from cluster.cli.common import Json, owners_login
from cluster.cli.output import print_json, say

app = typer.Typer(help="The database: schema and embedded server.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(json: Json = False) -> None:
    """Bring the schema to this version, and make or update the login role of the service.

    Uses DATABASE_URL (the owner's login), else the embedded Postgres.
    """
    import migrations
    from evalservice.database import translated_errors
    from evalservice.organizations.secrets import SecretBox

    with owners_login() as (settings, owner):
        box = SecretBox.from_settings(settings)
        password = None if settings.service_database_url else box.service_password().get_secret_value()
        with translated_errors():
            revision = migrations.upgrade(owner, service_password=password)
    if json:
        print_json({"revision": revision})
    else:
        say(f"the schema is at revision {revision}")


@app.command("status")
def status(json: Json = False) -> None:
    """Show where the database is and whether its schema is current. Starts nothing."""
    import migrations
    from cluster.embedded import EmbeddedPostgres
    from cluster.runtime import make_url_checked, read_settings

    settings = read_settings()
    needed = migrations.head_revision()
    if settings.database_url is None:
        embedded = EmbeddedPostgres(settings.home_path)
        document = {
            "database": "embedded",
            "home": str(settings.home_path),
            "running": embedded.running(),
            "needed_revision": needed,
        }
        text = f"embedded Postgres under {settings.home_path}: {'running' if embedded.running() else 'stopped'}"
    else:
        url = make_url_checked(settings.database_url.get_secret_value())
        found = migrations.current_revision(url.render_as_string(hide_password=False))
        shown = url.render_as_string(hide_password=True)
        document = {"database": shown, "revision": found, "needed_revision": needed, "current": found == needed}
        state = (
            "current" if found == needed else f"behind: revision {found}, needed {needed}; run `evalservice db upgrade`"
        )
        text = f"{shown}: {state}"
    if json:
        print_json(document)
    else:
        say(text)


@app.command("stop")
def stop(json: Json = False) -> None:
    """Stop the embedded Postgres, if no command uses it."""
    from cluster.embedded import EmbeddedPostgres
    from cluster.runtime import read_settings
    from evalservice.errors import InvalidInput

    settings = read_settings()
    if settings.database_url is not None:
        raise InvalidInput("DATABASE_URL", "…", "unset: only the embedded Postgres is ours to stop")
    stopped = EmbeddedPostgres(settings.home_path).stop()
    if json:
        print_json({"stopped": stopped})
    else:
        say("stopped" if stopped else "it was not running")
