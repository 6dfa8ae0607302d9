"""The turns of running A/B tests that a service's supervisor takes."""

from __future__ import annotations

import logging

from cluster.runtime import Platform
from evalservice.database import tenant_transaction, transaction

TURN_SECONDS = 1.0
log = logging.getLogger(__name__)


def take_turns(platform: Platform) -> None:
    """Bring every running test of every organization forward; one that raises holds up no other."""
    from evalservice.comparisons.turns import running_tests, take_turn  # not at the top: statsmodels takes a second

    with transaction(platform.engine) as session:
        tests = running_tests(session)
    for organization_id, test_id in tests:
        about = {"organization_id": organization_id, "ab_test_id": test_id}
        try:
            with tenant_transaction(platform.engine, organization_id) as session:
                status = take_turn(session, test_id)
        except Exception as error:
            log.exception("ab_test_turn_failed", extra={**about, "error": f"{type(error).__name__}: {error}"})
            continue
        if status not in (None, "running"):
            log.info("ab_test_ended", extra={**about, "status": status})
