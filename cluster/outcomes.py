"""Outcomes of selections become evidence: applied by a service's supervisor as they come."""

from __future__ import annotations

import logging

from cluster.runtime import Platform
from evalservice.database import tenant_transaction, transaction
from evalservice.errors import DatabaseUnavailable
from evalservice.selection.applying import apply_outcomes, waiting_organizations

APPLY_SECONDS = 0.25
log = logging.getLogger(__name__)


def apply_waiting(platform: Platform) -> None:
    """Apply what waits, organization by organization; one that raises holds up no other."""
    with transaction(platform.engine) as session:
        waiting = waiting_organizations(session)
    for organization_id in waiting:
        try:
            with tenant_transaction(platform.engine, organization_id) as session:
                applied = apply_outcomes(session, organization_id)
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.exception("outcomes_not_applied", extra={"organization_id": organization_id, "error": repr(error)})
            continue
        if applied:
            log.info("outcomes_applied", extra={"organization_id": organization_id, "outcomes": applied})
