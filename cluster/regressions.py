"""Checks of completed runs for regressions, taken by a service's supervisor, or by the command that drove a run."""

from __future__ import annotations

import logging
import uuid

from cluster.runtime import Platform
from evalservice.comparisons.regressions import Checked, check_run, due_checks, own_due_checks, set_aside
from evalservice.database import tenant_transaction, transaction
from evalservice.errors import DatabaseUnavailable

CHECK_SECONDS = 1.0
CHECKS_A_TURN = 5
"""A check reads two runs, and may draw for a minute: it has a thread of its own."""
MOST_HERE = 100
log = logging.getLogger(__name__)


def check_due(platform: Platform) -> None:
    """Check the runs of all organizations that have waited longest; one that raises holds up no other."""
    with transaction(platform.engine) as session:
        due = due_checks(session, CHECKS_A_TURN)
    for organization_id, run_id in due:
        _check(platform, organization_id, run_id)


def check_own(platform: Platform) -> None:
    """Check the runs of this organization that are due: what was run here without a service."""
    with platform.transaction() as session:
        due = own_due_checks(session, MOST_HERE)
    for run_id in due:
        _check(platform, platform.organization_id, run_id)


def _check(platform: Platform, organization_id: uuid.UUID, run_id: uuid.UUID) -> None:
    about = {"organization_id": organization_id, "run_id": run_id}
    for is_last in (False, True):  # what somebody else did at the same moment is not there the second time
        try:
            with tenant_transaction(platform.engine, organization_id) as session:
                checked = check_run(session, run_id)
                told = {} if checked is None else _told(checked)
            break
        except DatabaseUnavailable:
            raise  # nothing is wrong with the run: it stays due
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.exception("regression_check_failed", extra={**about, "error": reason})
            if is_last:
                with tenant_transaction(platform.engine, organization_id) as session:
                    set_aside(session, run_id, reason)
                return
    if checked is None:
        return
    if checked.outcome == "regressed":
        log.warning("run_regressed", extra={**about, **told})
    elif checked.reason:
        log.info("run_not_compared" if checked.outcome == "not_compared" else "run_compared", extra={**about, **told})


def _told(checked: Checked) -> dict[str, object]:
    alert = checked.alert
    if alert is None:
        return {"outcome": checked.outcome, "reason": checked.reason}
    return {
        "alert_id": alert.id,
        "baseline_run_id": alert.baseline_run_id,
        "metric": alert.metric,
        "difference": alert.difference,
        "p_value": alert.p_value,
    }
