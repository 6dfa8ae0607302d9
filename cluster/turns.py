"""The turns of A/B tests and experiments that a service's supervisor takes."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from sqlalchemy.orm import Session

from cluster.runtime import Platform
from evalservice.comparisons.running import Running, running_experiments, running_tests
from evalservice.database import tenant_transaction, transaction

TURN_SECONDS = 1.0
log = logging.getLogger(__name__)


def take_turns(platform: Platform) -> None:
    """Bring every running test and experiment of every organization forward; one that raises holds up no other."""
    with transaction(platform.engine) as session:
        tests, experiments = running_tests(session), running_experiments(session)
    if tests:
        from evalservice.comparisons.turns import take_turn  # not at the top: it brings statsmodels, a second

        _each(platform, "ab_test", tests, take_turn)
    if experiments:
        from evalservice.comparisons import experiments as service

        _each(platform, "experiment_run", experiments, service.take_turn)


def _each(platform: Platform, kind: str, rows: Running, turn: Callable[[Session, uuid.UUID], str | None]) -> None:
    for organization_id, row_id in rows:
        about = {"organization_id": organization_id, f"{kind}_id": row_id}
        try:
            with tenant_transaction(platform.engine, organization_id) as session:
                status = turn(session, row_id)
        except Exception as error:
            log.exception("turn_failed", extra={**about, "error": f"{type(error).__name__}: {error}"})
            continue
        if status not in (None, "running"):
            log.info(f"{kind}_ended", extra={**about, "status": status})
