"""A copy in the wrong layout, or a hostile one: what was found where, what is accepted, and nothing is kept."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalservice.catalog.standard.definition import standard_benchmark
from evalservice.catalog.standard.expressions import compile_expression
from evalservice.catalog.standard.install import prepare
from evalservice.errors import EvalserviceError, InvalidInput, InvalidRecords
from tests.evalservice.catalog.standard_copies import (
    COPIES,
    DROP_DOCUMENT,
    GSM8K,
    HELLASWAG,
    MMLU_DEV,
    PRO,
    PRO_EXAMPLES,
    write,
)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """What is said of a copy that cannot be installed; asserts that nothing of it is kept."""

    def told(name: str, files: dict[str, Any], only: str | None = None) -> str:
        folder = write(tmp_path / "copy", files)
        with pytest.raises(EvalserviceError) as caught:
            prepare(standard_benchmark(name), folder / only if only else folder, str(tmp_path / "data"))
        error = caught.value
        assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
        assert "\n" not in error.message
        bad = "; ".join(map(str, error.bad)) if isinstance(error, InvalidRecords) else ""
        return f"{error.message} {bad}".strip()

    return told


def test_a_field_that_is_missing_is_named_with_those_that_are_there(refused: Callable[..., str]) -> None:
    told = refused("gsm8k", {"test.jsonl": [{"prompt": "1 + 1?", "answer": "#### 2"}]})
    assert "test.jsonl: record 1, question: missing; the record has prompt, answer" in told


def test_a_field_of_another_type_is_shown(refused: Callable[..., str]) -> None:
    told = refused("hellaswag", {"hellaswag_val.jsonl": [{**HELLASWAG, "endings": "a, b"}]})
    assert "endings: list is expected, this is 'a, b'" in told


def test_a_later_record_that_does_not_fit_refuses_the_whole(refused: Callable[..., str]) -> None:
    told = refused("gsm8k", {"test.jsonl": [*GSM8K, {"question": "1 + 1?", "answer": "2"}]})
    assert "1 bad record line 3, answer: a text with #### is expected, this is '2'" in told


def test_a_test_split_without_labels_is_told(refused: Callable[..., str]) -> None:
    told = refused("hellaswag", {"data/validation-00000-of-00001.parquet": [{**HELLASWAG, "label": ""}]})
    assert "label: the number of a choice, from 0, is expected, this is ''" in told


def test_a_label_of_no_choice_is_told(refused: Callable[..., str]) -> None:
    told = refused("hellaswag", {"hellaswag_val.jsonl": [{**HELLASWAG, "label": 4}]})
    assert "choice E is expected, but there are only 4 choices" in told


def test_a_folder_with_other_files_shows_them_and_every_accepted_name(refused: Callable[..., str]) -> None:
    told = refused("squad", {"train-v1.1.json": {}, "notes.txt": "x"})
    assert "dev-v1.1.json" in told
    assert "validation-*.parquet" in told
    assert "In it are notes.txt, train-v1.1.json" in told


def test_another_data_set_is_told_by_every_layout_that_it_does_not_have(refused: Callable[..., str]) -> None:
    told = refused("squad", {"dev.json": DROP_DOCUMENT}, only="dev.json")
    assert "nested JSON of the authors: it must be a JSON array, or an object with one under" in told
    assert "Parquet or JSON Lines of the Hub: it must be" in told


def test_worked_examples_need_their_split(refused: Callable[..., str]) -> None:
    told = refused("mmlu", {"data/test/law_test.csv": "Who?,a,b,c,d,A\n"})
    assert "there must be the split dev beside data/test/law_test.csv: data/dev/*_dev.csv" in told
    told = refused("mmlu-pro", {"test.jsonl": [PRO]}, only="test.jsonl")
    assert "the folder that holds the split validation too" in told


def test_a_subject_without_worked_examples_and_one_with_too_few_are_told(refused: Callable[..., str]) -> None:
    told = refused("mmlu-pro", {"test.jsonl": [{**PRO, "category": "law"}], "validation.jsonl": PRO_EXAMPLES})
    assert "line 1, category: 'law' has no worked examples; there are some for biology" in told
    told = refused("mmlu-pro", {"test.jsonl": [PRO], "validation.jsonl": PRO_EXAMPLES[:4]})
    assert "5 records of the split validation for category biology; there are 4" in told


def test_a_csv_of_mmlu_with_a_header_or_other_columns_is_told_with_its_file(refused: Callable[..., str]) -> None:
    dev = "".join(f"{e['question']},{','.join(e['choices'])},{'ABCD'[e['answer']]}\n" for e in MMLU_DEV)  # type: ignore[arg-type,index,call-overload]
    told = refused("mmlu", {"test/law_test.csv": "Who?,a,b,c,A\n", "dev/law_dev.csv": dev})
    assert "line 1, record: 5 cells, but there are 6 columns" in told
    files = {"test/art_test.csv": "Who?,a,b,c,d,A\n", "test/law_test.csv": "question,A,B,C,D,answer\n"}
    told = refused("mmlu", {**files, "dev/law_dev.csv": dev, "dev/art_dev.csv": dev})
    assert "law_test.csv, line 1, answer: one of A, B, C, D is expected, this is 'answer'" in told


def test_nested_json_names_where_it_breaks(refused: Callable[..., str]) -> None:
    told = refused("squad", {"dev-v1.1.json": {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": 3}]}]}})
    assert "data.0.paragraphs.qas: a list of objects is expected, this is 3" in told
    told = refused("drop", {"drop_dataset_dev.json": {"p": {"passage": "x", "qa_pairs": [{"answer": {}}]}}})
    assert "answer: a number, spans or a date is expected, all are empty" in told
    assert "a list of objects is expected" in refused("drop", {"drop_dataset_dev.json": {"p": {}}})


def test_translations_need_as_many_lines_as_the_source(refused: Callable[..., str]) -> None:
    told = refused("wmt14-en-de", {"newstest2014.en": "a\nb\n", "newstest2014.de": "A\n"})
    assert "differ at line 2" in told
    assert "beside it test.de" in refused("wmt14-en-de", {"test.en": "a\n"}, only="test.en")


def test_two_copies_in_one_folder_are_ambiguous(refused: Callable[..., str]) -> None:
    told = refused("gsm8k", {"a/test.jsonl": GSM8K, "b/test.jsonl": GSM8K})
    assert "a/test.jsonl, b/test.jsonl" in told
    assert "give its folder, or the file" in told


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "cache", {"blobs/3f": "".join(json.dumps(record) + "\n" for record in GSM8K)})
    snapshot = tmp_path / "cache" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "test.jsonl").symlink_to("../../blobs/3f")
    gsm8k = standard_benchmark("gsm8k")
    assert prepare(gsm8k, tmp_path / "cache", str(tmp_path / "data")).snapshot.total == 2
    with pytest.raises(InvalidInput, match=r"this link leads to .*blobs/3f.*, outside of it"):
        prepare(gsm8k, snapshot, str(tmp_path / "data"))
    (snapshot / "test.jsonl").unlink()
    (snapshot / "test.jsonl").symlink_to("test.jsonl")
    with pytest.raises(InvalidInput, match="--from"):
        prepare(gsm8k, snapshot, str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("test.parquet", b"PAR1 but not quite PAR1", "a readable Parquet file"),
        ("test.parquet", b"", "0 bytes"),
        ("test.jsonl", b"", "no records"),
        ("test.jsonl", b"PK\x03\x04", "a ZIP archive"),
        ("test.jsonl", b"\xff\xfe{\x00", "UTF-16"),
        ("test.jsonl", b"[1, 2]", "one object a line"),
        ("test.jsonl", b"{nonsense\n", "not JSON"),
        ("test.jsonl.gz", gzip.compress(b'{"question": "1"', mtime=0)[:-8], "a whole gzip file"),
        ("data.tar.gz", b"", "unpack the archive first"),
        ("test.txt", b"x", "name the file .json"),
        ("nothing.jsonl", None, "a file or folder that exists"),
    ],
)
def test_what_is_no_such_file_is_told_in_a_line(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        prepare(standard_benchmark("gsm8k"), tmp_path / name, str(tmp_path / "data"))
    assert said in caught.value.message
    assert name in caught.value.message
    assert not (tmp_path / "data").exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "test.jsonl")
    with pytest.raises(InvalidInput, match="a regular file"):
        prepare(standard_benchmark("gsm8k"), tmp_path / "test.jsonl", str(tmp_path / "data"))


def test_a_bomb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "test.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(b"x" * (1 << 20))
    with gzip.open(tmp_path / "dev.json.gz", "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(b" " * (1 << 20))
    tracemalloc.start()
    try:
        for name, path in (("gsm8k", "test.jsonl.gz"), ("drop", "dev.json.gz")):
            with pytest.raises(InvalidInput, match=r"longer than 64 MiB|at most 256 MiB of JSON"):
                prepare(standard_benchmark(name), tmp_path / path, str(tmp_path / "data"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 700 << 20


def test_far_too_many_records_are_another_data_set(tmp_path: Path) -> None:
    table = pa.table({"problem": ["p"] * 20_001, "answer": ["1"] * 20_001, "subject": ["s"] * 20_001,
                      "level": [1] * 20_001, "unique_id": [str(n) for n in range(20_001)]})  # fmt: skip
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(InvalidInput, match="the test split, of"):
        prepare(standard_benchmark("math-500"), tmp_path / "test.parquet", str(tmp_path / "data"))


def test_a_record_that_comes_twice_is_refused(refused: Callable[..., str]) -> None:
    [copy] = [files for files in COPIES["math-500"] if "test.jsonl" in files]
    told = refused("math-500", {"test.jsonl": [*copy["test.jsonl"], *copy["test.jsonl"]]})
    assert "test/prealgebra/1.json" in told or "line 1" in told


@pytest.mark.parametrize("written", [3, {"letters": "x"}, {"letter": "x", "of": "y"}, "{{ x", None])
def test_an_expression_that_is_none_is_refused_when_it_is_read(written: object) -> None:
    with pytest.raises(InvalidInput, match="expected_output"):
        compile_expression(written, "expected_output")
