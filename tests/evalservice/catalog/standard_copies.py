"""Small copies of data sets, written here in the layouts in which the real ones are published.

Each definition of the catalog has at least one, the first of which the expectations in `test_standard` are about; the
others hold the same records in another layout.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Files = Mapping[str, Any]
"""Relative path → text, or records for .jsonl, .json and .parquet files."""


def write(folder: Path, files: Files) -> Path:
    """The files below a folder; gives the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS.get(path.suffix, _text)(path, content)
    return folder


def _text(path: Path, content: Any) -> None:
    path.write_text(content, encoding="utf-8")


def _jsonl(path: Path, records: Any) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def _parquet(path: Path, records: Any) -> None:
    pq.write_table(pa.Table.from_pylist(records), path)


def _gzip(path: Path, records: Any) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))


_WRITERS: dict[str, Callable[[Path, Any], None]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".gz": _gzip,
}

GSM8K = [
    {"question": "A crate holds 12 jars. How many do 3 crates hold?", "answer": "3 * 12 = <<3*12=36>>36\n#### 36"},
    {"question": "Half of 2,500 sheep are shorn. How many?", "answer": "2500 / 2 = 1250\n#### 1,250"},
]
MMLU_TEST = [
    {"question": "Which, if any, is a metal?", "choices": ["sulphur", "iron", "neon", "iodine"], "answer": 1},
    {"question": 'What does "pH" measure?', "choices": ["heat", "mass", "acidity", "charge"], "answer": 2},
]
MMLU_DEV = [
    {"question": f"What is the charge of ion {n}?", "choices": ["-1", "0", "+1", "+2"], "answer": n % 4}
    for n in range(6)
]


def _csv(records: list[dict[str, Any]]) -> str:
    rows = [[r["question"], *r["choices"], "ABCD"[r["answer"]]] for r in records]
    return "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows)


def _of_subject(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**record, "subject": "college_chemistry"} for record in records]


PRO = {
    "question_id": 70, "question": "Which gas do plants take in?", "options": ["oxygen", "carbon dioxide", "N/A"],
    "answer": "B", "answer_index": 1, "cot_content": "", "category": "biology", "src": "made-up",
}  # fmt: skip
PRO_EXAMPLES = [
    {**PRO, "question_id": n, "question": f"Is {n} even?", "options": ["yes", "no"], "answer": "AB"[n % 2],
     "answer_index": n % 2, "cot_content": f"A: Let's think. {n} / 2. The answer is ({'AB'[n % 2]})."}
    for n in range(5)
]  # fmt: skip


def _arc(kind: str) -> list[Files]:
    texts, labels = ["a pump", "a lens", "a lever"], ["1", "2", "3"]
    stem = "What bends light?"
    nested = {"stem": stem, "choices": [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)]}
    return [
        {f"ARC-{kind}-Test.jsonl": [{"id": "X_1", "question": nested, "answerKey": "2"}]},
        {
            f"ARC-{kind}/test-00000-of-00001.parquet": [
                {"id": "X_1", "question": stem, "choices": {"text": texts, "label": labels}, "answerKey": "2"}
            ]
        },
    ]


HELLASWAG = {
    "ind": 7, "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix flour.", "ctx_b": "she",
    "ctx": "[header] How to bake [title] Mix flour. she", "endings": ["sings.", "kneads it.", "flies.", "sleeps."],
    "source_id": "wikihow~1", "split": "val", "split_type": "indomain", "label": 1,
}  # fmt: skip
TRUTHFUL = {"question": "Do bulls hate red?", "choices": ["They cannot see it", "Yes", "Only in spring", "Always"]}
WINO = {
    "qID": "Q1-1", "sentence": "The vase did not fit the box because the _ was too small.", "option1": "vase",
    "option2": "box", "answer": "2",
}  # fmt: skip
BOOLQ = {"question": "is glass a liquid", "title": "Glass", "answer": False, "passage": "Glass is a solid."}
CONTEXT = "The mill was built in 1843 by the Ober family."
SQUAD_ANSWERS = {"text": ["1843", "in 1843", "1843"], "answer_start": [22, 19, 22]}


def _squad(version: str, extra: dict[str, Any]) -> list[dict[str, Any]]:
    spans = [{"text": t, "answer_start": s} for t, s in zip(*SQUAD_ANSWERS.values(), strict=True)]
    asked = [{"id": "s1", "question": "When was the mill built?", "answers": spans, **extra}]
    if extra:
        asked.append({"id": "s2", "question": "Who sold the mill?", "answers": [], "is_impossible": True})
    paragraph = {"context": CONTEXT, "qas": asked}
    return [{"version": version, "data": [{"title": "Mill", "paragraphs": [paragraph]}]}]


def _flat_squad(impossible: bool) -> list[dict[str, Any]]:
    common = {"title": "Mill", "context": CONTEXT}
    rows = [{"id": "s1", "question": "When was the mill built?", "answers": SQUAD_ANSWERS, **common}]
    if impossible:
        empty = {"text": [], "answer_start": []}
        rows.append({"id": "s2", "question": "Who sold the mill?", "answers": empty, **common})
    return rows


DATE = {"day": "", "month": "", "year": ""}
DROP_PASSAGE = "The Hawks led 14-3 and won 24-10; Lee and Ortiz scored."
DROP_ANSWER = {"number": "", "date": DATE, "spans": ["Lee", "Ortiz"]}
DROP_OTHER = {"number": "", "date": DATE, "spans": ["Lee and Ortiz"]}
DROP_DOCUMENT = {
    "nfl_1": {
        "passage": DROP_PASSAGE,
        "qa_pairs": [
            {"query_id": "d1", "question": "Who scored?", "answer": DROP_ANSWER, "validated_answers": [DROP_OTHER]},
            {
                "query_id": "d2", "question": "By how many points did the Hawks win?", "validated_answers": [],
                "answer": {"number": "14", "date": DATE, "spans": []},
            },
        ],
    }
}  # fmt: skip


def _drop_rows() -> list[dict[str, Any]]:
    rows = []
    for pair in DROP_DOCUMENT["nfl_1"]["qa_pairs"]:
        validated = {name: [each[name] for each in pair["validated_answers"]] for name in ("number", "date", "spans")}  # type: ignore[index]
        known = {"section_id": "nfl_1", "passage": DROP_PASSAGE, "validated_answers": validated}
        rows.append({**pair, **known})  # type: ignore[dict-item]
    return rows


MATH = {
    "problem": "Compute $\\frac12+\\frac14$.", "solution": "$\\boxed{\\frac34}$", "answer": "\\frac{3}{4}",
    "subject": "Prealgebra", "level": 1, "unique_id": "test/prealgebra/1.json",
}  # fmt: skip
XSUM = {"document": "Rain fell on the town for days. Roads closed.", "summary": "Rain closed roads.", "id": "1"}
CNN = {"article": "(CNN) Rain fell. Roads closed.", "highlights": "Rain fell .\nRoads closed .", "id": "f1"}
ENGLISH, GERMAN = ["The dog sleeps.", "It is raining."], ["Der Hund schläft.", "Es regnet."]
PAIRS = [{"translation": {"de": de, "en": en}} for en, de in zip(ENGLISH, GERMAN, strict=True)]


def _lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _mc1(nested: bool) -> dict[str, Any]:
    labels = [1, 0, 0, 0]
    if nested:
        return {"question": TRUTHFUL["question"], "mc1_targets": {"choices": TRUTHFUL["choices"], "labels": labels}}
    return {
        "question": TRUTHFUL["question"],
        "mc1_targets": dict(zip(TRUTHFUL["choices"], labels, strict=True)),
        "mc2_targets": {},
    }


COPIES: dict[str, list[Files]] = {
    "gsm8k": [
        {"grade_school_math/data/test.jsonl": GSM8K, "grade_school_math/data/train.jsonl": GSM8K[:1]},
        {"main/test-00000-of-00001.parquet": GSM8K, "socratic/test-00000-of-00001.parquet": GSM8K[:1]},
        {"test.jsonl.gz": GSM8K},
    ],
    "mmlu": [
        {
            "data/test/college_chemistry_test.csv": _csv(MMLU_TEST),
            "data/dev/college_chemistry_dev.csv": _csv(MMLU_DEV),
            "data/val/college_chemistry_val.csv": _csv(MMLU_DEV),
        },
        {
            "all/test-00000-of-00001.parquet": _of_subject(MMLU_TEST),
            "all/dev-00000-of-00001.parquet": _of_subject(MMLU_DEV),
        },
    ],
    "mmlu-pro": [
        {"data/test-00000-of-00001.parquet": [PRO], "data/validation-00000-of-00001.parquet": PRO_EXAMPLES},
        {"test.jsonl": [PRO], "validation.jsonl": PRO_EXAMPLES},
    ],
    "arc-easy": _arc("Easy"),
    "arc-challenge": _arc("Challenge"),
    "hellaswag": [
        {"data/hellaswag_val.jsonl": [HELLASWAG]},
        {"data/validation-00000-of-00001.parquet": [{**HELLASWAG, "label": "1"}]},
    ],
    "truthfulqa-mc1": [
        {"multiple_choice/validation-00000-of-00001.parquet": [_mc1(True)]},
        {"data/mc_task.json": [_mc1(False)]},
    ],
    "winogrande": [
        {"winogrande_1.1/dev.jsonl": [WINO]},
        {"winogrande_xl/validation-00000-of-00001.parquet": [WINO]},
    ],
    "boolq": [{"dev.jsonl": [BOOLQ]}, {"data/validation-00000-of-00001.parquet": [BOOLQ]}],
    "squad": [
        {"dev-v1.1.json": _squad("1.1", {})[0]},
        {"plain_text/validation-00000-of-00001.parquet": _flat_squad(False)},
    ],
    "squad-v2": [
        {"dev-v2.0.json": _squad("v2.0", {"is_impossible": False})[0]},
        {"squad_v2/validation-00000-of-00001.parquet": _flat_squad(True)},
    ],
    "drop": [{"drop_dataset/drop_dataset_dev.json": DROP_DOCUMENT}, {"validation.jsonl": _drop_rows()}],
    "math-500": [{"test.jsonl": [MATH]}, {"data/test-00000-of-00001.parquet": [MATH]}],
    "xsum": [{"default/test/0000.parquet": [XSUM]}, {"test.jsonl": [XSUM]}],
    "cnn-dailymail": [{"3.0.0/test-00000-of-00001.parquet": [CNN]}, {"test.jsonl": [CNN]}],
    "wmt14-en-de": [
        {"wmt14/wmt14.en-de.src": _lines(ENGLISH), "wmt14/wmt14.en-de.ref": _lines(GERMAN)},
        {"newstest2014.en": _lines(ENGLISH), "newstest2014.de": _lines(GERMAN)},
        {"de-en/test-00000-of-00001.parquet": PAIRS},
    ],
    "wmt22-en-de": [
        {"wmt22/wmt22.en-de.src": _lines(ENGLISH), "wmt22/wmt22.en-de.ref-A": _lines(GERMAN)},
        {
            "txt/sources/generaltest2022.en-de.src.en": _lines(ENGLISH),
            "txt/references/generaltest2022.en-de.ref.refA.de": _lines(GERMAN),
        },
        {
            "generaltest2022.en-de.src.en": _lines(ENGLISH),
            "generaltest2022.en-de.ref.refA.de": _lines(GERMAN),
        },
    ],
}
COPIES |= {f"{name}-likelihood": COPIES[name] for name in ("arc-challenge", "arc-easy", "hellaswag", "mmlu")}
