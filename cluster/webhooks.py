"""Webhooks are sent: by a service's supervisor in turns, by the command that drove a run without a service at its end.

A message goes to an address that may be reached only, asked again at every connection, and follows no redirect.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence

from pyreqwest.exceptions import RequestError, RequestTimeoutError

from actors.providers.connection import Connection, reason
from cluster.runtime import Platform
from evalservice.comparisons.signing import signed_headers
from evalservice.comparisons.webhooks import (
    Message,
    claim_delivery,
    due_deliveries,
    note_outcome,
    own_due_deliveries,
)
from evalservice.database import tenant_transaction, transaction

SEND_SECONDS = 1.0
DELIVERIES_A_TURN = 20
TIMEOUT_SECONDS = 10.0
log = logging.getLogger(__name__)


def send_due(platform: Platform) -> None:
    """Send what is due of all organizations, all at once: a receiver that is slow costs a turn 10 s at most."""
    with transaction(platform.engine) as session:
        due = due_deliveries(session, DELIVERIES_A_TURN)
    _send(platform, due)


def send_own(platform: Platform) -> None:
    """Send what is due of this organization."""
    with platform.transaction() as session:
        due = own_due_deliveries(session, DELIVERIES_A_TURN)
    _send(platform, [(platform.organization_id, delivery_id) for delivery_id in due])


def _send(platform: Platform, due: Sequence[tuple[uuid.UUID, uuid.UUID]]) -> None:
    messages = []
    for organization_id, delivery_id in due:
        with tenant_transaction(platform.engine, organization_id) as session:
            message = claim_delivery(session, platform.box, delivery_id)
        if message is not None:
            messages.append(message)
    if not messages:
        return
    private = platform.settings.private_addresses is not False
    for message, (status, error) in zip(messages, asyncio.run(_post_all(messages, private)), strict=True):
        with tenant_transaction(platform.engine, message.organization_id) as session:
            state = note_outcome(session, message, status, error)
        log.info(
            "webhook_sent" if state == "delivered" else "webhook_not_delivered",
            extra={
                "organization_id": message.organization_id,
                "delivery_id": message.delivery_id,
                "status": state,
                "response_status": status,
                "error": error,
            },
        )


async def _post_all(messages: Sequence[Message], private: bool) -> list[tuple[int | None, str]]:
    return await asyncio.gather(*(_post(message, private) for message in messages))


async def _post(message: Message, private: bool) -> tuple[int | None, str]:
    """The answer's status, None and why where there is none. What the answer says is not read."""
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "evalservice",
        **signed_headers(message.message_id, int(time.time()), message.body, message.secret.get_secret_value()),
    }
    connection = Connection(message.url, headers, TIMEOUT_SECONDS, private=private)
    late = f"no answer within {TIMEOUT_SECONDS:g} s"
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            client = await connection.client()
            async with client.post(message.url).body_bytes(message.body).build_streamed() as answer:
                return answer.status, "" if 200 <= answer.status < 300 else f"answered {answer.status}"
    except (TimeoutError, RequestTimeoutError):
        return None, late
    except RequestError as error:
        return None, reason(error)
    except (OSError, ValueError) as error:  # the name does not resolve, leads nowhere allowed, or is none
        return None, str(error)
    finally:
        await connection.aclose()
