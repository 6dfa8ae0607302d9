"""Files of records: what each format gives, and what a broken or hostile file is told."""

from __future__ import annotations

import gzip
import os
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalservice.catalog import formats, jsontext
from evalservice.catalog.formats import guess_format, inline_records, read_records
from evalservice.errors import BadRecord, InvalidInput


def read(path: Path, content: bytes | str, file_format: str | None = None) -> list[tuple[int, Any]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_records(path, file_format))


def problem(path: Path, content: bytes | str) -> str:
    """What the file's last record is told."""
    record = read(path, content)[-1][1]
    assert isinstance(record, BadRecord), record
    return str(record)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.json", "json"), ("a.JSONL", "jsonl"), ("a.ndjson.gz", "jsonl"), ("a.b.csv", "csv"), ("a.parquet", "parquet")],
)
def test_the_format_is_guessed_from_the_name(name: str, expected: str) -> None:
    assert guess_format(name) == expected


def test_a_name_without_a_known_suffix_says_what_to_do() -> None:
    with pytest.raises(InvalidInput, match=r"--format json\|jsonl\|csv\|parquet"):
        guess_format("records.txt")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="format: 'xml' is not valid"):
        read(tmp_path / "a.xml", "<a/>", "xml")


# JSONL


def test_jsonl_gives_each_line_its_number_and_skips_blank_ones(tmp_path: Path) -> None:
    found = read(tmp_path / "a.jsonl", '{"a": 1}\r\n\n  {"a": "é\\u00e9\\n"}\n{"a": null}')
    assert found == [(1, {"a": 1}), (3, {"a": "éé\n"}), (4, {"a": None})]


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    for name, text in [("a.jsonl", '{"a": "x"}'), ("a.json", '[{"a": "x"}]'), ("a.csv", "a\nx\n")]:
        assert read(tmp_path / name, b"\xef\xbb\xbf" + text.encode())[0][1] == {"a": "x"}


def test_a_bad_line_does_not_hide_the_next(tmp_path: Path) -> None:
    found = read(tmp_path / "a.jsonl", '{"a": 1\n{"a": 2}\n')
    assert isinstance(found[0][1], BadRecord)
    assert found[1] == (2, {"a": 2})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"a": NaN}', "line 1, record: NaN is not JSON: write null, or a string"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "infinity"),
        (b'{"a": "\\ud800"}', "without its other half is not text"),
        (b'{"a": "\\udc00x"}', "without its other half is not text"),
        (b'{"a": "\xff"}', "byte 0xff at column 8 is not UTF-8"),
        (b'{"a": 123456789012345678901234567890}', "does not fit 64 bits: write it as a string"),
        (b"[1, 2]", "one JSON array has the format json"),
        (b"3", "a JSON object is expected, this is 3"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": "x\x00"}', "not JSON"),
    ],
)
def test_a_line_that_is_no_record_says_why(tmp_path: Path, line: bytes, told: str) -> None:
    if line.startswith(b"["):
        with pytest.raises(InvalidInput, match=told):
            read(tmp_path / "a.jsonl", line)
    else:
        assert told in problem(tmp_path / "a.jsonl", line + b"\n")


def test_integers_of_64_bits_stay_exact(tmp_path: Path) -> None:
    record = read(tmp_path / "a.jsonl", '{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1.0}')[0][1]
    assert record == {"a": 2**64 - 1, "b": -(2**63), "c": 1.0}
    assert isinstance(record["a"], int)


def test_long_digits_in_a_string_are_just_text(tmp_path: Path) -> None:
    text = "9" * 50
    assert read(tmp_path / "a.jsonl", f'{{"a": "{text}"}}') == [(1, {"a": text})]


def test_of_repeated_keys_the_last_one_counts(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", '{"a": 1, "a": 2}') == [(1, {"a": 2})]


def test_a_line_longer_than_a_record_may_be_is_one_bad_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_RECORD_BYTES", 1000)
    found = read(tmp_path / "a.jsonl", '{"a": "' + "x" * 5000 + '"}\n{"a": 1}\n')
    assert "longer than" in str(found[0][1])
    assert found[1] == (2, {"a": 1})


# JSON


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"a": {"b": ["]", "}", "\\"]"]}}]',
        '{"version": {"x": [1, 2]}, "test_cases": [{"a": 1}, {"a": {"b": ["]", "}", "\\"]"]}}], "more": "]"}',
        ' {"data" : [ {"a": 1} , {"a": {"b": ["]", "}", "\\"]"]}} ] } ',
    ],
)
def test_json_is_an_array_or_an_object_that_holds_it(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "a.json", text) == [(1, {"a": 1}), (2, {"a": {"b": ["]", "}", '"]']}})]


def test_json_is_read_the_same_whatever_the_size_of_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"n": 12, "data": [{"a": "x\\\\\\"y"}, 1, "two", [3], null, {"b": {"c": [{}, []]}}], "t": true}'
    whole = read(tmp_path / "a.json", text)
    assert len(whole) == 6
    for chunk in (1, 2, 3, 7):
        monkeypatch.setattr(jsontext, "_CHUNK", chunk)
        assert read(tmp_path / "a.json", text) == whole


def test_a_bad_element_does_not_hide_the_next(tmp_path: Path) -> None:
    found = read(tmp_path / "a.json", '[{"a": NaN}, {"a": "\\ud800"}, 7, {"a": 1}]')
    assert [isinstance(record, BadRecord) for _, record in found] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"a": 1}, {"a": ', "line 2, record: the file ends within a record"),
        ('[{"a": 1}', "line 2, record: the file ends too early"),
        ('[{"a": 1} {"a": 2}]', "a comma is missing"),
        ('[{"a": 1}, ]', "a value is missing"),
        ('[{"a": 1}] x', "text after the end"),
        ('{"data": [{"a": 1}], 3: 4}', "a key is expected"),
        ('[{"a": "x', "the file ends within a record"),
    ],
)
def test_json_that_breaks_off_says_where(tmp_path: Path, text: str, told: str) -> None:
    assert told in problem(tmp_path / "a.json", text)


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a": 1}\n{"a": 2}\n', "3", '{"data": {"a": 1}}', "{}"])
def test_json_without_an_array_of_records_says_what_is_accepted(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match='a JSON array, or an object with one under "test_cases" or "data"'):
        read(tmp_path / "a.json", text)


def test_two_arrays_of_records_are_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="only one of the keys"):
        read(tmp_path / "a.json", '{"data": [{"a": 1}], "test_cases": [{"a": 2}]}')


def test_a_json_record_longer_than_allowed_ends_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(jsontext, "_CHUNK", 100)
    found = read(tmp_path / "a.json", '[{"a": 1}, {"a": "' + "x" * 5000 + '"}]')
    assert found[0] == (1, {"a": 1})
    assert "longer than" in str(found[1][1])


# CSV


def test_csv_counts_lines_by_where_a_record_starts(tmp_path: Path) -> None:
    text = 'id,question\r\n1,"What\nis ""17""\n+ 25?"\r\n\r\n2,"a, b"\r\n'
    assert read(tmp_path / "a.csv", text) == [
        (2, {"id": "1", "question": 'What\nis "17"\n+ 25?'}),
        (6, {"id": "2", "question": "a, b"}),
    ]


def test_an_empty_cell_is_null(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", 'a,b,c\n,"",0\n') == [(2, {"a": None, "b": None, "c": "0"})]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a,b\n1,2\n1,2,3\n", "line 3, record: 3 cells, but there are 2 columns"),
        (b'a,b\n1,"2\n', "line 2, record: not CSV as in RFC 4180: a quote is left open"),
        (b'a,b\n1,"2"x\n', "not CSV as in RFC 4180"),
        (b"a,b\n1,\xe92\n", "byte 0xe9 (line 2) is not UTF-8"),
        (b"a,b\n1,x\ry\n", "carriage return"),
    ],
)
def test_a_csv_line_that_is_no_record_says_why(tmp_path: Path, text: bytes, told: str) -> None:
    assert told in problem(tmp_path / "a.csv", text)


def test_csv_goes_on_after_a_bad_line(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", b'a,b\n1,"2"x\n\xff,"y\nz"\n3,4\n')
    assert [line for line, _ in found] == [2, 3, 5]
    assert found[2][1] == {"a": "3", "b": "4"}


def test_a_column_without_a_name_gets_one_and_a_repeated_name_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", ",a\n0,x\n") == [(2, {"column_1": "0", "a": "x"})]
    with pytest.raises(InvalidInput, match="repeated: a"):
        read(tmp_path / "a.csv", "a,b,a\n1,2,3\n")


def test_a_quote_that_never_closes_does_not_read_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_RECORD_BYTES", 1000)
    assert "is a quote left open?" in problem(tmp_path / "a.csv", 'a\n"' + "x\n" * 5000)


# Parquet


def test_parquet_gives_json_values(tmp_path: Path) -> None:
    table = pa.table(
        {
            "q": ["a", "b"],
            "n": [1, None],
            "at": pa.array([datetime(2026, 1, 2, 3, 4, 5), None], pa.timestamp("ns")),
            "price": [Decimal("1.50"), None],
            "raw": [b"text", None],
            "nested": [{"x": [1.5, None], "y": {"z": True}}, None],
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = (record for _, record in read_records(tmp_path / "a.parquet"))
    assert first == {
        "q": "a", "n": 1, "at": "2026-01-02T03:04:05", "price": "1.50", "raw": "text",
        "nested": {"x": [1.5, None], "y": {"z": True}}, "map": {"k": 1},
    }  # fmt: skip
    assert isinstance(second, dict)
    assert set(second.values()) == {"b", None}


def test_a_parquet_value_without_a_json_form_is_that_records_problem(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": [1.0, float("nan")], "b": [b"\xff", b"ok"]}), tmp_path / "a.parquet")
    found = [str(record) for _, record in read_records(tmp_path / "a.parquet")]
    assert found == [
        "line 1, b: 1 bytes that are not UTF-8 text",
        "line 2, q: nan is not JSON: store null instead",
    ]


# Files that are no files


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_has_no_records(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(InvalidInput, match="no records"):
        read(tmp_path / name, content)


def test_a_header_or_brackets_alone_are_no_records(tmp_path: Path) -> None:
    for name, content in [("a.csv", "a,b\n"), ("a.json", "[]"), ("b.json", '{"data": []}')]:
        with pytest.raises(InvalidInput, match="no records"):
            read(tmp_path / name, content)
    pq.write_table(pa.table({"q": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(InvalidInput, match="no records"):
        list(read_records(tmp_path / "a.parquet"))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "pipe.jsonl", tmp_path / "folder.jsonl", Path("/dev/zero")):
        with pytest.raises(InvalidInput, match=r"file: .* a regular file"):
            list(read_records(path, "jsonl"))


def test_a_missing_file_and_an_impossible_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        list(read_records(tmp_path / "none.jsonl"))
    with pytest.raises(InvalidInput, match="null byte"):
        list(read_records("a\0.jsonl"))


def test_a_file_without_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "a.jsonl").chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(InvalidInput, match="Permission denied"):
            list(read_records(tmp_path / "a.jsonl"))
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b"PAR1rest", "this is a Parquet file"),
        ("a.csv", b"\x1f\x8b\x08rest", "gzip-compressed"),
        ("a.json", b"PK\x03\x04", "a ZIP archive"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16 text"),
        ("a.parquet", b'{"a": 1}', "does not begin like one"),
        ("a.parquet", b"PAR1 and no more", "a readable Parquet file"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00rest", "a readable jsonl file"),
    ],
)
def test_another_format_under_this_name_is_one_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        read(tmp_path / name, content)
    assert "\n" not in caught.value.message
    assert caught.value.field == "file"


def test_gzip_is_read_through_and_a_cut_one_is_told(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b'{"a": %d}\n' % n for n in range(5000)))
    assert len(read(tmp_path / "a.jsonl.gz", packed)) == 5000
    with pytest.raises(InvalidInput, match="a whole gzip file"):
        read(tmp_path / "a.jsonl.gz", packed[:-100])


# Inline


def test_inline_records_are_numbered_from_one() -> None:
    found = list(inline_records([{"a": 1}, 2]))
    assert found[0] == (1, {"a": 1})
    assert str(found[1][1]) == "line 2, record: an object is expected, this is int"


@pytest.mark.parametrize("value", [None, {}, "x", []])
def test_inline_records_are_a_list_that_is_not_empty(value: object) -> None:
    with pytest.raises(InvalidInput, match="test_cases"):
        list(inline_records(value))
