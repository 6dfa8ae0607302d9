"""`/v1/organizations`, `/v1/api-keys`, `/v1/provider-credentials`: identity over HTTP."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from evalservice.addresses import check_base_url
from evalservice.errors import NotFound
from evalservice.organizations import members, service
from evalservice.organizations.schemas import (
    ApiKeyCreated,
    ApiKeyRead,
    CredentialChanges,
    CredentialRead,
    KeyRotation,
    MemberChanges,
    MemberRead,
    NewApiKey,
    NewCredential,
    NewMember,
    OrganizationChanges,
    OrganizationRead,
    key_read,
    organization_read,
)
from evalservice.organizations.secrets import origin_of
from evalservice.tables import ApiKey, Membership, Organization, ProviderCredential
from evalservice.web.context import Admin, Context, Owner, Reader, TenantRoute
from evalservice.web.idempotency import Idempotent
from evalservice.web.pages import Page, Paging, page_of

organizations = APIRouter(prefix="/organizations", tags=["organizations"], route_class=TenantRoute)
api_keys = APIRouter(prefix="/api-keys", tags=["api-keys"], route_class=TenantRoute)
credentials = APIRouter(prefix="/provider-credentials", tags=["provider-credentials"], route_class=TenantRoute)


@organizations.get("", response_model=Page[OrganizationRead])
def list_organizations(context: Reader, paging: Paging) -> Response:
    """The organizations that this key sees: its own."""
    sorts = {"created_at": Organization.created_at}
    return context.reply(
        page_of(context.session, select(Organization), paging, sorts, Organization.id, organization_read)
    )


@organizations.get("/{organization_id}", response_model=OrganizationRead)
def read_organization(context: Reader, organization_id: uuid.UUID) -> Response:
    """An organization and its limits."""
    return context.reply(organization_read(_organization(context, organization_id)))


@organizations.patch("/{organization_id}", response_model=OrganizationRead)
def change_organization(context: Owner, organization_id: uuid.UUID, changes: OrganizationChanges) -> Response:
    """Rename it or change its settings. Limits are the operator's."""
    row = _organization(context, organization_id, lock=True)
    context.check_unchanged(organization_read(row))
    for name in changes.model_fields_set:
        if (value := getattr(changes, name)) is not None:
            setattr(row, name, value)
    context.session.flush()
    context.session.refresh(row)
    return context.reply(organization_read(row))


def _organization(context: Context, organization_id: uuid.UUID, lock: bool = False) -> Organization:
    row = context.session.get(Organization, organization_id, with_for_update=lock or None)
    if row is None:
        raise NotFound("organization", str(organization_id))
    return row


@organizations.get("/{organization_id}/members", response_model=Page[MemberRead])
def list_members(context: Reader, organization_id: uuid.UUID, paging: Paging) -> Response:
    """Who belongs to it, and as what."""
    _organization(context, organization_id)
    query = select(Membership).options(joinedload(Membership.user))
    sorts = {"created_at": Membership.created_at}
    return context.reply(page_of(context.session, query, paging, sorts, Membership.user_id, MemberRead.of))


@organizations.post("/{organization_id}/members", status_code=201, response_model=MemberRead)
def add_member(context: Admin, organization_id: uuid.UUID, new: NewMember, once: Idempotent) -> Response:
    """Make a user and their membership. Owners are made by owners."""
    _organization(context, organization_id)
    if new.role == "owner":
        context.caller.require("owner")

    def work() -> Response:
        row = members.add_member(context.session, new)
        return context.created(MemberRead.of(row), row.user_id)

    return once.answer(context, work)


@organizations.patch("/{organization_id}/members/{user_id}", response_model=MemberRead)
def change_member(context: Admin, organization_id: uuid.UUID, user_id: uuid.UUID, changes: MemberChanges) -> Response:
    """Give a member another role."""
    _organization(context, organization_id)
    context.check_unchanged(MemberRead.of(members.member(context.session, user_id)))
    return context.reply(MemberRead.of(members.change_role(context.session, context.caller, user_id, changes.role)))


@organizations.delete("/{organization_id}/members/{user_id}", status_code=204)
def remove_member(context: Admin, organization_id: uuid.UUID, user_id: uuid.UUID) -> Response:
    """Remove a member and their keys."""
    _organization(context, organization_id)
    members.remove_member(context.session, context.caller, user_id)
    return Response(status_code=204)


@api_keys.get("", response_model=Page[ApiKeyRead])
def list_keys(context: Admin, paging: Paging) -> Response:
    """The organization's keys, revoked ones included, without their secrets."""
    sorts = {"created_at": ApiKey.created_at}
    return context.reply(page_of(context.session, select(ApiKey), paging, sorts, ApiKey.id, key_read))


@api_keys.post("", status_code=201, response_model=ApiKeyCreated)
def create_key(context: Admin, new: NewApiKey, once: Idempotent) -> Response:
    """Make a key. Its secret is in this answer and nowhere else."""

    def work() -> Response:
        row, secret = members.create_key(context.session, context.caller, new)
        return context.created(_with_secret(row, secret), row.id)

    return once.answer(context, work, keep=_without_secret)


@api_keys.get("/{key_id}", response_model=ApiKeyRead)
def read_key(context: Admin, key_id: uuid.UUID) -> Response:
    """A key without its secret."""
    return context.reply(key_read(members.api_key(context.session, key_id)))


@api_keys.post("/{key_id}/rotate", status_code=201, response_model=ApiKeyCreated)
def rotate_key(context: Admin, key_id: uuid.UUID, once: Idempotent, rotation: KeyRotation | None = None) -> Response:
    """Make a new secret; the old one works on for `grace_seconds`, so that nothing stands still."""

    def work() -> Response:
        row, secret = members.rotate_key(context.session, context.caller, key_id, rotation or KeyRotation())
        return context.reply(_with_secret(row, secret), 201, {"Location": f"/v1/api-keys/{row.id}"})

    return once.answer(context, work, keep=_without_secret)


@api_keys.delete("/{key_id}", response_model=ApiKeyRead)
def revoke_key(context: Admin, key_id: uuid.UUID) -> Response:
    """Revoke a key at once. It stays in the list, so that what it did can be told."""
    return context.reply(key_read(members.revoke_key(context.session, key_id)))


def _with_secret(row: ApiKey, secret: str) -> ApiKeyCreated:
    return ApiKeyCreated(**key_read(row).model_dump(), key=secret)


def _without_secret(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "key": None}


@credentials.get("", response_model=Page[CredentialRead])
def list_credentials(context: Reader, paging: Paging) -> Response:
    """The stored provider keys: where they may be sent, never what they are."""
    sorts = {"created_at": ProviderCredential.created_at}
    query = select(ProviderCredential)
    return context.reply(page_of(context.session, query, paging, sorts, ProviderCredential.id, CredentialRead.of))


@credentials.post("", status_code=201, response_model=CredentialRead)
def create_credential(context: Admin, new: NewCredential, once: Idempotent) -> Response:
    """Store a provider's key, encrypted, for the one origin of `base_url`."""
    check_base_url(new.base_url, private=context.wiring.private_addresses)

    def work() -> Response:
        row = service.create_credential(
            context.session,
            context.wiring.box,
            context.organization_id,
            name=new.name,
            origin=origin_of(new.base_url),
            secret=new.secret,
            user_id=context.caller.user_id,
        )
        row.requests_per_minute, row.tokens_per_minute = new.requests_per_minute, new.tokens_per_minute
        context.session.flush()
        return context.created(CredentialRead.of(row), row.id)

    return once.answer(context, work)


@credentials.get("/{credential_id}", response_model=CredentialRead)
def read_credential(context: Reader, credential_id: uuid.UUID) -> Response:
    """A stored provider key, without the key."""
    return context.reply(CredentialRead.of(service.credential(context.session, credential_id)))


@credentials.patch("/{credential_id}", response_model=CredentialRead)
def change_credential(context: Admin, credential_id: uuid.UUID, changes: CredentialChanges) -> Response:
    """Replace the secret, or the limits: runs that start from now on use them."""
    row = service.credential(context.session, credential_id)
    context.check_unchanged(CredentialRead.of(row))
    if changes.secret is not None:
        service.replace_secret(context.session, context.wiring.box, credential_id, changes.secret)
    for name in changes.model_fields_set - {"secret"}:
        setattr(row, name, getattr(changes, name))
    context.session.flush()
    context.session.refresh(row)
    return context.reply(CredentialRead.of(row))


@credentials.delete("/{credential_id}", status_code=204)
def remove_credential(context: Admin, credential_id: uuid.UUID) -> Response:
    """Forget a provider key that no model uses."""
    service.remove_credential(context.session, credential_id)
    return Response(status_code=204)
