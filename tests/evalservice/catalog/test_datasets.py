"""Datasets: records become a snapshot or are refused as a whole; blocks read it back."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalservice.catalog import snapshots
from evalservice.catalog.blocks import Block, plan_blocks, plan_ordered_blocks, random_order, read_block
from evalservice.catalog.datasets import check_records, load_cases, snapshot
from evalservice.catalog.formats import inline_records, read_records
from evalservice.catalog.mapping import FieldMapping
from evalservice.catalog.snapshots import Snapshot, open_snapshot
from evalservice.errors import EvalserviceError, InvalidInput, InvalidRecords, StorageFailed
from evalservice.records import TestCase


def keep(records: list[Any], root: Path, **options: Any) -> Snapshot:
    return snapshot(inline_records(records), str(root), "org-1", **options)


def everything(kept: Snapshot) -> list[TestCase]:
    return [case for block in plan_blocks(kept.total) for case in read_block(kept, block)]


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def refused(records: list[Any], root: Path, **options: Any) -> list[str]:
    with pytest.raises(InvalidRecords) as caught:
        keep(records, root, **options)
    assert files(root) == []
    return [str(bad) for bad in caught.value.bad]


# Mapping


def test_a_record_becomes_a_test_case_and_what_is_left_its_metadata(tmp_path: Path) -> None:
    record = {
        "input": "Why?", "expected_output": {"a": 1}, "id": 7, "choices": ["x", "y"], "cluster": "p1",
        "metadata": {"source": "s"}, "level": "hard",
    }  # fmt: skip
    assert everything(keep([record], tmp_path)) == [
        TestCase(0, "Why?", "7", {"a": 1}, ("x", "y"), "p1", {"source": "s", "level": "hard"})
    ]


def test_fields_are_mapped_by_name_or_dotted_path(tmp_path: Path) -> None:
    mapping = FieldMapping(input="data.question", expected="answers.text.0", id="key.a")
    record = {"data": {"question": "Why?"}, "answers": {"text": ["Because", "So"]}, "key.a": "k"}
    [case] = everything(keep([record], tmp_path, mapping=mapping))
    assert (case.input, case.expected_output, case.id) == ("Why?", "Because", "k")


def test_an_input_field_that_no_record_has_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="input_field: 'input' is not valid: no record has it; there are: question"):
        keep([{"question": "a", "answer": 1}] * 30, tmp_path)


def test_a_field_that_was_asked_for_and_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected_field: 'answr'"):
        keep([{"input": "a", "answer": 1}], tmp_path, mapping=FieldMapping(expected="answr"))


def test_an_input_of_one_record_missing_is_that_records_problem(tmp_path: Path) -> None:
    assert refused([{"input": "a"}, {"x": 1}, {"input": None}], tmp_path) == [
        "line 2, input: missing; it is the test case's input",
        "line 3, input: missing; it is the test case's input",
    ]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"input": 3}, "input: a string or an object is expected, this is 3"),
        ({"input": [{"role": "user", "content": "a"}]}, 'wrap chat messages as {"messages": [...]}'),
        ({"input": {"messages": []}}, "input.messages: a list of at least one message"),
        ({"input": {"messages": [{"content": "x"}]}}, "input.messages.0: an object with a role"),
        ({"input": {"messages": [{"role": "user", "content": 3}]}}, "input.messages.0.content"),
        ({"input": "a", "id": "x" * 201}, "id: a string of at most 200 characters or an integer"),
        ({"input": "a", "id": True}, "id: a string of at most 200 characters or an integer"),
        ({"input": "a", "cluster": 1.5}, "cluster: a string"),
        ({"input": "a", "choices": "x"}, "choices: a list of texts is expected"),
        ({"input": "a", "choices": []}, "choices: 1 to 1000 choices are expected"),
        ({"input": "a", "choices": ["x", None]}, "choices.1: a text is expected"),
        ({"input": "a", "choices": {"text": ["x"], "label": []}}, "choices.label: one label for each text"),
        ({"input": "a", "metadata": [1]}, "metadata: an object is expected"),
        ({"input": "a\0"}, "input: a NUL character"),
        ({"input": "a", "x": {"b\0": 1}}, "metadata: a NUL character"),
        ({"input": "\ud800"}, "input: half a surrogate pair"),
        ({"input": "a", "expected_output": float("nan")}, "expected_output: NaN or infinity is not JSON"),
        ({"input": "a", "expected_output": 2**65}, "expected_output: Integer exceeds 64-bit range"),
        ({"input": "a", 3: 4}, "metadata: Dict key must be str"),
    ],
)
def test_a_record_that_cannot_be_used_says_which_field_and_why(tmp_path: Path, record: Any, told: str) -> None:
    [found] = refused([record], tmp_path)
    assert told in found


def test_a_deeply_nested_value_is_refused(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    assert "nested too deeply" in refused([{"input": "a", "expected_output": deep}], tmp_path)[0]


def test_a_backslash_u0000_that_was_written_out_is_just_text(tmp_path: Path) -> None:
    assert everything(keep([{"input": "\\u0000 null"}], tmp_path))[0].input == "\\u0000 null"


def test_labelled_choices_become_letters(tmp_path: Path) -> None:
    record = {"input": "a", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "expected_output": "3"}
    [case] = everything(keep([record], tmp_path))
    assert (case.choices, case.expected_output) == (("x", "y", "z"), "C")


def test_choices_and_metadata_in_a_csv_cell_are_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('input,choices,metadata\nq,"[""x"", 2]","{""k"": [1]}"\n')
    [case] = load_cases(read_records(tmp_path / "a.csv"))
    assert (case.choices, case.metadata) == (("x", "2"), {"k": [1]})


# Bad records


def test_the_first_twenty_bad_records_and_their_number_are_told(tmp_path: Path) -> None:
    records = [{"input": "a"}] + [{"input": n} for n in range(30)]
    with pytest.raises(InvalidRecords, match=r"test\.jsonl: 30 bad records") as caught:
        keep(records, tmp_path, source="test.jsonl")
    assert [bad.line for bad in caught.value.bad] == list(range(2, 22))


def test_an_id_that_comes_again_names_the_line_of_the_first(tmp_path: Path) -> None:
    records = [{"input": "a", "id": name} for name in ["x", "y", "x", "", "", "y", "x"]]
    assert refused(records, tmp_path) == [
        "line 3, id: the same id as line 1",
        "line 6, id: the same id as line 2",
        "line 7, id: the same id as line 1",
    ]


def test_repeated_ids_and_other_problems_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    records: list[Any] = [{"input": "a", "id": "x"}, {"input": 1}, {"input": "a", "id": "x"}, {"input": 2}]
    assert [text.split(",")[0] for text in refused(records, tmp_path)] == ["line 2", "line 3", "line 4"]


def test_a_schema_tells_line_and_path(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer"}}}}
    records = [{"input": {"n": [1]}}, {"input": {"n": [1, "two"]}}, {"input": {"n": 3}}]
    assert refused(records, tmp_path, input_schema=schema) == [
        "line 2, input.n.1: 'two' is not of type 'integer'",
        "line 3, input.n: 3 is not of type 'array'",
    ]


def test_the_output_schema_is_for_expected_outputs_that_are_there(tmp_path: Path) -> None:
    records = [{"input": "a", "expected_output": 1}, {"input": "b"}, {"input": "c", "expected_output": "x"}]
    assert refused(records, tmp_path, output_schema={"type": "number"}) == [
        "line 3, expected_output: 'x' is not of type 'number'"
    ]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "strin"}, "type: 'strin' is not valid under any of the given schemas"),
        ([1], "a JSON Schema .* is an object"),
        ({"pattern": "("}, "is not a 'regex'"),
        ({"patternProperties": {"(a+)+$": {}}}, "patternProperties without repeated groups"),
    ],
)
def test_a_schema_that_is_none_is_refused_before_any_record(tmp_path: Path, schema: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        keep([{"input": "a"}], tmp_path, input_schema=schema)
    assert caught.value.field == "input_schema"


def test_a_reference_out_of_the_schema_is_never_fetched(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing is fetched"):
        keep([{"input": "a"}], tmp_path, input_schema={"$ref": "http://127.0.0.1:9/schema.json"})


def test_hostile_schemas_cost_their_record_not_the_service(tmp_path: Path) -> None:
    doubling = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    hostile = [
        {"$ref": "#/$defs/d0", "$defs": {**doubling, "d40": {"type": "string"}}},
        {"pattern": "^(a|a)*$"},
        {"$ref": "#"},
    ]
    started = time.monotonic()
    for schema in hostile:
        assert len(refused([{"input": "a" * 60 + "!"}], tmp_path, input_schema=schema)) == 1
    assert time.monotonic() - started < 20


# The content hash


def test_the_hash_depends_on_content_and_not_on_format_names_or_key_order(tmp_path: Path) -> None:
    rows = [{"q": f"Frage {n}: é\n", "a": str(n), "k": "x"} for n in range(10)]
    (tmp_path / "a.json").write_text(json.dumps({"data": rows}))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(dict(reversed(row.items()))) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["k", "a", "q"])
        writer.writeheader()
        writer.writerows(rows)
    mapping = FieldMapping(input="q", expected="a")
    kept = [
        snapshot(read_records(tmp_path / name), str(tmp_path / "root"), "org", mapping=mapping)
        for name in ("a.json", "a.jsonl", "a.parquet", "a.csv")
    ]
    renamed = [{"input": row["q"], "expected_output": row["a"], "k": "x"} for row in rows]
    assert {one.content_hash for one in kept} == {check_records(inline_records(renamed))}
    assert len(set(kept)) == 1


def test_the_hash_is_of_canonical_json(tmp_path: Path) -> None:
    import hashlib

    line = b'{"choices":null,"cluster":null,"expected_output":{"a":1,"b":2},"id":"","input":"x","metadata":null}\n'
    kept = keep([{"input": "x", "expected_output": {"b": 2, "a": 1}}], tmp_path)
    assert kept.content_hash == hashlib.sha256(line).hexdigest()


@pytest.mark.parametrize("other", [{"input": "y"}, {"input": "x", "id": "1"}, {"input": "x", "m": None}])
def test_other_content_has_another_hash(other: Any) -> None:
    assert check_records(inline_records([{"input": "x"}])) != check_records(inline_records([other]))


# Snapshots


def test_a_snapshot_lies_under_its_hash_and_says_what_it_holds(tmp_path: Path) -> None:
    kept = keep([{"input": "a", "expected_output": 0, "cluster": "c"}], tmp_path)
    folder = tmp_path / "org-1" / "datasets" / kept.content_hash
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "shard-00000.parquet"]
    assert kept.uri == str(folder)
    assert (kept.total, kept.has_ground_truth, kept.has_clusters, kept.has_choices) == (1, True, True, False)
    assert open_snapshot(kept.uri) == kept


def test_the_same_content_is_stored_once_and_a_damaged_copy_is_replaced(tmp_path: Path) -> None:
    kept = keep([{"input": "a"}], tmp_path)
    shard = tmp_path / "org-1" / "datasets" / kept.content_hash / "shard-00000.parquet"
    before = shard.stat().st_ino
    assert keep([{"input": "a"}], tmp_path) == kept
    assert shard.stat().st_ino == before
    shard.write_bytes(b"")
    assert keep([{"input": "a"}], tmp_path) == kept
    assert read_block(kept, Block(0, 1))[0].input == "a"
    assert len(files(tmp_path)) == 2


def test_many_rows_are_spread_over_shards_in_groups_of_256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SHARD_ROWS", 512)
    kept = keep([{"input": str(n)} for n in range(1300)], tmp_path)
    assert [(shard.rows, shard.first_index) for shard in kept.shards] == [(512, 0), (512, 512), (276, 1024)]
    assert pq.read_metadata(f"{kept.uri}/shard-00002.parquet").num_row_groups == 2
    assert [case.input for case in read_block(kept, Block(400, 1100))] == [str(n) for n in range(400, 1100)]


def test_large_records_make_smaller_groups_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "GROUP_BYTES", 5000)
    monkeypatch.setattr(snapshots, "SHARD_BYTES", 100_000)
    kept = keep([{"input": f"{n} " + "x" * 1000} for n in range(600)], tmp_path)
    assert len(kept.shards) == 3
    assert [int(str(case.input).split()[0]) for case in everything(kept)] == list(range(600))


def test_a_bad_record_at_the_end_leaves_nothing(tmp_path: Path) -> None:
    assert len(refused([{"input": "a"}] * 1000 + [{"input": 1}], tmp_path)) == 1
    assert list((tmp_path / "org-1" / "datasets").iterdir()) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, MemoryError])
def test_whatever_interrupts_the_reading_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    def records() -> Iterator[Any]:
        for number in range(1, 400):
            yield number, {"input": "a"}
        raise failure

    with pytest.raises(failure):
        snapshot(records(), str(tmp_path), "org-1")
    assert list((tmp_path / "org-1" / "datasets").iterdir()) == []


def test_what_a_killed_process_left_is_swept_a_day_later(tmp_path: Path) -> None:
    base = tmp_path / "org-1" / "datasets"
    for name, age in [(".tmp-old", 2 * 86_400), (".tmp-new", 60)]:
        (base / name).mkdir(parents=True)
        os.utime(base / name, (time.time() - age,) * 2)
    keep([{"input": "a"}], tmp_path)
    assert sorted(path.name for path in base.iterdir() if path.name.startswith(".")) == [".tmp-new"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_that_names_the_root_and_leaves_nothing(small_disk: Path) -> None:
    records = [{"input": os.urandom(4000).hex()} for _ in range(2000)]
    with pytest.raises(StorageFailed, match=f"data root {small_disk}: .*No space left") as caught:
        keep(records, small_disk)
    assert "\n" not in caught.value.message
    assert files(small_disk) == []


def test_a_data_root_that_cannot_be_written_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (str(tmp_path / "file"), "nonsense://bucket/x"):
        with pytest.raises(StorageFailed, match=f"data root {root}"):
            snapshot(inline_records([{"input": "a"}]), root, "org")


def test_an_organization_is_no_path(tmp_path: Path) -> None:
    for name in ("../x", "", "a/b", ".."):
        with pytest.raises(InvalidInput, match="organization"):
            snapshot(inline_records([{"input": "a"}]), str(tmp_path), name)


def test_a_store_without_renaming_gets_its_files_one_by_one_and_the_index_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(snapshots, "filesystem_of", lambda uri: (store, uri.removeprefix("mem://")))
    kept = snapshot(inline_records([{"input": "a"}]), "mem://bucket", "org")
    assert kept.uri == f"mem://bucket/org/datasets/{kept.content_hash}"
    assert sorted(path.name for path in files(tmp_path)) == ["index.json", "shard-00000.parquet"]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.jsonl"
        with path.open("wb") as file:
            for number in range(rows):
                file.write(orjson.dumps({"input": f"{number} " + "x" * 500}) + b"\n")
        tracemalloc.start()
        snapshot(read_records(path), str(tmp_path / "root"), "org")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20_000) < 2 * peak(2_000)


# Reading


def test_a_missing_or_damaged_snapshot_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="there is none"):
        open_snapshot(str(tmp_path / "none"))
    for text in ("{", "{}", '{"format_version": 99}'):
        folder = tmp_path / str(len(text))
        folder.mkdir()
        (folder / "index.json").write_text(text)
        with pytest.raises(StorageFailed, match=r"index\.json is damaged"):
            open_snapshot(str(folder))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"PAR1" + bytes(200) + path.read_bytes()[204:]),
    ],
)
def test_a_missing_or_corrupted_shard_is_told_in_one_line(tmp_path: Path, harm: Callable[[Path], Any]) -> None:
    kept = keep([{"input": os.urandom(100).hex()} for _ in range(100)], tmp_path)
    harm(Path(kept.uri) / "shard-00000.parquet")
    with pytest.raises(StorageFailed, match=r"shard-00000\.parquet cannot be read") as caught:
        read_block(kept, Block(0, 100))
    assert "\n" not in caught.value.message


def test_a_block_with_holes_gives_only_what_is_left(tmp_path: Path) -> None:
    kept = keep([{"input": str(n)} for n in range(10)], tmp_path)
    assert [case.index for case in read_block(kept, Block(2, 9, only=(2, 5, 8)))] == [2, 5, 8]


@given(
    total=st.integers(0, 2000),
    rows=st.integers(1, 256),
    done=st.sets(st.integers(-5, 2100), max_size=300),
)
def test_a_plan_covers_each_index_that_is_left_exactly_once(total: int, rows: int, done: set[int]) -> None:
    blocks = plan_blocks(total, rows, done)
    assert [i for block in blocks for i in block.indices()] == [i for i in range(total) if i not in done]
    assert all(0 < len(block) <= rows and block.start // 256 == (block.stop - 1) // 256 for block in blocks)
    holes = [block for block in blocks if block.only is not None]
    assert all((block.indices()[0], block.indices()[-1] + 1) == (block.start, block.stop) for block in holes)


def test_a_plan_takes_a_mask_of_what_is_done() -> None:
    mask = np.zeros(600, dtype=bool)
    mask[[0, 1, 300]] = True
    assert plan_blocks(600, 256, mask) == plan_blocks(600, 256, {0, 1, 300})


def test_a_random_order_is_the_same_for_ever_and_its_blocks_are_read_wherever_they_lie(tmp_path: Path) -> None:
    assert random_order(8, 0).tolist() == [2, 4, 6, 5, 1, 7, 0, 3]
    assert random_order(1000, 1).tolist() != random_order(1000, 2).tolist()
    assert sorted(random_order(1000, 1)) == list(range(1000))
    kept = keep([{"input": str(n)} for n in range(1000)], tmp_path)
    order, done = random_order(1000, 1)[:100], np.zeros(1000, dtype=bool)
    done[order[:10]] = True
    blocks = plan_ordered_blocks(order, 32, done)
    read = [[int(str(case.input)) for case in read_block(kept, block)] for block in blocks]
    assert read == [sorted(order[start:stop].tolist()) for start, stop in ((10, 42), (42, 74), (74, 100))]


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_case = st.fixed_dictionaries(
    {"input": _text | st.dictionaries(_text.filter(lambda name: name != "messages"), _value, max_size=3)},
    optional={
        "expected_output": _value, "choices": st.lists(_text, min_size=1, max_size=4), "cluster": _text,
        "metadata": st.dictionaries(_text, _value, max_size=3),
    },
)  # fmt: skip


def _expected(records: list[dict[str, Any]]) -> list[TestCase]:
    return [
        TestCase(
            index, record["input"], record.get("id") or "", record.get("expected_output"),
            tuple(record["choices"]) if record.get("choices") else None, record.get("cluster"),
            record.get("metadata") or {},
        )
        for index, record in enumerate(records)
    ]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(_case, min_size=1, max_size=5))
def test_whatever_is_json_reads_back_equal_from_json_and_jsonl(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    (tmp_path / "a.json").write_bytes(orjson.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    for name in ("a.json", "a.jsonl"):
        kept = snapshot(read_records(tmp_path / name), str(tmp_path / "root"), "org")
        assert everything(kept) == _expected(records)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(
        st.fixed_dictionaries(
            {
                "input": _text, "id": st.none(), "cluster": st.none() | _text,
                "expected_output": st.none() | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
                "choices": st.none() | st.lists(_text, min_size=1, max_size=3),
                "metadata": st.fixed_dictionaries({"a": _text, "b": st.booleans() | st.none()}),
            }
        ),
        min_size=1,
        max_size=5,
    )
)  # fmt: skip
def test_typed_records_read_back_equal_from_parquet(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    schema = pa.schema(
        {
            "input": pa.string(), "id": pa.string(), "cluster": pa.string(), "expected_output": pa.list_(pa.int64()),
            "choices": pa.list_(pa.string()), "metadata": pa.struct({"a": pa.string(), "b": pa.bool_()}),
        }
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(records, schema=schema), tmp_path / "a.parquet")
    kept = snapshot(read_records(tmp_path / "a.parquet"), str(tmp_path / "root"), "org")
    assert everything(kept) == _expected(records)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=300) | _text.map(str.encode), name=st.sampled_from(["json", "jsonl", "csv", "parquet"])
)
def test_no_file_whatever_makes_anything_but_a_snapshot_or_one_of_our_errors(
    tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / f"a.{name}").write_bytes(content)
    try:
        snapshot(read_records(tmp_path / f"a.{name}"), str(tmp_path / "root"), "org")
    except EvalserviceError as error:
        told = error.message
    else:
        told = ""
    assert "\n" not in told
