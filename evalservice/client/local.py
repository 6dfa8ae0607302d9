"""Decisions in this process: the evidence is fetched every few seconds, and what was decided is sent to the log.

The part of the package that decides is imported with the first evidence: it takes a second, and only who decides
locally needs it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import orjson
from uuid_utils.compat import uuid7

from evalservice.client.asking import encoded
from evalservice.client.choice import Choice, choice_of
from evalservice.client.http import document_of, translated
from evalservice.client.outbox import Item, Outbox
from evalservice.errors import EvalserviceError, ServiceUnreachable, Unavailable

if TYPE_CHECKING:
    from evalservice.selection.local import Evidence

SNAPSHOT = "/v1/selections/snapshot"
LOG = "/v1/selections/log"
LOG_BATCH = 50
FETCH_SECONDS = 5.0
AWAY_SECONDS = 1.0
"""So often the service is asked while it is away."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """Evidence, and when its organization's database had been asked for it, by this process's monotonic clock."""

    evidence: Evidence
    tag: str
    read: float


class LocalDecisions:
    """Keeps the evidence fresh from `start` to `close`, decides on it, and sends the decisions to the service's log."""

    def __init__(
        self, http: httpx.Client, url: str, refresh_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._http, self._url, self._every, self._clock = http, url, refresh_seconds, clock
        self._outbox = Outbox(self._send, name="evalservice-decisions", batch=LOG_BATCH)
        self._fetched: Fetched | None = None
        self._problem = "it was not fetched yet"
        self._came, self._away, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._random = random.Random()  # draws need no secret
        self._closing = False

    def start(self) -> None:
        """Fetch the evidence now, and again and again."""
        threading.Thread(target=self._refresh, name="evalservice-evidence", daemon=True).start()

    def close(self, timeout: float) -> int:
        """Fetch no more, send what was decided; gives how many decisions could not be sent."""
        self._closing = True
        self._wake.set()
        return self._outbox.close(timeout)

    @property
    def away(self) -> bool:
        """The service did not answer lately."""
        return self._away.is_set()

    def service_failed(self) -> None:
        """The service did not answer: decide here until it does."""
        self._away.set()
        self._wake.set()

    def ready(self, timeout: float) -> bool:
        """Wait until there is evidence. False: there is none, `timeout` seconds later."""
        return self._came.wait(timeout)

    @property
    def has_evidence(self) -> bool:
        """Something to decide on is here."""
        return self._fetched is not None

    @property
    def unsent(self) -> int:
        """Decisions that wait for the service's log."""
        return self._outbox.waiting

    def decide(self, body: Mapping[str, Any], reason: str = "") -> Choice:
        """reason: why the service does not. Raises NothingEligible, InvalidInput, Conflict, ServiceUnreachable: there
        is no evidence here."""
        fetched = self._fetched
        if fetched is None:
            raise ServiceUnreachable(f"{reason}; and there is no evidence here to decide on: {self._problem}")
        from evalservice.selection.local import decide_locally

        own = str(uuid7())
        seed = body.get("seed")
        decided = decide_locally(
            fetched.evidence,
            encoded(body),
            own=own,
            seed=self._random.getrandbits(63) if seed is None else seed,
            now=self._clock(),
            age=time.monotonic() - fetched.read,
            reason=reason,
        )
        kept = self._outbox.add(Item(own, decided.logged))
        if decided.nothing is not None:
            raise decided.nothing
        document = orjson.loads(decided.answer)
        if not kept:
            document["warnings"].append("this decision will not be logged: too many wait for the service")
        return choice_of(document, local=True)

    def _refresh(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                self._fetch()
            except Exception as error:  # whatever it is, the next try may do
                self._problem = error.message if isinstance(error, EvalserviceError) else repr(error)
                if isinstance(error, Unavailable):
                    self._away.set()
                log.info("evidence_away", extra={"error": self._problem})
            else:
                self._away.clear()
            self._wake.wait(min(AWAY_SECONDS, self._every) if self.away else self._every)
            if self.away and not self._closing:
                time.sleep(min(AWAY_SECONDS, self._every) / 2)  # a failed request wakes it at once

    def _fetch(self) -> None:
        from evalservice.selection.local import Evidence
        from evalservice.selection.snapshot_json import from_json

        before = self._fetched
        headers = {} if before is None else {"If-None-Match": before.tag}
        with translated(self._url):
            answer = self._http.get(SNAPSHOT, headers=headers, timeout=FETCH_SECONDS)
        read = time.monotonic() - float(answer.headers.get("Age", 0))
        if answer.status_code == 304 and before is not None:
            self._fetched = Fetched(before.evidence, before.tag, read)
            return
        document_of(answer)
        snapshot, policies = from_json(answer.content)
        evidence = Evidence(snapshot, policies)
        if before is not None:
            evidence = Evidence(snapshot, policies, before.evidence.budgets)
        self._fetched = Fetched(evidence, answer.headers.get("ETag", uuid.uuid4().hex), read)
        self._came.set()

    def _send(self, items: Sequence[Item]) -> None:
        body = orjson.dumps({"decisions": [orjson.Fragment(item.body) for item in items]})
        with translated(self._url):
            answer = self._http.post(LOG, content=body, headers={"Content-Type": "application/json"})
        refused = document_of(answer)["refused"]
        if refused:
            log.warning("decisions_refused", extra={"count": len(refused), "first": refused[0]})
