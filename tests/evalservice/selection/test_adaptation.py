"""Learning and Thompson sampling together: the best model is found, a new one taken up, a worse one given up."""

import numpy as np
import pytest

from evalservice.selection.learning import grown, unknown, with_prior
from tests.evalservice.selection.streams import figures, four_models, needs_data, serve_learning


@pytest.mark.data
@needs_data
def test_without_any_evidence_it_is_soon_as_good_as_the_best_model() -> None:
    reached = []
    for seed in range(10):
        stream = four_models().shuffled(seed)
        rng = np.random.default_rng(seed)
        _, quality, _ = serve_learning(lambda k, m, q=stream.quality: q[k, m], unknown(4), 1_766, rng)
        reached.append(quality[500:].mean())
    best = four_models().quality.mean(axis=0).max()
    figures.info("quality of requests 500 to 1,766: %.4f of the best model's", np.mean(reached) / best)
    assert np.mean(reached) >= 0.99 * best


@pytest.mark.data
@needs_data
def test_a_better_model_that_is_added_takes_most_of_the_traffic_within_150_requests() -> None:
    first, last = [], []
    for seed in range(10):
        stream = four_models().of("llama-3.1-8b-instruct", "mistral-large-2512").shuffled(seed)
        rng = np.random.default_rng(seed)
        _, _, alone = serve_learning(lambda k, m, q=stream.quality: q[k, m], unknown(1), 500, rng)
        chosen, _, _ = serve_learning(lambda k, m, q=stream.quality[500:]: q[k, m], grown(alone, 2), 150, rng)
        first.append(chosen.mean())
        last.append(chosen[100:].mean())
    figures.info("share of the new model: %.3f of 150, %.3f of the last 50", np.mean(first), np.mean(last))
    assert min(last) > 0.5
    assert np.mean(first) > 0.5


@pytest.mark.data
@needs_data
def test_a_favourite_that_loses_thirty_points_loses_half_of_its_share_within_300_outcomes() -> None:
    means = four_models().quality.mean(axis=0)
    favourite, shares = int(means.argmax()), []
    for seed in range(10):
        stream = four_models().shuffled(seed)
        rng = np.random.default_rng(seed)
        beliefs, own, served = with_prior(unknown(4), means, np.full(4, 300.0)), 0, 0
        while own < 1_500:
            window = np.roll(stream.quality, -served, axis=0)
            chosen, _, beliefs = serve_learning(lambda k, m, q=window: q[k, m], beliefs, 300, rng, batch=5)
            own, served = own + int((chosen == favourite).sum()), served + 300
        before = (chosen == favourite).mean()
        worse = np.roll(stream.quality, -served, axis=0)
        worse[:, favourite] = np.maximum(worse[:, favourite] - 0.3, 0.0)
        chosen, _, _ = serve_learning(lambda k, m, q=worse: q[k, m], beliefs, 300, rng)
        shares.append((before, (chosen[200:] == favourite).mean(), int(np.flatnonzero(chosen == favourite).max())))
    before, after, latest = np.array(shares).T
    figures.info(
        "share before %.3f, of the last 100 %.3f; last chosen at %d", before.mean(), after.mean(), latest.max()
    )
    assert (after <= before / 2).all()


def test_regret_grows_like_the_logarithm_of_time() -> None:
    arms = np.array([0.9, 0.8, 0.7, 0.6])
    regrets = []
    for seed in range(10):
        wins = np.random.default_rng(1_000 + seed).random((10_000, len(arms))) < arms
        rng = np.random.default_rng(seed)
        chosen, _, _ = serve_learning(lambda k, m, w=wins: float(w[k, m]), unknown(4), 10_000, rng, batch=10)
        regrets.append(np.cumsum(arms.max() - arms[chosen])[[999, 9_999]])
    early, late = np.mean(regrets, axis=0)
    figures.info("regret %.1f after 1,000, %.1f after 10,000", early, late)
    # the square root would give 3.2 times as much, no learning 10 times
    assert late < 2.5 * early
    assert late < 60
