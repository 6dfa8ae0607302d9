"""Organizations, users, memberships, API keys, provider credentials, idempotency keys: who, and whose.

The seed points at an organization and a user without saying what they are; these tables are them.

- organizations: the tenant. Every tenant table carries `organization_id` and is under forced row-level security, so a
  query that forgets its WHERE clause returns nothing. `max_concurrent_runs` and `daily_spend_limit` are its limits.
- users, memberships: a person belongs to any number of organizations, with a role in each.
- api_keys: only the hash of a key is stored; it belongs to a membership and goes with it.
- provider_credentials: encrypted, bound to one origin, so that a secret is sent nowhere else.
- idempotency_keys: the first answer to a POST, for whoever asks again with the same key.

The organization `default` and its owner, the user `local`, are made here with fixed ids.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.row_security import CURRENT, isolate, isolate_by, only_members_create

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DEFAULT_ORGANIZATION = "00000000-0000-7000-8000-000000000001"
LOCAL_USER = "00000000-0000-7000-8000-000000000002"

FUNCTIONS = ("evalservice_find_api_key(text)", "evalservice_add_member(uuid, text, text, text, text)")


def upgrade() -> None:

    op.create_table(
        "organizations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.String(length=100), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("max_concurrent_runs", sa.Integer(), nullable=True),
        sa.Column("daily_spend_limit", sa.Numeric(precision=20, scale=10), nullable=True),
        sa.Column("settings", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("daily_spend_limit >= 0", name=op.f("ck_organizations_daily_spend_limit")),
        sa.CheckConstraint("max_concurrent_runs > 0", name=op.f("ck_organizations_max_concurrent_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organizations")),
        sa.UniqueConstraint("slug", name=op.f("uq_organizations_slug")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("username", sa.String(length=150), nullable=False),
        sa.Column("display_name", sa.String(length=200), server_default="", nullable=False),
        sa.Column("email", sa.String(length=254), server_default="", nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("username", name=op.f("uq_users_username")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("method", sa.String(length=10), nullable=False),
        sa.Column("path", sa.String(length=500), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("response_status", sa.Integer(), nullable=True),
        sa.Column("response_headers", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("response_body", postgresql.JSONB(), nullable=True),
        sa.Column(
            "expires_at", sa.DateTime(timezone=True), server_default=sa.text("now() + interval '1 day'"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_idempotency_keys_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency_keys")),
        sa.UniqueConstraint("organization_id", "key", name=op.f("uq_idempotency_keys_organization_id_key")),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"], unique=False)
    op.create_table(
        "memberships",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(length=20), server_default="member", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'admin', 'member', 'viewer')", name=op.f("ck_memberships_role")),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_memberships_organization_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("organization_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index("ix_memberships_user_id", "memberships", ["user_id"], unique=False)
    op.create_table(
        "provider_credentials",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("origin", sa.String(length=300), nullable=False),
        sa.Column("encrypted_secret", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(length=64), server_default="", nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_provider_credentials_created_by_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=op.f("fk_provider_credentials_organization_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_credentials")),
        sa.UniqueConstraint("organization_id", "id", name="uq_provider_credentials_organization_id_id"),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_provider_credentials_organization_id_name")),
    )
    op.create_index("ix_provider_credentials_created_by_id", "provider_credentials", ["created_by_id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("prefix", sa.String(length=20), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "user_id"],
            ["memberships.organization_id", "memberships.user_id"],
            name="fk_api_keys_user_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_api_keys_organization_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_api_keys_organization_id_name")),
    )
    op.create_index(
        "ix_api_keys_organization_id_created_at",
        "api_keys",
        ["organization_id", sa.literal_column("created_at DESC")],
        unique=False,
    )
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"], unique=False)

    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(
        f"""
        CREATE FUNCTION evalservice_check_created_by() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            IF NOT EXISTS (
                SELECT 1 FROM {schema}.memberships AS m
                WHERE m.organization_id = NEW.organization_id AND m.user_id = NEW.created_by_id
            ) THEN
                RAISE foreign_key_violation USING MESSAGE = format(
                    'created_by_id of %I is no member of the row''s organization', TG_TABLE_NAME);
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        f"""
        CREATE FUNCTION evalservice_find_api_key(key_hash text)
        RETURNS TABLE (id uuid, organization_id uuid, user_id uuid, role text, scopes jsonb, expires_at timestamptz)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
            SELECT k.id, k.organization_id, k.user_id, m.role::text, k.scopes, k.expires_at
            FROM {schema}.api_keys AS k
            JOIN {schema}.memberships AS m ON m.organization_id = k.organization_id AND m.user_id = k.user_id
            JOIN {schema}.users AS u ON u.id = k.user_id AND u.is_active
            WHERE k.key_hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
        $$
        """
    )
    op.execute(
        f"""
        CREATE FUNCTION evalservice_add_member(user_id uuid, username text, display_name text, email text, role text)
        RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            current_organization uuid := {CURRENT};
        BEGIN
            IF current_organization IS NULL THEN
                RAISE insufficient_privilege USING MESSAGE = 'evalservice.organization_id is not set';
            END IF;
            INSERT INTO {schema}.users (id, username, display_name, email) VALUES ($1, $2, $3, $4);
            INSERT INTO {schema}.memberships (organization_id, user_id, role) VALUES (current_organization, $1, $5);
        END $$
        """
    )
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    isolate("organizations", key="id")
    for table in ("memberships", "api_keys", "provider_credentials", "idempotency_keys"):
        isolate(table)
    isolate_by(
        "users", f"EXISTS (SELECT 1 FROM memberships AS m WHERE m.user_id = users.id AND m.organization_id = {CURRENT})"
    )
    only_members_create("provider_credentials")
    op.execute(
        "INSERT INTO organizations (id, slug, name) "
        f"VALUES ('{DEFAULT_ORGANIZATION}', 'default', 'Default organization')"
    )
    op.execute(f"INSERT INTO users (id, username, display_name) VALUES ('{LOCAL_USER}', 'local', 'Local user')")
    op.execute(
        "INSERT INTO memberships (organization_id, user_id, role) "
        f"VALUES ('{DEFAULT_ORGANIZATION}', '{LOCAL_USER}', 'owner')"
    )


def downgrade() -> None:
    op.execute("DROP POLICY tenant ON users")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("api_keys")
    op.drop_table("provider_credentials")
    op.drop_table("memberships")
    op.drop_table("idempotency_keys")
    op.drop_table("users")
    op.drop_table("organizations")
    op.execute("DROP FUNCTION evalservice_check_created_by()")
