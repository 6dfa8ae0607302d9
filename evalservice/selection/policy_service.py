"""Selection policies of a tenant: versions of a name, which of them decides, and the way back.

    draft ──► shadow (decides and is logged, does not serve)       any ──retire──► retired
      │  └──► canary, ab (a share of the requests; the active version has the others)
      └─────► active ──(another version is activated)──► retired ──rollback of that one──► active

A version changes in nothing but this. At most one of a name is active, at most one is a canary or in an A/B test, at
most one active policy is the default of a use case. Every function takes the tenant's session; edges commit. Who
changes something calls `lock_policies` before reading.
"""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from evalservice.errors import InvalidInput, InvalidTransition, NotFound
from evalservice.lookup import find, find_or_none
from evalservice.selection.policy_parameters import parameters_of
from evalservice.selection.policy_schemas import NewPolicy
from evalservice.tables import Model, SelectionPolicy

SHARING = ("canary", "ab")
"""Statuses of a version that decides a share of the requests."""


def lock_policies(session: Session, organization_id: uuid.UUID) -> None:
    """Until the transaction ends, nobody else changes the organization's policies: two rows change together, and the
    one that is replaced may be one that is just being made."""
    key = f"selection policies {organization_id}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))


def find_policy(session: Session, reference: str) -> SelectionPolicy:
    """A policy by id, by name (its active version, else its newest) or by name@version. Raises NotFound."""
    with suppress(ValueError):
        row = session.get(SelectionPolicy, uuid.UUID(reference))
        if row is not None:
            return row
    name, _, version = reference.partition("@")
    query = select(SelectionPolicy).where(SelectionPolicy.name == name)
    if not version:
        query = query.order_by((SelectionPolicy.status == "active").desc(), SelectionPolicy.version.desc())
        row = session.scalars(query.limit(1)).one_or_none() if reference == name else None
    elif re.fullmatch("[0-9]{1,9}", version):
        row = session.scalars(query.where(SelectionPolicy.version == int(version))).one_or_none()
    else:
        row = None
    if row is None:
        names = session.scalars(select(SelectionPolicy.name).distinct().order_by(SelectionPolicy.name).limit(10)).all()
        raise NotFound("policy", reference, f"known are {', '.join(names)}" if names else "there is none yet")
    return row


def create_policy(
    session: Session, organization_id: uuid.UUID, new: NewPolicy, *, user_id: uuid.UUID | None
) -> SelectionPolicy:
    """A draft, the next version of its name. The policies are locked.

    Models in the parameters are stored by id, so that a version means the same for ever. Raises InvalidInput
    (algorithm, parameters; an archived model), NotFound (a model).
    """
    parameters = parameters_of(new.algorithm, new.parameters)
    models = {field: _model_id(session, field, each) for field, each in parameters.models().items()}
    newest = session.scalar(select(func.max(SelectionPolicy.version)).where(SelectionPolicy.name == new.name))
    row = SelectionPolicy(
        organization_id=organization_id,
        name=new.name,
        version=(newest or 0) + 1,
        description=new.description,
        algorithm=new.algorithm,
        parameters={**parameters.model_dump(mode="json"), **models},
        budget=new.budget.as_json(),
        use_case=new.use_case,
        created_by_id=user_id,
    )
    session.add(row)
    return _stored(session, row)


def activate(session: Session, row: SelectionPolicy, is_default: bool | None = None) -> SelectionPolicy:
    """Make it the active version of its name; the one before is retired. The policies are locked.

    is_default: whether it is the default of its use case, which then no other policy is; None: as the one before.
    Raises InvalidInput: a model of its parameters is gone.
    """
    before = _active(session, row.name)
    if is_default is None:
        is_default = before is not None and before.is_default and before.use_case == row.use_case
    if before is row:
        return _serving(session, row, is_default)
    _check_models(session, row)
    now = _now(session)
    if before is not None:
        before.status, before.retired_at = "retired", now
    row.activated_at = now
    return _serving(session, row, is_default)


def rollback(session: Session, row: SelectionPolicy) -> SelectionPolicy:
    """Make the version active again that was so before this one; gives that version. The policies are locked.

    It is the default again where this one is, or where it was and nobody is now. Raises InvalidTransition: this one is
    not active, or none was before it.
    """
    if row.status != "active":
        raise InvalidTransition(f"{_label(row)} is {row.status}: only an active version is rolled back")
    before = session.scalars(
        select(SelectionPolicy)
        .where(
            SelectionPolicy.name == row.name,
            SelectionPolicy.status == "retired",
            SelectionPolicy.activated_at.is_not(None),
            SelectionPolicy.retired_at <= row.activated_at,
        )
        .order_by(SelectionPolicy.retired_at.desc(), SelectionPolicy.version.desc())
        .limit(1)
    ).one_or_none()
    if before is None:
        raise InvalidTransition(f"no version of {row.name!r} was active before {_label(row)}: activate one of another")
    is_default = row.is_default and row.use_case == before.use_case
    if before.is_default and not is_default:
        is_default = not _defaults(session, before)
    row.status, row.retired_at = "retired", _now(session)
    return _serving(session, before, is_default)


def shadow(session: Session, row: SelectionPolicy) -> SelectionPolicy:
    """Let it decide and be logged, without serving. The policies are locked. Raises InvalidTransition: it is active."""
    _refuse_active(row)
    row.status, row.traffic_share, row.retired_at = "shadow", None, None
    return _stored(session, row)


def canary(session: Session, row: SelectionPolicy, share: float) -> SelectionPolicy:
    """Let it decide a share of the requests, to see whether it does harm. As `ab`."""
    return _beside(session, row, "canary", share)


def ab(session: Session, row: SelectionPolicy, share: float) -> SelectionPolicy:
    """Let it decide a share of the requests, to compare it with the active version. The policies are locked.

    Raises InvalidTransition: it is active, no version is, or another has a share already; InvalidInput: a model of its
    parameters is gone.
    """
    return _beside(session, row, "ab", share)


def retire(session: Session, row: SelectionPolicy) -> SelectionPolicy:
    """Let it decide nothing more. The policies are locked.

    Raises InvalidTransition: it is active, and another version has a share of its requests.
    """
    if row.status == "retired":
        return row
    if row.status == "active":
        _refuse_other_share(session, row)
    row.status, row.traffic_share, row.retired_at = "retired", None, _now(session)
    return _stored(session, row)


def _beside(session: Session, row: SelectionPolicy, status: str, share: float) -> SelectionPolicy:
    _refuse_active(row)
    if _active(session, row.name) is None:
        raise InvalidTransition(f"no version of {row.name!r} is active, who would decide the other requests?")
    _refuse_other_share(session, row)
    _check_models(session, row)
    row.status, row.traffic_share, row.retired_at = status, share, None
    return _stored(session, row)


def _serving(session: Session, row: SelectionPolicy, is_default: bool) -> SelectionPolicy:
    """Flush in the order that the unique indexes allow: what is replaced first."""
    session.flush()
    if is_default:
        for other in _defaults(session, row):
            other.is_default = False
        session.flush()
    row.status, row.is_default, row.traffic_share, row.retired_at = "active", is_default, None, None
    return _stored(session, row)


def _stored(session: Session, row: SelectionPolicy) -> SelectionPolicy:
    session.flush()
    session.refresh(row)
    return row


def _now(session: Session) -> datetime:
    """Later than whatever was stored before under the lock, which a transaction's own time may not be."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now


def _active(session: Session, name: str) -> SelectionPolicy | None:
    query = select(SelectionPolicy).where(SelectionPolicy.name == name, SelectionPolicy.status == "active")
    return session.scalars(query).one_or_none()


def _defaults(session: Session, row: SelectionPolicy) -> list[SelectionPolicy]:
    """The other policy that is the default of the row's use case, if there is one."""
    query = select(SelectionPolicy).where(
        SelectionPolicy.use_case == row.use_case,
        SelectionPolicy.is_default,
        SelectionPolicy.status == "active",
        SelectionPolicy.id != row.id,
    )
    return list(session.scalars(query))


def _refuse_active(row: SelectionPolicy) -> None:
    if row.status == "active":
        raise InvalidTransition(f"{_label(row)} is active: activate another version, or roll this one back, first")


def _refuse_other_share(session: Session, row: SelectionPolicy) -> None:
    query = select(SelectionPolicy).where(
        SelectionPolicy.name == row.name, SelectionPolicy.status.in_(SHARING), SelectionPolicy.id != row.id
    )
    other = session.scalars(query.limit(1)).one_or_none()
    if other is not None:
        share = f"{other.status} with a share of {other.traffic_share}"
        raise InvalidTransition(f"{_label(other)} is {share}: activate or retire it first")


def _model_id(session: Session, field: str, reference: str) -> str:
    model = find(session, Model, reference, f"parameters.{field}")
    if model.status == "archived":
        raise InvalidInput(f"parameters.{field}", reference, "a model that is not archived")
    return str(model.id)


def _check_models(session: Session, row: SelectionPolicy) -> None:
    for field, model_id in parameters_of(row.algorithm, row.parameters).models().items():
        if find_or_none(session, Model, model_id) is None:
            raise InvalidInput(f"parameters.{field}", model_id, f"a model that still exists; make another {row.name!r}")


def _label(row: SelectionPolicy) -> str:
    return f"{row.name}@{row.version}"
