"""The turns of A/B tests and experiments that a service's supervisor takes."""

from __future__ import annotations

import logging

from cluster.runtime import Platform
from evalservice.database import tenant_transaction, transaction

TURN_SECONDS = 1.0
log = logging.getLogger(__name__)


def take_turns(platform: Platform) -> None:
    """Bring every running test and experiment of every organization forward; one that raises holds up no other."""
    from evalservice.comparisons import experiments, turns  # not at the top: they bring statsmodels, a second

    for kind, running, turn in (
        ("ab_test", turns.running_tests, turns.take_turn),
        ("experiment_run", experiments.running_experiments, experiments.take_turn),
    ):
        with transaction(platform.engine) as session:
            found = running(session)
        for organization_id, row_id in found:
            about = {"organization_id": organization_id, f"{kind}_id": row_id}
            try:
                with tenant_transaction(platform.engine, organization_id) as session:
                    status = turn(session, row_id)
            except Exception as error:
                log.exception(f"{kind}_turn_failed", extra={**about, "error": f"{type(error).__name__}: {error}"})
                continue
            if status not in (None, "running"):
                log.info(f"{kind}_ended", extra={**about, "status": status})
