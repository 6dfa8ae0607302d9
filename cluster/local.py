"""The application in this process, for a command that has no service to talk to: the same routes, over no socket.

The caller is the local user, and a run that is made here is this process's to drive.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr
from sqlalchemy.orm import Session

from cluster.application import platform_wiring
from cluster.planning import plan_of
from cluster.runtime import Platform
from evalservice.api import create_app
from evalservice.client import Client
from evalservice.database import set_organization
from evalservice.organizations.identity import PERMISSIONS, Caller
from evalservice.runs.lifecycle import Lease, claim
from evalservice.selection.applying import apply_outcomes
from evalservice.tables import EvaluationRun
from evalservice.web.context import Wiring
from evalservice.web.inprocess import InProcess

HERE = "http://evalservice.local"
_NO_KEY = SecretStr("local")


class Claims:
    """Claims the runs that are made while `owner` is set, each in the transaction that makes it."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.owner: str | None = None
        self.leases: dict[uuid.UUID, Lease] = {}

    def __call__(self, session: Session, run: EvaluationRun) -> None:
        plan_of(self._platform, session, run)  # the credential opens, the configuration holds together
        if self.owner is not None:
            self.leases[run.id] = claim(session, run.id, self.owner)


@contextmanager
def local_client(platform: Platform, claims: Claims | None = None) -> Iterator[Client]:
    """A client of the application over this platform."""
    app = create_app(_wiring(platform, claims or Claims(platform)), raise_faults=True)
    with Client(HERE, _NO_KEY, InProcess(app)) as client:
        yield client
    app.state.routing.close()


def _wiring(platform: Platform, claims: Claims) -> Wiring:
    def local_user(session: Session, _key: str) -> Caller:
        set_organization(session, platform.organization_id)
        return Caller(platform.organization_id, platform.user_id, "owner", frozenset(PERMISSIONS), uuid.UUID(int=0))

    return platform_wiring(
        platform,
        on_run=claims,
        local_files=True,
        authenticate=local_user,
        on_outcome=apply_outcomes,  # nobody else would
    )
