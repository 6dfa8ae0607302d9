"""The log of decisions: written in batches by one thread, bounded, without duplicates, drained at the end.

    log = DecisionLog(engine)
    log.add(record)                    # returns at once; False when the log is full and the decision is not kept
    log.add(record, stored=future)     # the future is resolved once the batch is committed
    log.close(timeout=10)

While Postgres is away decisions wait here, as many as `limit_bytes` hold; what no longer fits is counted, never
silently dropped. A batch that is repeated after a lost connection stores nothing twice.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from evalservice.database import driver_connection, tenant_transaction
from evalservice.errors import Unavailable
from evalservice.selection.answers import candidates_json, request_json, text_hash
from evalservice.selection.deciding import Decision

BATCH_SECONDS = 0.25
BATCH_RECORDS = 1000
LIMIT_BYTES = 128 << 20
RECORD_OVERHEAD = 2000
CANDIDATE_BYTES = 100
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Who:
    """Whose decision it is."""

    organization_id: uuid.UUID
    user_id: uuid.UUID


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A row of `model_selection_logs`. number: of the decision in the process `replica`, so that gaps are seen.

    candidates: as JSON, where that has been made already.
    """

    id: uuid.UUID
    who: Who
    decision: Decision
    explanation: str
    is_shadow: bool
    replica: str
    number: int
    candidates: bytes | None = None

    def row(self) -> tuple[Any, ...]:
        """The values in the order of `COLUMNS`."""
        decision = self.decision
        request, policy, model, snapshot = decision.request, decision.policy, decision.model, decision.snapshot
        text = request.text
        return (
            self.id,
            self.who.user_id,
            request.use_case,
            as_jsonb(request.required_capabilities),
            request.constraints.model_dump_json(exclude_defaults=True),
            None if model is None else snapshot.ids[model],
            (self.candidates or candidates_json(decision)).decode(),
            policy.algorithm,
            decision.score,
            self.explanation,
            decision.propensity,
            policy.id,
            policy.name,
            policy.version,
            self.is_shadow,
            decision.seed,
            snapshot.version,
            datetime.fromtimestamp(snapshot.read_at, UTC),
            request_json(decision).decode(),
            text_hash(decision),
            text if request.store_text else None,
            as_jsonb(decision.query.neighbours),
            as_jsonb(self._metadata()),
            datetime.fromtimestamp(decision.now, UTC),
        )

    def _metadata(self) -> dict[str, Any]:
        decision = self.decision
        return {
            "price": decision.price,
            "allowance": decision.allowance,
            "evidence": decision.target,
            "replica": self.replica,
            "number": self.number,
        }

    @property
    def bytes(self) -> int:
        """About what it takes in memory, of which a candidate's numbers are the most."""
        own = len(self.decision.candidates) * CANDIDATE_BYTES if self.candidates is None else len(self.candidates)
        return RECORD_OVERHEAD + own + len(self.decision.request.text or "")


def as_jsonb(value: Any) -> str:
    """As COPY takes it."""
    return orjson.dumps(value).decode()


COLUMNS = {
    "id": "uuid",
    "created_by_id": "uuid",
    "use_case": "varchar",
    "requested_capabilities": "jsonb",
    "constraints": "jsonb",
    "selected_model_id": "uuid",
    "candidate_models": "jsonb",
    "selection_algorithm": "varchar",
    "selection_score": "double precision",
    "selection_explanation": "text",
    "propensity": "double precision",
    "policy_id": "uuid",
    "policy_name": "varchar",
    "policy_version": "integer",
    "is_shadow": "boolean",
    "seed": "bigint",
    "snapshot_version": "varchar",
    "snapshot_at": "timestamptz",
    "request": "jsonb",
    "request_hash": "varchar",
    "request_text": "text",
    "neighbours": "jsonb",
    "metadata": "jsonb",
    "decided_at": "timestamptz",
}
_NAMES = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
_STAGE = sql.SQL("CREATE TEMPORARY TABLE decisions_in ({}) ON COMMIT DROP").format(
    sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in COLUMNS.items())
)
_COPY = sql.SQL("COPY decisions_in ({}) FROM STDIN").format(_NAMES)
# A model or policy that is gone by now is left in the plain columns.
_STORE = sql.SQL(
    """
    INSERT INTO model_selection_logs (organization_id, selected_model_ref_id, created_at, {names})
    SELECT {organization}, model.id, d.decided_at, {values}
    FROM decisions_in AS d
    LEFT JOIN evaluation_models AS model ON model.id = d.selected_model_id
    LEFT JOIN selection_policies AS policy ON policy.id = d.policy_id
    LEFT JOIN users AS creator ON creator.id = d.created_by_id
    ON CONFLICT (id) DO NOTHING
    """
)
_EXISTING = {"policy_id": "policy.id", "created_by_id": "creator.id"}
_VALUES = sql.SQL(", ").join(
    sql.SQL(_EXISTING[name]) if name in _EXISTING else sql.SQL("d.{}").format(sql.Identifier(name)) for name in COLUMNS
)


def store(engine: Engine, organization_id: uuid.UUID, records: Sequence[Record]) -> None:
    """Write one organization's decisions; those that are stored already stay. Raises DatabaseUnavailable."""
    with tenant_transaction(engine, organization_id) as session:
        store_rows(session, organization_id, (record.row() for record in records))


def store_rows(session: Session, organization_id: uuid.UUID, rows: Iterable[tuple[Any, ...]]) -> None:
    """As `store`, in a transaction of the organization's; rows in the order of `COLUMNS`."""
    connection = driver_connection(session)
    with connection.cursor() as cursor:
        cursor.execute(_STAGE)
        with cursor.copy(_COPY) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(_STORE.format(names=_NAMES, organization=sql.Literal(organization_id), values=_VALUES))


class DecisionLog:
    """Keeps decisions until they are stored. Safe to use from any thread."""

    def __init__(
        self, engine: Engine, *, limit_bytes: int = LIMIT_BYTES, on_lost: Callable[[int], None] = lambda n: None
    ) -> None:
        """on_lost: is told of each decision that does not fit."""
        self._engine, self._limit, self._on_lost = engine, limit_bytes, on_lost
        self._waiting: deque[tuple[Record, Future[None] | None]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self.lost = 0

    def add(self, record: Record, stored: Future[None] | None = None) -> bool:
        """Keep a decision for the next batch. False: the log is full and the decision is lost, and counted."""
        with self._lock:
            if self._bytes + record.bytes > self._limit or self._closing:
                self.lost += 1
                self._on_lost(1)
                return False
            self._bytes += record.bytes
            self._waiting.append((record, stored))
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="decision-log", daemon=True)
                self._thread.start()
        if stored is not None:
            self._wake.set()
        return True

    @property
    def waiting(self) -> int:
        """How many decisions are not stored yet."""
        return len(self._waiting)

    def flush(self, timeout: float) -> bool:
        """Wait until everything is stored. False: it is not, `timeout` seconds later."""
        self._wake.set()
        return self._idle.wait(timeout)

    def close(self, timeout: float) -> int:
        """Take nothing more, store what is here; gives how many could not be stored within `timeout` seconds."""
        self._closing = True
        self.flush(timeout)
        return len(self._waiting)

    def _loop(self) -> None:
        while True:
            self._wake.wait(BATCH_SECONDS)
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting[index] for index in range(min(len(self._waiting), BATCH_RECORDS))]
                if not self._written(batch):
                    time.sleep(RETRY_SECONDS)
                    continue
                with self._lock:
                    for record, _ in batch:
                        self._waiting.popleft()
                        self._bytes -= record.bytes
                    if not self._waiting:
                        self._idle.set()
                if len(batch) < BATCH_RECORDS:
                    break

    def _written(self, batch: Sequence[tuple[Record, Future[None] | None]]) -> bool:
        by_organization: dict[uuid.UUID, list[Record]] = defaultdict(list)
        for record, _ in batch:
            by_organization[record.who.organization_id].append(record)
        lost: set[uuid.UUID] = set()
        for organization_id, records in by_organization.items():
            try:
                lost |= self._stored(organization_id, records)
            except Unavailable as error:
                log.warning("decisions_wait", extra={"waiting": len(self._waiting), "error": error.message})
                return False
        self.lost += len(lost)
        for record, stored in batch:
            if stored is None or stored.done():
                continue
            if record.id in lost:
                stored.set_exception(Unavailable("the decision was made, but Postgres does not take it: see the log"))
            else:
                stored.set_result(None)
        return True

    def _stored(self, organization_id: uuid.UUID, records: Sequence[Record]) -> set[uuid.UUID]:
        """Store them; gives those that Postgres refuses, one by one. Raises DatabaseUnavailable: they all wait."""
        try:
            store(self._engine, organization_id, records)
        except Unavailable:
            raise
        except Exception as error:
            if len(records) == 1:
                log.error("decision_lost", extra={"selection_id": records[0].id, "error": repr(error)})
                self._on_lost(1)
                return {records[0].id}
            half = len(records) // 2  # so that one that cannot be stored costs its batch a dozen more, not a thousand
            return self._stored(organization_id, records[:half]) | self._stored(organization_id, records[half:])
        return set()
