"""What is under way, over all organizations: whose turns a supervisor takes. It imports nothing that takes a while."""

from __future__ import annotations

import uuid

from sqlalchemy import text
from sqlalchemy.orm import Session

Running = list[tuple[uuid.UUID, uuid.UUID]]
"""(organization, row)"""


def running_tests(session: Session) -> Running:
    """Every A/B test under way. The session needs no organization."""
    rows = session.execute(text("SELECT organization_id, ab_test_id FROM evalservice_running_ab_tests()"))
    return [(organization, test) for organization, test in rows]


def running_experiments(session: Session) -> Running:
    """Every numbered experiment run under way. The session needs no organization."""
    rows = session.execute(text("SELECT organization_id, experiment_run_id FROM evalservice_running_experiments()"))
    return [(organization, run) for organization, run in rows]
