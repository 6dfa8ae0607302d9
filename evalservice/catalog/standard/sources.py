"""A local copy of a data set: which of its files are read, and as what layout.

    find("gsm8k", Path("grade-school-math/data")) -> Found(layout, [test.jsonl], [])

Nothing outside the given folder is read: a link that leads out of it is refused, not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from evalservice.catalog.formats import Record
from evalservice.catalog.mapping import Unusable
from evalservice.catalog.standard.cases import CaseMaker
from evalservice.catalog.standard.definition import Layout, StandardBenchmark
from evalservice.catalog.standard.readers import read_layout
from evalservice.errors import BadRecord, InvalidInput, shown
from evalservice.records import JSON

MAX_FILES: Final = 50_000
_TEXT_SUFFIXES: Final = (".json", ".jsonl", ".ndjson", ".csv")
_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".bz2", ".xz", ".zst")


@dataclass(frozen=True, slots=True)
class Found:
    """The layout that a copy has, the files of its test cases and those of its worked examples."""

    layout: Layout
    files: tuple[Path, ...]
    few_shot_files: tuple[Path, ...] = ()


def tail(path: Path) -> str:
    """The end of a path, where its file is named: errors show no more than a line of a value."""
    text = str(path)
    return text if len(text) <= 70 else f"…{text[-70:]}"


def find(definition: StandardBenchmark, source: Path) -> Found:
    """Looks through a file or folder. Raises `InvalidInput`: what is there, and every layout that is accepted."""
    if source.is_dir():
        return _in_folder(definition, source)
    if not source.exists():
        raise InvalidInput("--from", tail(source), "a file or folder that exists")
    if source.name.lower().endswith(_ARCHIVES):
        raise InvalidInput("--from", tail(source), "a file or folder of data: unpack the archive first")
    reasons = []
    for layout in definition.layouts:
        reason = _misfit(layout, source)
        if reason is None:
            _refuse_without_examples(definition, layout, source)
            return Found(layout, (source,))
        reasons.append(f"{layout.name}: {reason}")
    raise InvalidInput("--from", tail(source), f"no layout of {definition.name} fits. {'; '.join(reasons)}")


def _refuse_without_examples(definition: StandardBenchmark, layout: Layout, source: Path) -> None:
    if definition.few_shot is not None:
        wanted = f"the folder that holds the split {definition.few_shot.split} too ({layout.few_shot_files[0]})"
        raise InvalidInput("--from", tail(source), f"{wanted}: {definition.name} shows worked examples from it")


def _in_folder(definition: StandardBenchmark, folder: Path) -> Found:
    inside = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    reasons = []
    for layout in definition.layouts:
        files = _matching(layout.files, inside)
        if not files:
            continue
        shown_files = ", ".join(path.relative_to(folder).as_posix() for path in files[:3])
        if reason := _misfit(layout, files[0]):
            reasons.append(f"{layout.name}: {shown_files}: {reason}")
            continue
        examples = _matching(layout.few_shot_files, inside) if definition.few_shot is not None else ()
        if definition.few_shot is not None and not examples:
            wanted = f"the split {definition.few_shot.split} beside {shown_files}: {', '.join(layout.few_shot_files)}"
            reasons.append(f"{layout.name}: {definition.name} shows worked examples, so there must be {wanted}")
            continue
        return Found(layout, files, examples)
    if reasons:
        raise InvalidInput("--from", tail(folder), f"no layout of {definition.name} fits. {'; '.join(reasons)}")
    there = ", ".join([*inside][:8]) + (f" and {len(inside) - 8} more" if len(inside) > 8 else "")
    wanted = "; ".join(f"{layout.name}: {' or '.join(layout.files)}" for layout in definition.layouts)
    raise InvalidInput("--from", tail(folder), f"a folder with {wanted}. In it are {there or 'no files'}")


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder. Raises `InvalidInput` for a link that leads out of it, and for too many files."""
    root, count = folder.resolve(), 0
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise InvalidInput("--from", tail(here), f"a folder that can be read ({error.strerror})") from None
        for entry in entries:
            count += 1
            if count > MAX_FILES:
                raise InvalidInput(
                    "--from", tail(folder), f"a folder with at most {MAX_FILES:,} files: name a smaller one"
                )
            path = Path(entry.path)
            if entry.is_symlink():
                if not _resolved(path).is_relative_to(root):
                    accepted = f"files within {folder}: this link leads to {tail(_resolved(path))}, outside of it"
                    raise InvalidInput("--from", tail(path), accepted)
                if path.is_file():
                    yield path
            elif entry.is_dir() and not entry.name.startswith("."):
                waiting.append(path)
            elif entry.is_file():
                yield path


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise InvalidInput("--from", tail(path), "no link that leads to itself") from None


def _matching(patterns: Sequence[str], inside: dict[str, Path]) -> tuple[Path, ...]:
    """The files of the first pattern that any fits. Raises `InvalidInput` when they lie in several folders."""
    for pattern in patterns:
        also = (f"{pattern}.gz",) if pattern.endswith(_TEXT_SUFFIXES) else ()
        names = sorted(name for name in inside if any(PurePosixPath(name).match(each) for each in (pattern, *also)))
        if len({os.path.dirname(name) for name in names}) > 1 or ("*" not in pattern and len(names) > 1):
            raise InvalidInput("--from", ", ".join(names[:4]), f"one copy of {pattern}: give its folder, or the file")
        if names:
            return tuple(inside[name] for name in names)
    return ()


def _misfit(layout: Layout, file: Path) -> str | None:
    """Why the first record of a file is none of this layout; None when it is one."""
    try:
        records = read_layout(layout, file)
        first = next(records, None)
        if first is None:
            return "it has no records"
        number, record = first
        if isinstance(record, BadRecord):
            return str(record)
        CaseMaker(layout).check(record)
    except Unusable as unusable:
        return f"record {number}, {unusable.field}: {unusable.problem}"
    except InvalidInput as error:
        return f"it must be {error.accepted}"
    return None


def case_records(definition: StandardBenchmark, found: Found) -> Iterator[Record]:
    """The test cases of all files. With several, the number counts on and what is wrong names the file."""
    maker = CaseMaker(found.layout, definition.choice_order)
    count = 0
    for file in found.files:
        for number, case in maker.cases(read_layout(found.layout, file)):
            count += 1
            if isinstance(case, BadRecord) and len(found.files) > 1:
                case = BadRecord(count, f"{file.name}, line {number}, {case.field}", case.problem)
            yield (number if len(found.files) == 1 else count), case


def few_shot(definition: StandardBenchmark, found: Found) -> dict[str, JSON] | None:
    """The worked examples as criteria hold them; None where the definition wants none. Raises `InvalidInput`."""
    plan = definition.few_shot
    if plan is None:
        return None
    maker = CaseMaker(found.layout, definition.choice_order)
    groups: dict[str, list[JSON]] = {}
    for file in found.few_shot_files:
        for number, record in read_layout(found.layout, file):
            try:
                if isinstance(record, BadRecord):
                    raise Unusable(record.field, record.problem)
                case = maker.case(record)
                group = _group_of(plan.by, case)
                if len(groups.setdefault(group, [])) < plan.count:
                    groups[group].append({**_example(case), "output": maker.answer(record)})
            except Unusable as unusable:
                raise InvalidInput("--from", tail(file), f"record {number}, {unusable}") from None
            if plan.by is None and len(groups[group]) == plan.count:
                return {"style": plan.style, "examples": groups[group]}
    for group, examples in groups.items():
        if len(examples) < plan.count:
            where = f" for {plan.by} {group}" if plan.by else ""
            accepted = f"{plan.count} records of the split {plan.split}{where}; there are {len(examples)}"
            raise InvalidInput("--from", ", ".join(file.name for file in found.few_shot_files[:3]), accepted)
    return {"style": plan.style, "by": plan.by, "groups": dict(groups)}


def _group_of(by: str | None, case: dict[str, JSON]) -> str:
    metadata = case["metadata"]
    return str(metadata.get(by)) if by is not None and isinstance(metadata, dict) else ""


def _example(case: dict[str, JSON]) -> dict[str, JSON]:
    return {name: case[name] for name in ("input", "choices", "metadata") if case.get(name) is not None}


def with_examples(
    definition: StandardBenchmark, cases: Iterator[Record], shots: dict[str, JSON] | None
) -> Iterator[Record]:
    """The test cases again; one for whose group there is no worked example becomes what is wrong with it."""
    by = definition.few_shot.by if definition.few_shot is not None else None
    groups = shots.get("groups") if shots else None
    for number, case in cases:
        if by is not None and isinstance(groups, dict) and not isinstance(case, BadRecord):
            group = _group_of(by, case)
            if group not in groups:
                known = ", ".join([*groups][:5])
                yield (
                    number,
                    BadRecord(number, by, f"{shown(group)} has no worked examples; there are some for {known}"),
                )
                continue
        yield number, case
