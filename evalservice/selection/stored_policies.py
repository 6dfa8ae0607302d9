"""From Postgres to the policies that decide: every version that an organization keeps, and which are in use."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from evalservice.selection.deciding import PolicyVersion
from evalservice.selection.policies_in_use import Named, Policies
from evalservice.tables import SelectionPolicy


def read_policies(session: Session) -> Policies:
    """Everything in use in the transaction's organization."""
    named: dict[str, Named] = {}
    versions: dict[str, PolicyVersion] = {}
    defaults: dict[str, str] = {}
    rows = session.scalars(select(SelectionPolicy).order_by(SelectionPolicy.name, SelectionPolicy.version))
    for row in rows:
        version = version_of(row)
        versions[f"{row.name}@{row.version}"] = version
        known = named.get(row.name, Named())
        if row.status == "active":
            named[row.name] = Named(version, known.trial, known.share, known.shadows)
            if row.is_default:
                defaults[row.use_case] = row.name
        elif row.status in ("canary", "ab"):
            named[row.name] = Named(known.active, version, row.traffic_share or 0.0, known.shadows)
        elif row.status == "shadow":
            named[row.name] = Named(known.active, known.trial, known.share, (*known.shadows, version))
        else:
            named.setdefault(row.name, known)
    return Policies(named, versions, defaults)


def version_of(row: SelectionPolicy) -> PolicyVersion:
    """From the table."""
    parameters: dict[str, Any] = dict(row.parameters)
    exploration = float(parameters.get("exploration", 0.0))
    return PolicyVersion(
        name=row.name,
        algorithm=row.algorithm,
        parameters=parameters,
        id=str(row.id),
        version=row.version,
        exploration=exploration,
        budget={name: float(value) for name, value in row.budget.items()},
    )
