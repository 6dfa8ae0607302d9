"""Which files are logs, which belong together, and which tool wrote one.

find_logs(Path("out/"))  -> [LogFiles("results_2026-11-24T….json", {…, "samples_tiny_qa_2026-11-24T….jsonl": …})]
tool_of(log)             -> "lm-eval"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from evalservice.catalog.formats import MAX_RECORD_BYTES
from evalservice.catalog.jsontext import JsonObjectReader
from evalservice.errors import InvalidInput
from evalservice.interchange import every_eval_ever, inspect_ai, lm_eval, own_export
from evalservice.interchange.logjson import lines, opened, parsed
from evalservice.interchange.records import LogFiles, LogRun

MAX_FILES: Final = 10_000
READERS: Final[dict[str, Callable[[LogFiles], list[LogRun]]]] = {
    "lm-eval": lm_eval.read_lm_eval,
    "inspect": inspect_ai.read_inspect,
    "every-eval-ever": every_eval_ever.read_every_eval_ever,
    "parquet": own_export.read_parquet,
    "jsonl": own_export.read_jsonl,
}
AUTO: Final = "auto"
_KEYS: Final = {"configs": "lm-eval", "eval": "inspect", "evaluation_results": "every-eval-ever"}
_ROWS: Final = "_samples.jsonl"


def read_log(log: LogFiles, tool: str = AUTO) -> list[LogRun]:
    """The runs of a log. Raises InvalidInput."""
    if tool not in (AUTO, *READERS):
        raise InvalidInput("format", tool, f"accepted are {AUTO}, {', '.join(READERS)}")
    return READERS[tool_of(log) if tool == AUTO else tool](log)


def tool_of(log: LogFiles) -> str:
    """The format of a log, by what is in it. Raises InvalidInput."""
    with opened(log.path, log.main) as file:
        head = file.read(4)
        file.seek(0)
        if head.startswith(b"PK"):
            return "inspect"
        if head == b"PAR1":
            return "parquet"
        if log.main.endswith(".jsonl"):
            if row := next(lines(file, log.main), None):
                first = parsed(row[2], f"{log.main}, line 1")
                if isinstance(first, dict) and "test_case_index" in first:
                    return "jsonl"
        elif head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{":
            reader = JsonObjectReader(file, log.main, MAX_RECORD_BYTES)
            for member in reader.members({"samples", "reductions", "evaluation_results"}):
                if member.key in _KEYS:
                    return _KEYS[member.key]
    raise InvalidInput("file", log.main, f"a log of {', '.join(READERS)}{_hint(log.main)}")


def _hint(name: str) -> str:
    if name.endswith(_ROWS) or (name.startswith("samples_") and name.endswith(".jsonl")):
        return "; this has rows only: give the .json file beside it"
    return ""


def find_logs(path: Path) -> list[LogFiles]:
    """The log that a file is with what lies beside it, or those in a folder and below, by name. Raises InvalidInput."""
    if not path.is_dir():
        with opened(path, str(path)):
            return [_with_companions(path)]
    found = [_with_companions(each) for each in _files(path) if _may_be_main(each.name)]
    logs = [log for log in found if _is_log(log)]
    if not logs:
        raise InvalidInput("path", str(path), f"a folder with logs of {', '.join(READERS)}")
    return logs


def _files(folder: Path) -> Iterator[Path]:
    count = 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                raise InvalidInput("path", str(folder), f"a folder of at most {MAX_FILES:,} files")
            yield Path(root) / name


def _may_be_main(name: str) -> bool:
    if name.endswith(_ROWS) or name.startswith("."):
        return False
    of_lm_eval = name.endswith(".jsonl") and lm_eval.STAMP.search(name) is not None
    return name.endswith((".json", ".jsonl", ".eval", ".parquet")) and not of_lm_eval


def _is_log(log: LogFiles) -> bool:
    try:
        tool_of(log)
    except InvalidInput:
        return False
    return True


def _with_companions(path: Path) -> LogFiles:
    """The file, the rows of Every Eval Ever under its name, and the samples of lm-eval with its time stamp."""
    paths = {path.name: path}
    rows = path.with_name(path.name.removesuffix(".json") + _ROWS)
    if path.name.endswith(".json") and rows.is_file():
        paths[rows.name] = rows
    stamp = lm_eval.STAMP.search(path.name)
    if stamp and path.name.endswith(".json"):
        beside = sorted(path.parent.iterdir())
        ending = f"_{stamp[1]}.jsonl"
        paths |= {each.name: each for each in beside if each.name.startswith("samples_") and each.name.endswith(ending)}
    return LogFiles(path.name, paths)
