"""The current snapshot and policies of each organization, refreshed in the background and swapped whole.

A decision takes what is here and waits for nothing; only an organization's first one waits for Postgres. While Postgres
is away the last state stays, and says how old it is.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from evalservice.database import listening, tenant_transaction
from evalservice.errors import EvalserviceError
from evalservice.selection.evidence import read_snapshot, utc_now
from evalservice.selection.policies_in_use import Policies
from evalservice.selection.probing import LEASE, claim_probes, half_open, with_probes
from evalservice.selection.snapshot import Snapshot
from evalservice.selection.stored_policies import read_policies

CHANNEL = "evalservice_evidence"
"""Postgres notifies it, with the organization's id, when models, measurements, outcomes or policies change."""
REFRESH_SECONDS = 10.0
BROKEN_SECONDS = 1.0
"""While a breaker is open: its cool-down may have ended."""
SETTLE_SECONDS = 0.25
"""Changes come in bursts: so long one waits for the next."""
FORGOTTEN_SECONDS = 3600.0
STALE_SECONDS = 60.0
RETRY_SECONDS = 1.0
SWITCH_SECONDS = 0.0005
"""Python lets another thread go on after so long: a refresh holds up no decision for more (default: 5 ms)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """What decisions of an organization are made from. problem: why it could not be refreshed, "" when it could."""

    snapshot: Snapshot
    policies: Policies
    problem: str = ""


class Keeper:
    """The states of the organizations that ask; `start` refreshes them in the background until `stop`."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock
        self._states: dict[uuid.UUID, State] = {}
        self._asked: dict[uuid.UUID, float] = {}
        self._changed: set[uuid.UUID] = set()
        self._probes: dict[uuid.UUID, dict[str, float]] = {}
        self._reading: dict[uuid.UUID, threading.Lock] = {}
        self._lock = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def refreshes(self) -> bool:
        """Whether it was started: else each state is read when it is asked for."""
        return bool(self._threads)

    def known(self, organization_id: uuid.UUID) -> State | None:
        """The current state, at once; None for an organization that has not asked yet, or when nothing refreshes it."""
        state = self._states.get(organization_id) if self.refreshes else None
        if state is not None:
            self._asked[organization_id] = time.monotonic()
        return state

    def load(self, organization_id: uuid.UUID) -> State:
        """The current state, read from Postgres when there is none. Raises DatabaseUnavailable, SchemaBehind."""
        with self._lock:
            own = self._reading.setdefault(organization_id, threading.Lock())
        with own:
            return self.known(organization_id) or self.refresh(organization_id)

    def refresh(self, organization_id: uuid.UUID) -> State:
        """Read it anew. Raises DatabaseUnavailable, SchemaBehind; the state before stays then."""
        with tenant_transaction(self._engine, organization_id) as session:
            return self.read(session, organization_id)

    def read(self, session: Session, organization_id: uuid.UUID) -> State:
        """As `refresh`, in a transaction of the organization's that is open."""
        read = read_snapshot(session, utc_now())
        waiting = half_open(read)
        with self._lock:
            held = {own for own, until in self._probes.get(organization_id, {}).items() if until > time.monotonic()}
        new = claim_probes(session, [own for own in waiting if own not in held])
        policies = read_policies(session)
        with self._lock:  # one of them may have been used meanwhile
            mine = self._probes.get(organization_id, {})
            kept = {own: until for own, until in mine.items() if own in waiting and until > time.monotonic()}
            self._probes[organization_id] = kept | dict.fromkeys(new, time.monotonic() + LEASE)
            state = State(with_probes(read, self._probes[organization_id]), policies)
            self._asked.setdefault(organization_id, time.monotonic())
            self._states[organization_id] = state
        return state

    def probed(self, organization_id: uuid.UUID, model_id: str) -> None:
        """A request goes to a half-open model: no other one does before its outcome is known."""
        with self._lock:
            self._probes.get(organization_id, {}).pop(model_id, None)
            state = self._states.get(organization_id)
            if state is not None:
                snapshot = with_probes(state.snapshot, self._probes.get(organization_id, {}))
                self._states[organization_id] = replace(state, snapshot=snapshot)

    def start(self) -> None:
        """Keep the states fresh from here on."""
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        for work in (self._listen, self._refresh_all):
            thread = threading.Thread(target=work, name=f"evidence-{work.__name__.strip('_')}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Refresh nothing more."""
        self._stop.set()
        self._wake.set()

    def ages(self) -> Mapping[uuid.UUID, float]:
        """How old each snapshot is, in seconds."""
        now = self._clock()
        return {key: max(0.0, now - state.snapshot.read_at) for key, state in list(self._states.items())}

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with listening(self._engine, CHANNEL) as connection:
                    self._changed.update(self._states)  # what changed before is found now
                    self._wake.set()
                    while not self._stop.is_set():
                        for notice in connection.notifies(timeout=1.0, stop_after=1):
                            self._changed.add(uuid.UUID(notice.payload))
                            self._wake.set()
            except Exception as error:
                log.warning("evidence_deaf", extra={"error": repr(error)})
                self._stop.wait(RETRY_SECONDS)

    def _refresh_all(self) -> None:
        due = time.monotonic() + REFRESH_SECONDS
        while not self._stop.is_set():
            broken = any(not state.snapshot.all_available for state in list(self._states.values()))
            self._wake.wait(max(0.0, min(due - time.monotonic(), BROKEN_SECONDS if broken else REFRESH_SECONDS)))
            if self._wake.is_set():
                self._stop.wait(SETTLE_SECONDS)
                self._wake.clear()
            self._changed.update(key for key, state in list(self._states.items()) if not state.snapshot.all_available)
            whole = time.monotonic() >= due
            if whole:
                self._forget()
                due = time.monotonic() + REFRESH_SECONDS
            changed, self._changed = self._changed, set()  # what is told from here on is for the next time
            wanted = set(self._states) if whole else changed & set(self._states)
            for organization_id in wanted:
                self._refreshed(organization_id)

    def _refreshed(self, organization_id: uuid.UUID) -> None:
        try:
            self.refresh(organization_id)
        except Exception as error:  # whatever it is, the other organizations' evidence is to stay fresh
            reason = error.message if isinstance(error, EvalserviceError) else type(error).__name__
            log.warning("evidence_stale", extra={"organization_id": organization_id, "error": repr(error)})
            state = self._states.get(organization_id)
            if state is not None:
                self._states[organization_id] = replace(state, problem=reason)

    def _forget(self) -> None:
        """Organizations that have not asked for an hour."""
        oldest = time.monotonic() - FORGOTTEN_SECONDS
        for organization_id in [key for key, asked in list(self._asked.items()) if asked < oldest]:
            self._states.pop(organization_id, None)
            self._probes.pop(organization_id, None)
            self._asked.pop(organization_id, None)
            self._reading.pop(organization_id, None)
