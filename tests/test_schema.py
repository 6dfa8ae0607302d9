"""The live database against the data model that was promised, and the rules that every tenant table keeps.

CONTRACT is the data model, one table a block, one line a column or constraint:

    column  type [null] [= default] [-> parent ON DELETE rule] [in choice choice ...]
    unique  column column ...
    index   column -column ...            (- is descending)

Where it differs from the first draft of the model, the reason is in a migration: costs are numeric(20,10), token
totals bigint, `parquet` is a file format, and the log's foreign key is selected_model_ref_id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from evalservice.tables import metadata
from tests.postgres import fresh_database, postgres_server, template_database  # noqa: F401

CONTRACT = """
evaluation_models
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    name                    varchar(200)
    display_name            varchar(200)
    description             text                = ''
    platform                varchar(50)
    platform_model_id       varchar(200)
    version                 varchar(50)         = 1.0.0
    is_latest               boolean             = true
    parent_model_id         uuid null           -> evaluation_models ON DELETE SET NULL
    default_config          jsonb               = {}
    supported_configs       jsonb               = []
    status                  varchar(20)         = active in active deprecated experimental archived
    metadata                jsonb               = {}
    tags                    jsonb               = []
    created_at              timestamptz         = now()
    updated_at              timestamptz         = now()
    deprecated_at           timestamptz null
    total_evaluations       integer             = 0
    avg_accuracy            double null
    avg_latency_ms          double null
    avg_cost_per_1k_tokens  double null
    index   organization_id status
    index   platform platform_model_id
    index   status -created_at
    index   name platform
    unique  organization_id platform platform_model_id version

model_capabilities
    id                      uuid
    name                    varchar(100)
    display_name            varchar(200)
    description             text                = ''
    category                varchar(50)
    unique  name

evaluation_models_capabilities
    model_id                uuid                -> evaluation_models ON DELETE CASCADE
    capability_id           uuid                -> model_capabilities ON DELETE CASCADE
    unique  model_id capability_id

benchmark_suites
    id                      uuid
    organization_id         uuid null           -> organizations ON DELETE SET NULL
    name                    varchar(200)
    description             text                = ''
    version                 varchar(50)         = 1.0.0
    is_standard             boolean             = false
    category                varchar(50)         in text-generation code-generation qa summarization classification \
translation custom
    dataset_id              uuid                -> evaluation_datasets ON DELETE RESTRICT
    evaluation_criteria     jsonb               = {}
    scoring_methodology     text                = ''
    metadata                jsonb               = {}
    tags                    jsonb               = []
    total_evaluations       integer             = 0
    last_used_at            timestamptz null
    created_at              timestamptz         = now()
    updated_at              timestamptz         = now()
    created_by_id           uuid null           -> users ON DELETE SET NULL
    index   organization_id category
    index   is_standard category
    index   category is_standard

evaluation_datasets
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    name                    varchar(200)
    description             text                = ''
    test_cases              jsonb               = []
    file_path               varchar(500)        = ''
    file_format             varchar(20)         = '' in json csv jsonl parquet
    input_schema            jsonb               = {}
    output_schema           jsonb               = {}
    total_test_cases        integer             = 0
    has_ground_truth        boolean             = false
    metadata                jsonb               = {}
    tags                    jsonb               = []
    created_at              timestamptz         = now()
    updated_at              timestamptz         = now()
    created_by_id           uuid null           -> users ON DELETE SET NULL
    index   organization_id -created_at

evaluation_runs
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    model_id                uuid                -> evaluation_models ON DELETE RESTRICT
    benchmark_id            uuid                -> benchmark_suites ON DELETE RESTRICT
    dataset_id              uuid                -> evaluation_datasets ON DELETE RESTRICT
    model_config            jsonb               = {}
    evaluation_config       jsonb               = {}
    status                  varchar(20)         = pending in pending running completed failed cancelled
    progress                double              = 0.0
    total_test_cases        integer             = 0
    completed_test_cases    integer             = 0
    failed_test_cases       integer             = 0
    aggregated_results      jsonb               = {}
    started_at              timestamptz null
    completed_at            timestamptz null
    duration_seconds        double null
    total_cost              numeric(20,10) null
    total_tokens            bigint null
    input_tokens            bigint null
    output_tokens           bigint null
    error_message           text                = ''
    error_traceback         text                = ''
    metadata                jsonb               = {}
    created_by_id           uuid null           -> users ON DELETE SET NULL
    created_at              timestamptz         = now()
    updated_at              timestamptz         = now()
    index   organization_id status
    index   model_id -created_at
    index   benchmark_id -created_at
    index   status -created_at

evaluation_results
    id                      uuid
    evaluation_run_id       uuid                -> evaluation_runs ON DELETE CASCADE
    test_case_index         integer
    test_case_id            varchar(200)        = ''
    input_data              jsonb
    expected_output         jsonb null
    actual_output           jsonb
    metrics                 jsonb               = {}
    latency_ms              double null
    tokens_used             integer null
    cost                    numeric(20,10) null
    success                 boolean             = true
    error_message           text                = ''
    executed_at             timestamptz         = now()
    index   evaluation_run_id test_case_index
    index   evaluation_run_id success
    unique  evaluation_run_id test_case_index

model_metrics
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    model_id                uuid                -> evaluation_models ON DELETE CASCADE
    metric_type             varchar(50)         in accuracy latency_p50 latency_p95 latency_p99 cost_per_1k_tokens \
error_rate success_rate bleu_score rouge_score custom
    value                   double
    unit                    varchar(20)         = ''
    benchmark_id            uuid null
    evaluation_run_id       uuid null
    metadata                jsonb               = {}
    timestamp               timestamptz         = now()
    index   model_id metric_type -timestamp
    index   organization_id metric_type -timestamp
    index   -timestamp

metric_aggregations
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    model_id                uuid                -> evaluation_models ON DELETE CASCADE
    period_type             varchar(20)         in hour day week month
    period_start            timestamptz
    period_end              timestamptz
    metrics                 jsonb               = {}
    sample_count            integer             = 0
    index   model_id period_type -period_start
    index   organization_id period_type -period_start
    unique  model_id period_type period_start

ab_tests
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    name                    varchar(200)
    description             text                = ''
    dataset_id              uuid                -> evaluation_datasets ON DELETE RESTRICT
    test_config             jsonb               = {}
    significance_level      double              = 0.05
    status                  varchar(20)         = draft in draft running completed failed cancelled
    results                 jsonb               = {}
    winner_model_id         uuid null
    started_at              timestamptz null
    completed_at            timestamptz null
    duration_seconds        double null
    metadata                jsonb               = {}
    created_by_id           uuid null           -> users ON DELETE SET NULL
    created_at              timestamptz         = now()
    updated_at              timestamptz         = now()
    index   organization_id status
    index   status -created_at

ab_tests_models
    ab_test_id              uuid                -> ab_tests ON DELETE CASCADE
    model_id                uuid                -> evaluation_models ON DELETE CASCADE
    unique  ab_test_id model_id

experiments
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    name                    varchar(200)
    description             text                = ''
    hypothesis              text                = ''
    objective               text                = ''
    experiment_config       jsonb               = {}
    template_id             uuid null
    status                  varchar(20)         = draft in draft active paused archived
    total_runs              integer             = 0
    last_run_at             timestamptz null
    tags                    jsonb               = []
    metadata                jsonb               = {}
    created_by_id           uuid null           -> users ON DELETE SET NULL
    created_at              timestamptz         = now()
    updated_at              timestamptz         = now()
    index   organization_id status
    index   status -created_at

experiment_runs
    id                      uuid
    experiment_id           uuid                -> experiments ON DELETE CASCADE
    run_number              integer
    name                    varchar(200)        = ''
    description             text                = ''
    run_config              jsonb               = {}
    status                  varchar(20)         = pending in pending running completed failed cancelled
    results                 jsonb               = {}
    started_at              timestamptz null
    completed_at            timestamptz null
    duration_seconds        double null
    metadata                jsonb               = {}
    created_by_id           uuid null           -> users ON DELETE SET NULL
    created_at              timestamptz         = now()
    updated_at              timestamptz         = now()
    index   experiment_id -run_number
    index   status -created_at
    unique  experiment_id run_number

experiment_runs_evaluation_runs
    experiment_run_id       uuid                -> experiment_runs ON DELETE CASCADE
    evaluation_run_id       uuid                -> evaluation_runs ON DELETE CASCADE
    unique  experiment_run_id evaluation_run_id

model_selection_logs
    id                      uuid
    organization_id         uuid                -> organizations ON DELETE CASCADE
    requested_capabilities  jsonb               = []
    constraints             jsonb               = {}
    use_case                varchar(200)        = ''
    selected_model_ref_id   uuid null           -> evaluation_models ON DELETE SET NULL
    selected_model_id       uuid null
    candidate_models        jsonb               = []
    selection_algorithm     varchar(50)
    selection_score         double null
    selection_explanation   text                = ''
    execution_successful    boolean null
    actual_performance      jsonb               = {}
    metadata                jsonb               = {}
    created_by_id           uuid null           -> users ON DELETE SET NULL
    created_at              timestamptz         = now()
    index   organization_id -created_at
    index   selected_model_id -created_at
    index   use_case -created_at
"""

TYPES = {
    "varchar": "character varying",
    "double": "double precision",
    "timestamptz": "timestamp with time zone",
}
GLOBAL_TABLES = {"organizations", "users", "model_capabilities"}
"""Every other table is a tenant's and carries organization_id."""
MAY_BE_PUBLIC = {"benchmark_suites", "evaluation_datasets"}
"""Parents that another organization may read: plain foreign keys, and the policy asks that the row is visible."""


@dataclass(frozen=True)
class Column:
    table: str
    name: str
    type: str
    nullable: bool
    default: str | None
    references: str | None
    on_delete: str | None
    choices: tuple[str, ...]


@dataclass
class Table:
    name: str
    columns: list[Column] = field(default_factory=list)
    unique: list[tuple[str, ...]] = field(default_factory=list)
    indexes: list[tuple[str, ...]] = field(default_factory=list)


LINE = re.compile(
    r"(?P<name>\w+)\s+(?P<type>[\w(),]+)(?P<null> null)?(?:\s+= (?P<default>\S+))?"
    r"(?:\s+-> (?P<references>\w+) ON DELETE (?P<on_delete>CASCADE|RESTRICT|SET NULL))?(?:\s+in (?P<choices>.+))?"
)


def contract() -> list[Table]:
    tables = []
    for block in CONTRACT.strip().split("\n\n"):
        name, *lines = block.splitlines()
        table = Table(name)
        for line in lines:
            word, *rest = line.split()
            if word in ("unique", "index"):
                (table.unique if word == "unique" else table.indexes).append(tuple(rest))
                continue
            match = LINE.fullmatch(line.strip())
            assert match, line
            kind = re.sub(r"^\w+", lambda word: TYPES.get(word[0], word[0]), match["type"])
            default = "" if match["default"] == "''" else match["default"]
            choices = tuple((match["choices"] or "").split())
            table.columns.append(
                Column(
                    name,
                    match["name"],
                    kind,
                    bool(match["null"]),
                    default,
                    match["references"],
                    match["on_delete"],
                    choices,
                )
            )
        tables.append(table)
    return tables


TABLES = contract()
COLUMNS = [column for table in TABLES for column in table.columns]
UNIQUE = [(table.name, columns) for table in TABLES for columns in table.unique]
INDEXES = [(table.name, columns) for table in TABLES for columns in table.indexes]
TENANT_TABLES = sorted(set(metadata.tables) - GLOBAL_TABLES)


def spelled(value: object) -> str:
    return f"{value.table}.{value.name}" if isinstance(value, Column) else "-".join(value)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def live(postgres_server: str, template_database: str) -> Iterator[psycopg.Connection[Any]]:  # noqa: F811
    with fresh_database(postgres_server, template=template_database) as url, psycopg.connect(url) as connection:
        yield connection


def index_keys(live: psycopg.Connection[Any], table: str, unique: bool) -> list[list[str]]:
    """The key columns of each valid index, a descending one with a minus."""
    rows = live.execute(
        """
        SELECT array_agg(CASE WHEN i.indoption[k.n - 1] & 1 = 1 THEN '-' ELSE '' END || a.attname ORDER BY k.n)
        FROM pg_index AS i
        CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = %s::regclass AND i.indisvalid AND i.indpred IS NULL AND (i.indisunique OR NOT %s)
        GROUP BY i.indexrelid
        """,
        (table, unique),
    )
    return [row[0] for row in rows]


def foreign_keys(live: psycopg.Connection[Any], table: str) -> list[tuple[list[str], str, list[str], str, list[str]]]:
    """Columns, parent, parent's columns, rule, columns that SET NULL empties."""
    rows = live.execute(
        """
        SELECT ARRAY(SELECT attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k(n, o)
                     JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.o),
               c.confrelid::regclass::text,
               ARRAY(SELECT attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k(n, o)
                     JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.o),
               CASE c.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'r' THEN 'RESTRICT' WHEN 'n' THEN 'SET NULL'
                                  ELSE c.confdeltype::text END,
               ARRAY(SELECT attname::text FROM unnest(c.confdelsetcols) AS k(n)
                     JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.n)
        FROM pg_constraint AS c WHERE c.conrelid = %s::regclass AND c.contype = 'f'
        """,
        (table,),
    )
    return [tuple(row) for row in rows]


def test_the_contract_is_whole() -> None:
    assert (len(TABLES), len(COLUMNS)) == (15, 188)


@pytest.mark.parametrize("column", COLUMNS, ids=spelled)
def test_a_column_has_its_type_nullability_and_default(live: psycopg.Connection[Any], column: Column) -> None:
    row = live.execute(
        """
        SELECT format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = %s::regclass AND a.attname = %s
        """,
        (column.table, column.name),
    ).fetchone()
    assert row is not None
    default = None if row[2] is None else re.sub(r"::[a-z ]+$", "", row[2]).strip("'")
    assert (row[0], row[1], default) == (column.type, column.nullable, column.default)


@pytest.mark.parametrize("column", [c for c in COLUMNS if c.choices], ids=spelled)
def test_a_column_accepts_its_choices_and_nothing_else(live: psycopg.Connection[Any], column: Column) -> None:
    row = live.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND conname = %s",
        (column.table, f"ck_{column.table}_{column.name}"),
    ).fetchone()
    assert row is not None
    blank = {""} if column.default == "" else set()
    assert set(re.findall(r"'([^']*)'", row[0])) == {*column.choices, *blank}


@pytest.mark.parametrize("column", [c for c in COLUMNS if c.references], ids=spelled)
def test_a_foreign_key_has_its_parent_and_rule(live: psycopg.Connection[Any], column: Column) -> None:
    found = [
        (parent, rule) for columns, parent, _, rule, _ in foreign_keys(live, column.table) if columns[-1] == column.name
    ]
    assert found == [(column.references, column.on_delete)]


@pytest.mark.parametrize(("table", "columns"), UNIQUE)
def test_a_unique_constraint_holds(live: psycopg.Connection[Any], table: str, columns: tuple[str, ...]) -> None:
    assert sorted(columns) in [sorted(key) for key in index_keys(live, table, unique=True)]


@pytest.mark.parametrize(("table", "columns"), INDEXES)
def test_an_index_serves(live: psycopg.Connection[Any], table: str, columns: tuple[str, ...]) -> None:
    assert list(columns) in index_keys(live, table, unique=False)


def test_every_live_table_is_a_class(live: psycopg.Connection[Any]) -> None:
    rows = live.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {row[0] for row in rows} == {*metadata.tables, "alembic_version"}


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_tenant_table_names_its_organization(live: psycopg.Connection[Any], table: str) -> None:
    row = live.execute(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'organization_id'", (table,)
    ).fetchone()
    assert row == (table != "benchmark_suites",)


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_tenant_table_ties_its_organization(live: psycopg.Connection[Any], table: str) -> None:
    tied = [columns for columns, *_ in foreign_keys(live, table) if columns[0] == "organization_id"]
    assert tied


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_a_tenant_table_has_an_index_by_organization(live: psycopg.Connection[Any], table: str) -> None:
    assert any(key[0] == "organization_id" for key in index_keys(live, table, unique=False))


@pytest.mark.parametrize("table", sorted({*TENANT_TABLES, "organizations", "users"}))
def test_row_level_security_is_forced(live: psycopg.Connection[Any], table: str) -> None:
    row = live.execute(
        "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %s::regclass", (table,)
    ).fetchone()
    assert row == (True, True)


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_foreign_keys_between_tenant_tables_carry_the_organization(live: psycopg.Connection[Any], table: str) -> None:
    between = [key for key in foreign_keys(live, table) if key[1] not in GLOBAL_TABLES | MAY_BE_PUBLIC]
    assert [key for key in between if key[0][0] != "organization_id" or key[2][0] != "organization_id"] == []


@pytest.mark.parametrize("table", TENANT_TABLES)
def test_set_null_never_empties_the_organization(live: psycopg.Connection[Any], table: str) -> None:
    for columns, parent, _, rule, emptied in foreign_keys(live, table):
        if rule == "SET NULL" and len(columns) > 1:
            assert emptied == [columns[-1]], parent


@pytest.mark.parametrize("table", sorted(metadata.tables))
def test_every_foreign_key_has_an_index_to_follow(live: psycopg.Connection[Any], table: str) -> None:
    keys = [[part.removeprefix("-") for part in key] for key in index_keys(live, table, unique=False)]
    followed = [columns for columns, *_ in foreign_keys(live, table)]
    lost = [
        columns
        for columns in followed
        if not any(key[0] == columns[-1] or key[: len(columns)] == columns for key in keys)
    ]
    assert lost == []


@pytest.mark.parametrize(
    "table", [t for t in TABLES if any(c.name == "updated_at" for c in t.columns)], ids=lambda t: t.name
)
def test_updated_at_is_set_by_every_update(table: Table) -> None:
    assert metadata.tables[table.name].c.updated_at.onupdate is not None


def documented() -> dict[str, dict[str, list[str]]]:
    """docs/data-model.md as table → column → its cells: type, written by, read by, shown by test."""
    text = Path(__file__).parents[1].joinpath("docs/data-model.md").read_text(encoding="utf-8")
    tables: dict[str, dict[str, list[str]]] = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name = section.split("\n", 1)[0].strip("` ")
        rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in section.splitlines()
            if "|" in line
        ]
        tables[name] = {row[0].strip("`"): row[1:] for row in rows[2:]}
    return tables


def test_every_column_is_documented_and_no_other(live: psycopg.Connection[Any]) -> None:
    rows = live.execute(
        """
        SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
          AND c.relname <> 'alembic_version'
        """
    ).fetchall()
    assert {(table, column) for table, columns in documented().items() for column in columns} == set(rows)


def test_every_documented_column_has_type_writer_reader_and_test() -> None:
    gaps = [
        f"{table}.{column}"
        for table, columns in documented().items()
        for column, cells in columns.items()
        if len(cells) != 4 or not all(cells)
    ]
    assert gaps == []
