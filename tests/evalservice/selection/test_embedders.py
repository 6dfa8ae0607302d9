"""Embedders: unit rows, the same bits wherever they are, other packages' by name."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalservice.errors import InvalidInput
from evalservice.selection.embedders import embedder_names, fit_embedder

TEXTS = [f"What is {a} {sign} {a + 3}?" for a in range(40) for sign in ("plus", "minus")] + [
    f"Who wrote the {kind} about {place}?" for kind in ("novel", "poem", "play") for place in ("Rome", "Kyiv", "Lima")
]
HASHED = fit_embedder("hashed", TEXTS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=200), max_size=5))
def test_hashed_rows_are_unit_vectors_of_the_same_width_for_any_text(texts: list[str]) -> None:
    vectors = HASHED.embed(texts)
    assert vectors.shape == (len(texts), 128)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1, atol=1e-5)


def test_a_text_has_the_same_bits_alone_in_a_batch_and_after_pickle() -> None:
    alone = np.concatenate([HASHED.embed([text]) for text in TEXTS])
    for other in (HASHED, pickle.loads(pickle.dumps(HASHED))):
        assert (other.embed(TEXTS) == alone).all()


def test_another_process_fits_the_same_bits() -> None:
    code = (
        "import sys; from tests.evalservice.selection.test_embedders import HASHED, TEXTS;"
        "sys.stdout.buffer.write(HASHED.embed(TEXTS).tobytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == HASHED.embed(TEXTS).tobytes()


def test_like_texts_are_near_and_what_shares_nothing_is_at_no_similarity() -> None:
    sums, novel, foreign = HASHED.embed(["what is 7 plus 12?", "Who wrote a novel on Lima", "ξψ"])
    evaluated = HASHED.embed(TEXTS)
    assert (evaluated[:80] @ sums).mean() > 3 * abs((evaluated[80:] @ sums).mean())
    assert (evaluated[80:] @ novel).mean() > 3 * abs((evaluated[:80] @ novel).mean())
    assert np.abs(evaluated @ foreign).max() == 0


@pytest.mark.parametrize("texts", [[], [""], ["one"], ["same"] * 5], ids=repr)
def test_hashed_can_be_fitted_on_next_to_nothing(texts: list[str]) -> None:
    np.testing.assert_allclose(np.linalg.norm(fit_embedder("hashed", texts).embed(["a", ""]), axis=1), 1, rtol=1e-5)


def test_another_package_adds_an_embedder_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lengthy.py").write_text(
        "class Lengthy:\n"
        "    name = 'lengthy'\n"
        "    fit = classmethod(lambda cls, given: cls())\n"
        "    def embed(self, texts): return [len(text) for text in texts]\n"
    )
    information = tmp_path / "lengthy-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: lengthy\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[evalservice.embedders]\nlengthy = lengthy:Lengthy\nbroken = lengthy:Nothing\nother = lengthy:Lengthy\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"hashed", "lengthy"} <= set(embedder_names())
    assert list(fit_embedder("lengthy", []).embed(["abc"])) == [3]
    with pytest.raises(InvalidInput, match=r"does not load.*Nothing"):
        fit_embedder("broken", [])
    with pytest.raises(InvalidInput, match="calls itself 'lengthy'"):
        fit_embedder("other", [])
    with pytest.raises(InvalidInput, match="one of: hashed"):
        fit_embedder("unheard-of", [])
