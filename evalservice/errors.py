"""Every error that a user can meet, and how each becomes problem+json and an exit code.

    EvalserviceError                     code                 HTTP  exit
    ├── InvalidInput                     invalid-input         422    2   field, value, accepted
    │   └── InvalidRecords               invalid-records       422    2   every bad record of a file (first 20, total)
    ├── TooLarge                         too-large             413    2   a body over its limit
    ├── Unauthenticated                  unauthenticated       401    1   no key, or an unknown, revoked, expired one
    ├── Forbidden                        forbidden             403    1   the key may not do this
    ├── NotFound                         not-found             404    1
    ├── Conflict                         conflict              409    1
    │   ├── AlreadyExists                already-exists        409    1
    │   ├── InvalidTransition            invalid-transition    409    1
    │   ├── PreconditionFailed           precondition-failed   412    1   If-Match names another version
    │   ├── NothingEligible              nothing-eligible      409    1   no model may be selected
    │   ├── LeaseHeld                    lease-held            409    1   another driver owns the run
    │   └── LeaseLost                    lease-lost            409    1   this driver no longer owns the run
    ├── Unavailable                      unavailable           503    1
    │   ├── DatabaseUnavailable          database-unavailable  503    1
    │   ├── SchemaBehind                 schema-behind         503    1
    │   ├── ProviderUnreachable          provider-unreachable  503    1
    │   ├── EngineUnavailable            engine-unavailable    503    1
    │   ├── ClusterUnavailable           cluster-unavailable   503    1
    │   └── ServiceUnreachable           service-unreachable   503    1   nothing answers at EVALSERVICE_URL
    ├── StorageFailed                    storage-failed        507    1   full disk, unreachable data root
    └── RunFailed                        run-failed            500    1

Foreign errors (driver, HTTP, engine) are translated once, where they enter. Messages are one line: what was given,
what is accepted, what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class EvalserviceError(Exception):
    """Base of every error raised on purpose.

    outside: what a tenant of a service is told in the message's place, where that may name hosts and folders of the
    service; "" where the message is for everybody.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    outside: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem document."""
        return {
            "type": f"https://evalservice.dev/problems/{self.code}",
            "title": self.code.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.message,
        }


def shown(value: object, limit: int = 80) -> str:
    """A value as an error message shows it: its repr, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class InvalidInput(EvalserviceError):
    """A field that the user gave is wrong. The message names field, value and what is accepted."""

    code = "invalid-input"
    status = 422
    exit_code = 2

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field}: {shown(value)} is not valid: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted

    def problem(self) -> dict[str, Any]:
        return {**super().problem(), "field": self.field, "accepted": self.accepted}


@dataclass(frozen=True, slots=True)
class BadRecord:
    """One record of a file that cannot be used. `line` is 1-based (the record's first line, or its number)."""

    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.field}: {self.problem}"


class InvalidRecords(InvalidInput):
    """A file has bad records: the first 20 with line and field, and how many there are."""

    code = "invalid-records"
    SHOWN: ClassVar[int] = 20

    def __init__(self, source: str, bad: Sequence[BadRecord], total: int) -> None:
        EvalserviceError.__init__(self, f"{source}: {total} bad record{'s' if total != 1 else ''}")
        self.field, self.value, self.accepted = "file", source, "records that fit the dataset's schema"
        self.bad, self.total = tuple(bad[: self.SHOWN]), total

    def problem(self) -> dict[str, Any]:
        records = [{"line": b.line, "field": b.field, "problem": b.problem} for b in self.bad]
        return {**super().problem(), "total": self.total, "records": records}


class TooLarge(EvalserviceError):
    """A body is larger than it may be."""

    code = "too-large"
    status = 413
    exit_code = 2


class Unauthenticated(EvalserviceError):
    """No API key was given, or it is unknown, revoked or expired: which of these is not told."""

    code = "unauthenticated"
    status = 401


class Forbidden(EvalserviceError):
    """The key is good, but its role or scopes do not allow this."""

    code = "forbidden"
    status = 403


class NotFound(EvalserviceError):
    """Nothing of that name or id is visible to this organization."""

    code = "not-found"
    status = 404

    def __init__(self, field: str, value: object, hint: str = "") -> None:
        super().__init__(f"{field}: {shown(value)} does not exist" + (f": {hint}" if hint else ""))
        self.field, self.value = field, value


class Conflict(EvalserviceError):
    """The request is sound but the state of things forbids it."""

    code = "conflict"
    status = 409


class AlreadyExists(Conflict):
    """The name or key is taken."""

    code = "already-exists"


class InvalidTransition(Conflict):
    """The object's status does not allow this step."""

    code = "invalid-transition"


class PreconditionFailed(Conflict):
    """The object has changed since the version that If-Match names."""

    code = "precondition-failed"
    status = 412


class NothingEligible(Conflict):
    """No model may be selected.

    relaxations: for each constraint that keeps models out, how many, which ones it alone keeps out, and the limit that
    would let the first of them in. selection_id: under which that is logged.
    """

    code = "nothing-eligible"

    def __init__(self, message: str, selection_id: str, relaxations: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(message)
        self.selection_id, self.relaxations = selection_id, relaxations

    def problem(self) -> dict[str, Any]:
        return {**super().problem(), "selection_id": self.selection_id, "relaxations": list(self.relaxations)}


class LeaseHeld(Conflict):
    """Another driver holds the run's lease."""

    code = "lease-held"
    outside = "a driver is at work on this run"


class LeaseLost(Conflict):
    """This driver's lease was taken over: it must write nothing more."""

    code = "lease-lost"


class Unavailable(EvalserviceError):
    """Something outside this process does not answer."""

    code = "unavailable"
    status = 503


class DatabaseUnavailable(Unavailable):
    """Postgres cannot be reached or went away."""

    code = "database-unavailable"
    outside = "Postgres does not answer; try again in a moment"


class SchemaBehind(Unavailable):
    """The database's schema is not at this version's migration."""

    code = "schema-behind"


class ProviderUnreachable(Unavailable):
    """The provider's address does not answer at all."""

    code = "provider-unreachable"


class EngineUnavailable(Unavailable):
    """A self-hosted engine is not installed or does not start."""

    code = "engine-unavailable"


class ClusterUnavailable(Unavailable):
    """Ray cannot be reached or started."""

    code = "cluster-unavailable"


class ServiceUnreachable(Unavailable):
    """The service that the client was told of does not answer, or something else answers there."""

    code = "service-unreachable"


class StorageFailed(EvalserviceError):
    """The data root cannot be written or read."""

    code = "storage-failed"
    status = 507
    outside = "the service's storage does not work; its log says why under this request id"


class RunFailed(EvalserviceError):
    """A run ended without a usable measurement."""

    code = "run-failed"


def error_of(problem: Mapping[str, Any], status: int) -> EvalserviceError:
    """The error that a problem document tells of, of the class that raised it where that is known."""
    code = str(problem.get("type", "")).rpartition("/")[2]
    message = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
    if code == "internal":
        message = f"the service failed (request {problem.get('request_id') or 'unknown'}): its log has the rest"
    kind = next((kind for kind in _kinds(EvalserviceError) if kind.code == code), None)
    if kind is None:
        kind = InvalidInput if status in (400, 405, 413, 422) else EvalserviceError
    error = kind.__new__(kind)
    EvalserviceError.__init__(error, message)
    if isinstance(error, NothingEligible):
        found = problem.get("relaxations")
        error.selection_id = str(problem.get("selection_id", ""))
        error.relaxations = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    if isinstance(error, InvalidInput):
        error.field, error.value = str(problem.get("field", "")), None
        error.accepted = str(problem.get("accepted", ""))
    if isinstance(error, InvalidRecords):
        given = problem.get("records")
        records = [r for r in given if isinstance(r, dict)] if isinstance(given, list) else []
        bad = (BadRecord(r.get("line", 0), str(r.get("field", "")), str(r.get("problem", ""))) for r in records)
        error.bad = tuple(bad)
        total = problem.get("total")
        error.total = total if isinstance(total, int) else len(error.bad)
    return error


def _kinds(kind: type[EvalserviceError]) -> Iterator[type[EvalserviceError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
