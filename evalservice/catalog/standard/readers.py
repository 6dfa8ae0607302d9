"""The layouts in which data sets come: how the files of one become records, one question each.

records        JSON, JSON Lines, CSV with a header, Parquet; plain or gzip-compressed text
table          CSV without a header (MMLU), columns named by the definition, and `_stem`, the file's name
squad          {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers", …}]}]}]}
drop           {PASSAGE_ID: {"passage", "qa_pairs": [{"query_id", "question", "answer", "validated_answers"}]}}
drop-records   the same, a record a question
parallel-text  a source and its translations, a line each, in files whose paths differ in one part

Every reader yields `(number, record)`, or `(number, BadRecord)`; none holds more than a record, a passage or, for
`drop`, one file of at most 256 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from evalservice.catalog.formats import Record, read_document, read_lines, read_records, read_table
from evalservice.catalog.mapping import Unusable
from evalservice.catalog.standard.definition import Layout
from evalservice.errors import BadRecord, InvalidInput, shown
from evalservice.records import JSON


def read_layout(layout: Layout, path: Path) -> Iterator[Record]:
    """The records of one file. Raises `InvalidInput` where it is no file of this layout at all."""
    return _READERS[layout.reader](layout, path)


def _records(_layout: Layout, path: Path) -> Iterator[Record]:
    return read_records(path)


def _table(layout: Layout, path: Path) -> Iterator[Record]:
    stem = path.name.split(".", 1)[0]
    for number, record in read_table(path, layout.columns):
        if isinstance(record, BadRecord):
            yield number, record
        else:
            yield number, {**{name: cell or "" for name, cell in record.items()}, "_stem": stem}


def _squad(_layout: Layout, path: Path) -> Iterator[Record]:
    count = 0
    for number, article in read_records(path, "json"):
        if isinstance(article, BadRecord):
            yield count + 1, article
            continue
        try:
            for paragraph in _objects(article, "paragraphs", f"data.{number - 1}"):
                where = f"data.{number - 1}.paragraphs"
                for question in _objects(paragraph, "qas", where):
                    count += 1
                    answers = _objects(question, "answers", f"{where}.qas")
                    record = {name: value for name, value in question.items() if name != "answers"}
                    record["answers"] = {"text": [answer.get("text") for answer in answers]}
                    yield count, {**record, "title": article.get("title"), "context": paragraph.get("context")}
        except Unusable as unusable:
            yield count + 1, BadRecord(count + 1, unusable.field, unusable.problem)


def _drop(_layout: Layout, path: Path) -> Iterator[Record]:
    document = read_document(path)
    if not isinstance(document, dict) or not document:
        raise InvalidInput("file", str(path), "an object of passages: {PASSAGE_ID: {passage, qa_pairs}}")
    count = 0
    for name, passage in document.items():
        try:
            if not isinstance(passage, dict):
                raise Unusable(name, f"an object with passage and qa_pairs is expected, this is {shown(passage, 40)}")
            for question in _objects(passage, "qa_pairs", name):
                count += 1
                record = {**question, "passage": passage.get("passage"), "section_id": name}
                yield count, {**record, "answers": _drop_answers(record, question.get("validated_answers") or [])}
        except Unusable as unusable:
            yield count + 1, BadRecord(count + 1, unusable.field, unusable.problem)


def _drop_records(_layout: Layout, path: Path) -> Iterator[Record]:
    for number, record in read_records(path):
        if isinstance(record, BadRecord):
            yield number, record
            continue
        try:
            columns = record.get("validated_answers") or {}
            if not isinstance(columns, dict):
                raise Unusable("validated_answers", f"an object of lists is expected, this is {shown(columns, 40)}")
            parts = ("number", "date", "spans")
            lists = [columns.get(part) or [] for part in parts]
            if not all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists):
                raise Unusable("validated_answers", "lists of one length under number, date and spans are expected")
            rows = [dict(zip(parts, row, strict=True)) for row in zip(*lists, strict=True)]
            yield number, {**record, "answers": _drop_answers(record, rows)}
        except Unusable as unusable:
            yield number, BadRecord(number, unusable.field, unusable.problem)


def _drop_answers(record: Mapping[str, JSON], validated: Any) -> list[JSON]:
    """The accepted answers, each a list of spans, without repetitions: a number, else spans, else a date."""
    if not isinstance(validated, list):
        raise Unusable("validated_answers", f"a list is expected, this is {shown(validated, 40)}")
    found: list[JSON] = []
    for answer in (record.get("answer"), *validated):
        if not isinstance(answer, dict):
            raise Unusable("answer", f"an object with number, date and spans is expected, this is {shown(answer, 40)}")
        date = answer.get("date") or {}
        spans: list[JSON] = [*(answer.get("spans") or [])]
        if answer.get("number") not in (None, ""):
            spans = [str(answer["number"])]
        elif not spans and isinstance(date, dict):
            spans = [" ".join(str(date.get(part) or "") for part in ("day", "month", "year")).strip()]
        spans = [span for span in spans if isinstance(span, str) and span.strip()]
        if spans and spans not in found:
            found.append(spans)
    if not found:
        raise Unusable("answer", "a number, spans or a date is expected, all are empty")
    return found


def _parallel_text(layout: Layout, path: Path) -> Iterator[Record]:
    """`path` is the file of the source: it has the first of `columns` in it, and its references the others instead."""
    before, source, after = path.as_posix().rpartition(layout.columns[0])
    found = [Path(f"{before}{target}{after}") for target in layout.columns[1:]] if source else []
    references = [each for each in found if each.is_file()]
    if not references:
        wanted = ", ".join(each.name for each in found) or f"a file whose name has {layout.columns[0]} in it"
        raise InvalidInput("file", str(path), f"the source of translations, beside it {wanted}")
    texts = [read_lines(path), *(read_lines(each) for each in references)]
    for number, row in enumerate(zip_longest(*texts), 1):
        if None in row:
            names = ", ".join(each.name for each in (path, *references))
            raise InvalidInput("file", str(path), f"as many lines as its references: {names} differ at line {number}")
        lines = [line for _, line in row]
        bad = next((line for line in lines if isinstance(line, BadRecord)), None)
        yield number, bad or {"source": lines[0], "references": lines[1:]}


def _objects(value: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """A list of objects under a name. Raises `Unusable`."""
    found = value.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Unusable(f"{where}.{name}", f"a list of objects is expected, this is {shown(found, 40)}")
    return found


_READERS: Final[dict[str, Callable[[Layout, Path], Iterator[Record]]]] = {
    "records": _records,
    "table": _table,
    "squad": _squad,
    "drop": _drop,
    "drop-records": _drop_records,
    "parallel-text": _parallel_text,
}
