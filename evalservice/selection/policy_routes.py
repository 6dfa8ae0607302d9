"""`/v1/selection-policies`: versions of policies, which of them decides, and what one would have got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy import select

from evalservice.errors import InvalidInput
from evalservice.selection import policy_service as service
from evalservice.selection.policy_schemas import (
    Activation,
    NewPolicy,
    PolicyEvaluationRead,
    PolicyRead,
    PolicyTrialRead,
    Reward,
    Traffic,
)
from evalservice.tables import POLICY_STATUSES, SelectionPolicy
from evalservice.web.context import Admin, Context, Reader, TenantRoute, Writer
from evalservice.web.idempotency import Idempotent, Once
from evalservice.web.pages import Filter, Moment, Page, Paging, page_of

selection_policies = APIRouter(prefix="/selection-policies", tags=["selection-policies"], route_class=TenantRoute)

Change = Callable[[SelectionPolicy], SelectionPolicy]


@selection_policies.get("", response_model=Page[PolicyRead])
def list_policies(
    context: Reader, paging: Paging, name: Filter = None, status: Filter = None, use_case: Filter = None
) -> Response:
    """The versions of all policies, the newest first."""
    row = SelectionPolicy
    query = select(row)
    if status is not None and status not in POLICY_STATUSES:
        raise InvalidInput("status", status, f"accepted are {', '.join(POLICY_STATUSES)}")
    for column, wanted in ((row.name, name), (row.status, status), (row.use_case, use_case)):
        query = query if wanted is None else query.where(column == wanted)
    sorts = {"created_at": row.created_at, "name": row.name}
    return context.reply(page_of(context.session, query, paging, sorts, row.id, PolicyRead.of))


@selection_policies.post("", status_code=201, response_model=PolicyRead)
def create_policy(context: Writer, new: NewPolicy, once: Idempotent) -> Response:
    """Make a draft: the first version of a policy, or the next one where the name exists."""

    def work() -> Response:
        service.lock_policies(context.session, context.organization_id)
        user = context.caller.user_id
        row = service.create_policy(context.session, context.organization_id, new, user_id=user)
        return context.created(PolicyRead.of(row), row.id)

    return once.answer(context, work)


@selection_policies.get("/{policy:path}/evaluation", response_model=PolicyEvaluationRead)
def evaluate_policy(
    context: Reader,
    policy: str,
    reward: Reward = "quality",
    cost_weight: Annotated[
        float | None,
        Query(ge=0, allow_inf_nan=False, description="Quality that a dollar is worth; default: the policy's own."),
    ] = None,
    use_case: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]*$", description="Default: the policy's, all if it is ''.")
    ] = None,
    since: Moment = None,
    until: Moment = None,
    limit: Annotated[int, Query(ge=1, le=50_000, description="The latest decisions, at most.")] = 10_000,
) -> Response:
    """What the policy would have got on the logged requests: IPS, self-normalised IPS and doubly robust with intervals;
    or why the log does not say. The time is [since, until)."""
    from evalservice.selection.evaluating import Asked, evaluation_of

    row = service.find_policy(context.session, policy)
    asked = Asked(reward, cost_weight, row.use_case or None if use_case is None else use_case, since, until, limit)
    return context.reply(evaluation_of(context.session, row, asked))


@selection_policies.get("/{policy:path}/ab-result", response_model=PolicyTrialRead)
def read_trial(context: Reader, policy: str, reward: Reward = "quality") -> Response:
    """Which version is better, the one with a share of the requests or the active one beside it: from their outcomes,
    valid at every look. Of a version, or of the one of that name that has a share or had one last."""
    from evalservice.selection.trials import trial_of

    return context.reply(trial_of(context.session, policy, reward))


@selection_policies.get("/{policy:path}", response_model=PolicyRead)
def read_policy(context: Reader, policy: str) -> Response:
    """A policy by id, name (its active version, else its newest) or name@version."""
    return context.reply(PolicyRead.of(service.find_policy(context.session, policy)))


@selection_policies.post("/{policy:path}/activate", response_model=PolicyRead)
def activate_policy(context: Admin, policy: str, once: Idempotent, given: Activation = Activation()) -> Response:
    """Make it the active version of its name; the one before is retired. `is_default`: of its use case, too."""
    return _changed(context, policy, once, lambda row: service.activate(context.session, row, given.is_default))


@selection_policies.post("/{policy:path}/shadow", response_model=PolicyRead)
def shadow_policy(context: Admin, policy: str, once: Idempotent) -> Response:
    """Let it decide and be logged, without serving."""
    return _changed(context, policy, once, lambda row: service.shadow(context.session, row))


@selection_policies.post("/{policy:path}/canary", response_model=PolicyRead)
def canary_policy(context: Admin, policy: str, given: Traffic, once: Idempotent) -> Response:
    """Let it decide a share of the requests, to see whether it does harm; the active version decides the others."""
    return _changed(context, policy, once, lambda row: service.canary(context.session, row, given.share))


@selection_policies.post("/{policy:path}/ab", response_model=PolicyRead)
def ab_policy(context: Admin, policy: str, given: Traffic, once: Idempotent) -> Response:
    """Let it decide a share of the requests, to compare it with the active version, which decides the others."""
    return _changed(context, policy, once, lambda row: service.ab(context.session, row, given.share))


@selection_policies.post("/{policy:path}/rollback", response_model=PolicyRead)
def rollback_policy(context: Admin, policy: str, once: Idempotent) -> Response:
    """Make the version active again that was so before the active one, which is retired; gives that version."""
    return _changed(context, policy, once, lambda row: service.rollback(context.session, row))


@selection_policies.post("/{policy:path}/retire", response_model=PolicyRead)
def retire_policy(context: Admin, policy: str, once: Idempotent) -> Response:
    """Let it decide nothing more."""
    return _changed(context, policy, once, lambda row: service.retire(context.session, row))


def _changed(context: Context, policy: str, once: Once, change: Change) -> Response:
    def work() -> Response:
        service.lock_policies(context.session, context.organization_id)
        row = service.find_policy(context.session, policy)
        context.check_unchanged(PolicyRead.of(row))
        return context.reply(PolicyRead.of(change(row)))

    return once.answer(context, work)
