"""Outcomes of selections become evidence: applied by a service's supervisor as they come."""

from __future__ import annotations

import logging
import uuid

from cluster.runtime import Platform
from evalservice.database import tenant_transaction, transaction
from evalservice.errors import DatabaseUnavailable
from evalservice.selection.applying import AT_ONCE, apply_outcomes, set_aside, waiting_organizations

APPLY_SECONDS = 0.25
SINGLY = 1000
log = logging.getLogger(__name__)


def apply_waiting(platform: Platform) -> None:
    """Apply what waits, organization by organization; one that raises holds up no other."""
    with transaction(platform.engine) as session:
        waiting = waiting_organizations(session)
    for organization_id in waiting:
        try:
            applied = _applied(platform, organization_id)
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.exception("outcomes_not_applied", extra={"organization_id": organization_id, "error": repr(error)})
            _one_by_one(platform, organization_id)
            continue
        if applied:
            log.info("outcomes_applied", extra={"organization_id": organization_id, "outcomes": applied})


def _applied(platform: Platform, organization_id: uuid.UUID, most: int = AT_ONCE) -> int:
    with tenant_transaction(platform.engine, organization_id) as session:
        return apply_outcomes(session, organization_id, most=most)


def _one_by_one(platform: Platform, organization_id: uuid.UUID) -> None:
    """One that cannot be applied is set aside; the others go on."""
    for _ in range(SINGLY):
        try:
            if not _applied(platform, organization_id, 1):
                return
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.exception("outcome_set_aside", extra={"organization_id": organization_id, "error": repr(error)})
            with tenant_transaction(platform.engine, organization_id) as session:
                set_aside(session, organization_id, repr(error))
            return
