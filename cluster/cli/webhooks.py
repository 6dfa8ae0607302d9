"""`evalservice webhooks`: who is told of regression alerts over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.common import Json, minute, service
from cluster.cli.output import note, print_json, print_table, say
from evalservice.client import path_of

app = typer.Typer(help="Webhooks: addresses that are told of regression alerts.", no_args_is_help=True)
WebhookId = Annotated[str, typer.Argument(metavar="ID", help="As `webhooks list` shows it.")]


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="An http(s) address, without query.")],
    json: Json = False,
) -> None:
    """Tell this address of every regression alert from now on. The secret is printed once, on stdout.

    Each alert is POSTed as JSON (type, timestamp, data: the alert) and signed as https://www.standardwebhooks.com says,
    whose libraries verify it with the secret. It is sent until an answer is 2xx, 8 times within a day, under one
    webhook-id: the same message may arrive twice. A service sends at once; without one, `evalservice run` does at its
    end.
    """
    with service() as opened:
        made = opened.client.post(path_of("webhooks"), {"url": url})
    if json:
        print_json(made)
        return
    note(f"webhook {made['id']}; its secret is shown once:")
    say(made["secret"])


@app.command("list")
def list_(json: Json = False) -> None:
    """List the webhooks, the newest first."""
    with service() as opened:
        items = list(opened.client.items(path_of("webhooks")))
    if json:
        print_json({"items": items})
        return
    print_table(["ID", "URL", "CREATED"], [[i["id"], i["url"], minute(i["created_at"])] for i in items])


@app.command("deliveries")
def deliveries(
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000)] = 50,
    json: Json = False,
) -> None:
    """List what was sent to a webhook, or is to be, and what the last attempt gave."""
    with service() as opened:
        items = list(opened.client.items(path_of("webhooks", webhook_id, "deliveries"), limit))
    if json:
        print_json({"items": items})
        return
    print_table(
        ["ALERT", "STATUS", "ATTEMPTS", "ANSWER", "ERROR", "NEXT ATTEMPT", "CREATED"],
        [
            [
                i["regression_alert_id"],
                i["status"],
                i["attempts"],
                i["response_status"] or "",
                i["error"],
                minute(i["next_attempt_at"]),
                minute(i["created_at"]),
            ]
            for i in items
        ],
    )


@app.command("remove")
def remove(webhook_id: WebhookId, json: Json = False) -> None:
    """Send nothing more there; what was to be sent is forgotten."""
    with service() as opened:
        opened.client.delete(path_of("webhooks", webhook_id))
    if json:
        print_json({"id": webhook_id, "deleted": True})
    else:
        say(f"webhook {webhook_id} was removed")
