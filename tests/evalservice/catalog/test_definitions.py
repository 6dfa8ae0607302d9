"""Benchmarks as YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalservice.catalog.definitions import load_benchmark_yaml, parse_benchmark_yaml
from evalservice.errors import InvalidInput

GOOD = """\
name: sums
dataset: sums-test
category: qa
version: 1.10
tags: [arithmetic]
evaluation_criteria:
  prompt_template: |
    {{ input }}
    Answer with a number.
  scorers:
    - exact_match
    - {name: numeric_match, as: loose}
  sampling:
    temperature: 0
"""


def test_a_definition_is_read_with_its_criteria(tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text(GOOD)
    found = load_benchmark_yaml(tmp_path / "sums.yaml")
    assert (found.name, found.dataset, found.category, found.tags) == ("sums", "sums-test", "qa", ("arithmetic",))
    assert [scorer.name for scorer in found.criteria.scorers] == ["exact_match", "numeric_match"]


def test_a_version_is_what_was_written_and_no_number() -> None:
    assert parse_benchmark_yaml(GOOD, "f.yaml").version == "1.10"
    assert parse_benchmark_yaml(GOOD.replace("1.10", "2026-01-02"), "f.yaml").version == "2026-01-02"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("qa", "zz"), "f.yaml, line 3: category: 'zz' is not valid: Input should be 'text-generation'"),
        (GOOD.replace("temperature: 0", "temperature: 9"), "line 14: evaluation_criteria.sampling.temperature: 9"),
        (GOOD.replace("temperature", "temprature"), "line 14: evaluation_criteria.sampling.temprature: 0"),
        (GOOD.replace("- exact_match", "- {}"), "line 11: evaluation_criteria.scorers.0.name"),
        (GOOD + "x: 1\n", "line 15: x: 1 is not valid: there is no such field; accepted: name, dataset"),
        (GOOD + "name: b\n", "'f.yaml, line 15' is not valid: YAML (the key name comes twice)"),
        (GOOD.replace("name: sums\n", ""), "name: None is not valid: it must be given"),
        ("name: [", "line 1"),
        ("- a", "a YAML mapping"),
        ("", "a YAML mapping"),
        ("? [a]\n: b", "a key must be a plain text"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("\0", "YAML in UTF-8"),
        ("[" * 5000, "nested less deeply"),
        ("a: &a [*a]", "aliases expand"),
        (
            "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]" for n in range(10)),
            "aliases expand",
        ),
        ("a: &a x\nb: [" + ", ".join(["*a"] * 101) + "]", "more than 100 aliases"),
    ],
)
def test_a_wrong_definition_names_file_line_and_field(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_benchmark_yaml(text, "f.yaml")
    assert told in caught.value.message
    assert "f.yaml" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    for path in (tmp_path, tmp_path / "none.yaml", Path("/dev/zero"), tmp_path / "big.yaml"):
        with pytest.raises(InvalidInput, match="file"):
            load_benchmark_yaml(path)
