"""Row-level security as the revisions use it.

Every tenant table gets two policies. `tenant`: a row is seen and written only in a transaction whose setting
`evalservice.organization_id` names its organization; without the setting nothing is seen. `owner`: the tables' owner
sees all, which FORCE would otherwise forbid to an owner that is no superuser, and with it the SECURITY DEFINER
functions that run in the owner's name.

Revisions that are released depend on these functions: add to them, do not change what they do.
"""

from __future__ import annotations

from alembic import op

CURRENT = "nullif(current_setting('evalservice.organization_id', true), '')::uuid"
"""The organization of the transaction; NULL, which equals nothing, where it is not set."""


def isolate(table: str, *, key: str = "organization_id", check: str | None = None) -> None:
    """Row-level security, enabled and forced. `check`: what a written row must satisfy besides."""
    isolate_by(table, f"{key} = {CURRENT}", check=check)


def isolate_by(table: str, mine: str, *, check: str | None = None) -> None:
    """The same for a table without `organization_id`: `mine` is what makes a row the organization's."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} USING ({mine}) WITH CHECK ({mine}{f' AND {check}' if check else ''})")
    op.execute(f"CREATE POLICY owner ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)")


def compare_once(table: str) -> None:
    """The policy `tenant` of `isolate`, with the setting read once a query and not once a row.

    A scan of a million rows took 0.65 s and takes 0.15 s. In return the planner no longer knows which organization
    it plans for: worth it for tables that are read by the million, not for those whose tenants differ much in size.
    """
    mine = f"organization_id = (SELECT {CURRENT})"
    op.execute(f"ALTER POLICY tenant ON {table} USING ({mine}) WITH CHECK ({mine})")


def compare_each_row(table: str) -> None:
    """The policy `tenant` as `isolate` made it."""
    mine = f"organization_id = {CURRENT}"
    op.execute(f"ALTER POLICY tenant ON {table} USING ({mine}) WITH CHECK ({mine})")


def require_visible(table: str, **parents: str) -> None:
    """What is written may point only at rows that are visible: `require_visible("runs", dataset_id="datasets")`.

    For parents that may be public, whose foreign keys cannot carry the organization. Policies of their own, for
    INSERT and UPDATE only: a subquery in a policy that also serves SELECT would make two tables whose policies look
    at each other recurse.
    """
    seen = " AND ".join(
        f"EXISTS (SELECT 1 FROM {parent} AS parent WHERE parent.id = {table}.{column})"
        for column, parent in parents.items()
    )
    op.execute(f"CREATE POLICY parents_on_insert ON {table} AS RESTRICTIVE FOR INSERT WITH CHECK ({seen})")
    op.execute(f"CREATE POLICY parents_on_update ON {table} AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK ({seen})")


def only_members_create(table: str) -> None:
    """`created_by_id` names a member of the row's organization.

    A trigger and not the policy: the policy is asked at every update, and a run must go on when its creator leaves.
    """
    op.execute(
        f"CREATE TRIGGER created_by_is_a_member BEFORE INSERT OR UPDATE OF created_by_id ON {table} FOR EACH ROW "
        "WHEN (NEW.created_by_id IS NOT NULL AND NEW.organization_id IS NOT NULL) "
        "EXECUTE FUNCTION evalservice_check_created_by()"
    )
