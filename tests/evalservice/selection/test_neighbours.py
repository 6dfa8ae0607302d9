"""Estimates from neighbours: near the truth, honest about what is not known, the same in every process."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalservice.selection import nearest_rows
from evalservice.selection.evidence_priors import category_means
from evalservice.selection.nearest_rows import ExactRows, QuantisedRows, find_in
from evalservice.selection.neighbours import Evidence, Prior, Settings, build_index
from evalservice.selection.tuning import deal, fit_neighbours, tune


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def two_kinds(n: int, seed: int = 0, models: tuple[str, ...] = ("a", "b")) -> Evidence:
    """Two kinds of request around opposite directions; the first model is good at one, the second at the other."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    embeddings = unit(rng.normal(size=(n, 16)) * 0.3 + np.outer(1 - 2 * kind, np.ones(16)))
    quality = np.where(kind[:, None] == np.arange(len(models)) % 2, 0.9, 0.1) + rng.normal(0, 0.05, (n, len(models)))
    cost = np.where(kind[:, None] == 0, 1.0, 3.0) * np.ones(len(models))
    return Evidence(models, [f"case {i}" for i in range(n)], embeddings, quality, cost)


ONE, OTHER = unit(np.ones((1, 16)))[0], unit(-np.ones((1, 16)))[0]


def test_quality_and_cost_are_those_of_like_test_cases() -> None:
    found = fit_neighbours(two_kinds(400), seed=0).estimate(ONE)
    np.testing.assert_allclose(found.quality, [0.9, 0.1], atol=0.05)
    np.testing.assert_allclose(found.cost, 1.0, atol=0.1)
    assert (found.quality_sd > 0).all()
    assert (found.quality_sd < 0.1).all()
    assert {int(each.id.split()[1]) % 2 for each in found.neighbours[:10]} == {0}
    assert found.neighbours[0].similarity == max(each.similarity for each in found.neighbours)


def test_models_may_share_no_test_case() -> None:
    evidence = two_kinds(400)
    quality = evidence.quality.copy()
    quality[:200, 0], quality[200:, 1] = np.nan, np.nan
    found = fit_neighbours(replace(evidence, quality=quality), seed=0).estimate(ONE)
    np.testing.assert_allclose(found.quality, [0.9, 0.1], atol=0.1)


def test_less_evidence_is_less_sure_and_nearer_to_the_prior() -> None:
    evidence = two_kinds(400)
    quality = evidence.quality.copy()
    quality[20:, 0] = np.nan
    found = build_index(replace(evidence, quality=quality), Settings()).estimate(ONE)
    full = build_index(evidence, Settings()).estimate(ONE)
    assert found.quality_sd[0] > full.quality_sd[0]
    assert 0.5 < found.quality[0] < full.quality[0]


def test_without_evidence_a_model_has_no_estimate_but_the_prior_given() -> None:
    evidence = two_kinds(100)
    quality, cost = evidence.quality.copy(), evidence.cost.copy()
    quality[:, 1], cost[:, 1] = np.nan, np.nan
    index = fit_neighbours(replace(evidence, quality=quality, cost=cost), seed=0)
    assert np.isnan(index.estimate(ONE).quality[1])
    given_one = index.estimate(ONE, prior=Prior(np.array([np.nan, 0.7]), np.array([np.nan, 2.0])))
    assert given_one.quality[1] == pytest.approx(0.7, abs=0.2)
    assert given_one.cost[1] == 2.0
    assert given_one.quality[0] == pytest.approx(index.estimate(ONE).quality[0], abs=0.2)


def test_a_category_counts_where_the_text_says_nothing() -> None:
    rng = np.random.default_rng(0)
    kinds = ["x" if i % 2 else "y" for i in range(300)]
    values = np.array([[0.8, 0.3] if kind == "x" else [0.3, 0.8] for kind in kinds]) + rng.normal(0, 0.1, (300, 2))
    evidence = Evidence(("a", "b"), kinds, unit(rng.normal(size=(300, 16))), values, np.ones((300, 2)), kinds)
    index = fit_neighbours(evidence, seed=0)
    np.testing.assert_allclose(index.estimate(ONE, "x").quality, [0.8, 0.3], atol=0.1)
    np.testing.assert_allclose(index.estimate(ONE, "unheard of").quality, [0.55, 0.55], atol=0.1)
    assert (index.estimate(ONE, "unheard of").quality_sd > index.estimate(ONE, "x").quality_sd).all()


def test_a_category_mean_is_shrunk_by_how_little_there_is_of_it() -> None:
    rng = np.random.default_rng(1)
    categories = [f"c{i % 20}" for i in range(2000)] + ["rare"]
    effects = rng.normal(0, 1, 20)
    values = np.array([effects[i % 20] + rng.normal() for i in range(2000)] + [5.0])[:, None]
    means = category_means(values, categories)
    row = means.categories.index("rare")
    assert values.mean() < means.means[row, 0] < 4.5
    assert means.variances[row, 0] > 10 * means.variances[0, 0]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(3)))
def test_the_order_of_models_changes_nothing(order: list[int]) -> None:
    evidence = two_kinds(120, models=("a", "b", "c"))
    permuted = replace(
        evidence,
        models=tuple(evidence.models[at] for at in order),
        quality=evidence.quality[:, order],
        cost=evidence.cost[:, order],
    )
    expected, found = (fit_neighbours(each, seed=3).estimate(OTHER) for each in (evidence, permuted))
    np.testing.assert_allclose(found.quality, expected.quality[order], rtol=1e-6)
    np.testing.assert_allclose(found.cost_sd, expected.cost_sd[order], rtol=1e-6)


def test_the_same_seed_tunes_the_same_and_too_little_is_not_tuned() -> None:
    assert tune(two_kinds(200), seed=1) == tune(two_kinds(200), seed=1)
    assert tune(two_kinds(20), seed=1) == Settings()


def test_settings_are_not_chosen_by_looking_at_the_answer_twice() -> None:
    """Noise that is there twice must not look like what neighbours can tell."""
    rng = np.random.default_rng(2)
    half = Evidence(
        ("a", "b"),
        [str(i) for i in range(300)],
        unit(rng.normal(size=(300, 16))),
        rng.random((300, 2)).round(),
        np.ones((300, 2)),
    )
    doubled = half.of(np.tile(np.arange(300), 2))
    assert tune(doubled, 0).local_apart / tune(doubled, 0).strength < 0.1


def test_equal_keys_share_a_fold_whatever_their_order() -> None:
    keys = [str(i % 37).encode() for i in range(200)]
    dealt = dict(zip(keys, deal(keys, 5, 7), strict=True))
    assert [dealt[key] for key in keys] == list(deal(keys, 5, 7))
    assert dict(zip(keys[::-1], deal(keys[::-1], 5, 7), strict=True)) == dealt


def test_many_rows_are_found_by_codes_as_by_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    monkeypatch.setattr(nearest_rows, "EXACT_ROWS", 1000)
    vectors = unit(np.random.default_rng(0).normal(size=(4000, 30)))
    rows = find_in(vectors)
    assert isinstance(rows, QuantisedRows)
    exact, queries = ExactRows(vectors), unit(np.random.default_rng(1).normal(size=(100, 30)))
    shared = [np.intersect1d(rows.search(q, 50)[1], exact.search(q, 50)[1]).size for q in queries]
    assert np.mean(shared) >= 0.95 * 50
    restored = pickle.loads(pickle.dumps(rows))
    assert all((restored.search(q, 9)[1] == rows.search(q, 9)[1]).all() for q in queries)
    assert len(rows.search(queries[0], 5000)[1]) <= 4000


def test_many_threads_ask_one_index_and_hear_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_rows, "EXACT_ROWS", 1000)
    index = build_index(two_kinds(3000), Settings())
    alone = [index.estimate(each).quality.tolist() for each in (ONE, OTHER)]
    heard: list[bool] = []

    def ask() -> None:
        heard.extend(index.estimate((ONE, OTHER)[i % 2]).quality.tolist() == alone[i % 2] for i in range(100))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    build_index(two_kinds(2000, seed=1), Settings())
    for thread in threads:
        thread.join()
    assert len(heard) == 400
    assert all(heard)


def test_evidence_of_the_wrong_shape_is_refused() -> None:
    evidence = two_kinds(10)
    with pytest.raises(ValueError, match="not"):
        replace(evidence, quality=evidence.quality[:9])
    with pytest.raises(ValueError, match="infinite"):
        replace(evidence, cost=evidence.cost * np.inf)
