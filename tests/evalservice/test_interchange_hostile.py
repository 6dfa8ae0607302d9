"""Logs that are cut off, foreign, or made to harm: one error of ours that says what is wrong, never another's."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalservice.errors import EvalserviceError, InvalidInput
from evalservice.interchange import archive
from evalservice.interchange.logs import READERS, read_log
from evalservice.interchange.records import LogFiles
from tests.evalservice.reading import refused, tables_of
from tests.logs import (
    STAMP,
    eee_log,
    inspect_json,
    inspect_members,
    inspect_samples,
    lm_eval_log,
    own_jsonl,
    the_log,
    zipped,
    zstd_zipped,
)

MAKERS: dict[str, Callable[[Path], Path]] = {
    "lm-eval": lm_eval_log,
    "inspect json": inspect_json,
    "inspect deflate": lambda folder: zipped(folder / "log.eval", inspect_members()),
    "inspect zstd": lambda folder: zstd_zipped(folder / "log.eval", inspect_members()),
    "every-eval-ever": eee_log,
    "jsonl": own_jsonl,
}
LIMIT = 200
NESTED = ("input_data", "actual_output", "metrics", "score_details", "completion_info")


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one example; hypothesis makes hundreds."""
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


def read_whole(log: LogFiles) -> None:
    """Every item of every run, as the rows that are stored; only our own errors come out."""
    message = ""
    try:
        for row in itertools.chain.from_iterable(tables_of(log.path)):
            assert all("\\u0000" not in row[name] and json.loads(row[name]) is not Ellipsis for name in NESTED)
    except EvalserviceError as error:
        message = error.message
    assert "\n" not in message
    assert len(message) < 2000


@pytest.mark.parametrize("kind", MAKERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_log_that_is_cut_off_is_refused_in_one_line(kind: str, data: st.DataObject) -> None:
    with folder() as path:
        log = the_log(MAKERS[kind](path))
        name = data.draw(st.sampled_from(sorted(log.paths)))
        whole = log.paths[name].read_bytes()
        log.paths[name].write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        read_whole(log)


@pytest.mark.parametrize("kind", MAKERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_log_with_changed_bytes_is_refused_or_read(kind: str, data: st.DataObject) -> None:
    with folder() as path:
        log = the_log(MAKERS[kind](path))
        name = data.draw(st.sampled_from(sorted(log.paths)))
        text = bytearray(log.paths[name].read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
        log.paths[name].write_bytes(bytes(text))
        read_whole(log)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a JSON value has values."""
    yield path
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield from places(inner, (*path, step))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another one at a place."""
    if not path:
        return new
    if isinstance(value, dict):
        return {**value, path[0]: replaced(value[path[0]], path[1:], new)}
    return [replaced(each, path[1:], new) if n == path[0] else each for n, each in enumerate(value)]


@pytest.mark.parametrize("kind", ["lm-eval", "inspect json", "every-eval-ever", "jsonl"])
@given(data=st.data())
@settings(max_examples=LIMIT, deadline=None)
def test_any_value_in_any_place_is_refused_or_read(kind: str, data: st.DataObject) -> None:
    with folder() as path:
        log = the_log(MAKERS[kind](path))
        name = data.draw(st.sampled_from(sorted(log.paths)))
        lines = log.paths[name].read_text().splitlines()
        number = data.draw(st.integers(0, len(lines) - 1))
        document = json.loads(lines[number])
        place = data.draw(st.sampled_from(list(places(document))))
        lines[number] = json.dumps(replaced(document, place, data.draw(JSON)))
        log.paths[name].write_text("\n".join(lines) + "\n")
        read_whole(log)


@given(text=st.binary(max_size=300), suffix=st.sampled_from(["json", "jsonl", "eval", "parquet"]))
@settings(max_examples=LIMIT, deadline=None)
def test_any_bytes_are_refused_in_one_line_whatever_they_are_said_to_be(text: bytes, suffix: str) -> None:
    with folder() as path:
        (path / f"log.{suffix}").write_bytes(text)
        log = the_log(path / f"log.{suffix}")
        read_whole(log)
        for tool in READERS:
            with pytest.raises(InvalidInput):
                read_log(log, tool)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "samples/../../x.json", "..\\x", "C:/x.json"])
def test_a_member_whose_name_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    members = {**inspect_members(), name: b"{}"}
    assert "no name that leads out of the archive" in refused(zipped(tmp_path / "log.eval", members))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "log.eval"]


@pytest.mark.parametrize("pack", [zipped, zstd_zipped])
def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path: Path, pack: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(archive, "MAX_RECORD_BYTES", 1 << 20)
    members = {**inspect_members(), "samples/bomb_epoch_1.json": b" " * (2 << 20)}
    assert "at most 1 MiB unpacked" in refused(pack(tmp_path / "log.eval", members))


@pytest.mark.parametrize("pack", [zipped, zstd_zipped])
def test_a_member_that_hides_its_size_is_refused_before_it_is_unpacked(
    tmp_path: Path, pack: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(archive, "MAX_RECORD_BYTES", 1 << 20)
    text = b" " * (8 << 20)
    path = pack(tmp_path / "log.eval", {**inspect_members(), "samples/bomb_epoch_1.json": text})
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", len(text)), struct.pack("<L", 10)))
    message = refused(path)
    assert "unpacked" in message or "a whole member" in message


def test_many_small_members_that_unpack_to_too_much_together_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(archive, "MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(archive, "MAX_RATIO", 10)
    samples = [{**sample, "store": " " * 900_000} for sample in inspect_samples()]
    path = zipped(tmp_path / "log.eval", inspect_members(samples))
    assert "unpacks to at most 10 times its size" in refused(path)


def test_an_archive_that_is_encrypted_patched_or_packed_by_another_method_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "log.eval", inspect_members(), zipfile.ZIP_BZIP2)
    assert "stored, deflate or zstd, not method 12" in refused(path)
    whole = zipped(tmp_path / "log.eval", inspect_members(), zipfile.ZIP_STORED).read_bytes()
    start = whole.index(b"PK\x01\x02")
    for flag, said in (
        (b"\x01", "not encrypted"),
        (b"\x40", "not encrypted"),  # strong encryption
        (b"\x20", "not a patch of another file"),
    ):
        path.write_bytes(whole[: start + 8] + flag + whole[start + 9 :])
        assert said in refused(path)


def test_what_a_damaged_archive_says_of_itself_is_cut_to_a_line(tmp_path: Path) -> None:
    path = zipped(tmp_path / "log.eval", inspect_members(), zipfile.ZIP_STORED)
    start = path.read_bytes().index(b"samples/q-3")
    whole = bytearray(path.read_bytes())
    whole[start - 4 : start - 2] = struct.pack("<H", 5000)  # the length of the member's name in its own header
    path.write_bytes(whole)
    message = refused(path)
    assert "a whole member of log.eval (File name in directory" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_name": 5}, "model_name"),
        ({"configs": []}, "configs"),
        ({"n-samples": {"sums": {"original": "4", "effective": 4}}}, "n-samples"),
        ({"results": {"elsewhere": {}}}, "results"),
    ],
)
def test_a_wrong_type_is_told_by_its_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    message = refused(lm_eval_log(tmp_path, **changes))
    assert message.startswith(f"results_{STAMP}.json: {field}")
