"""Answers that books, papers and other programs give, each with its source; with EVALSERVICE_TEST_DATA, many more."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalservice.statistics.binary import Pairs, cohens_g, conditional_odds_ratio, mcnemar, newcombe, tango
from evalservice.statistics.intervals import (
    clopper_pearson,
    clustered_mean_interval,
    mean_interval,
    proportion_interval,
)
from evalservice.statistics.multiple import benjamini_hochberg, cochrans_q, friedman, holm
from evalservice.statistics.paired import differences, paired_t, sign_flips, signed_ranks
from evalservice.statistics.power import items_for_pairs, items_for_t, power_of_t
from evalservice.statistics.ratings import NoRating, bradley_terry
from evalservice.statistics.samples import pass_at_k, pass_hat_k, variance_split
from evalservice.statistics.sequential import log_e_value

DARWIN = (  # Darwin 1876, maize: crossed and self-fertilized, in eighths of an inch (Fisher 1935, section 17)
    [188, 96, 168, 176, 153, 172, 177, 163, 146, 173, 186, 168, 177, 184, 96],
    [139, 163, 160, 160, 147, 149, 149, 122, 132, 144, 130, 144, 102, 124, 144],
)
SLEEP = (  # Cushny and Peebles 1905, hours of sleep gained (Student 1908)
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
APPROVAL = Pairs(794, 150, 86, 570)  # Agresti, Categorical Data Analysis, table 10.1: approval of the prime minister
NEWCOMBE_1998 = [  # Statistics in Medicine 17:2635, table III, method 10: both, first, second, neither → low, high
    (36, 12, 2, 0, 0.0569, 0.3404),
    (20, 12, 2, 16, 0.0562, 0.3292),
    (36, 14, 0, 0, 0.1528, 0.4167),
    (0, 29, 1, 0, 0.6666, 0.9882),
    (54, 0, 0, 0, -0.0664, 0.0664),
    (0, 30, 0, 0, 0.8395, 1.0),
]
TANGO_1998 = [  # Statistics in Medicine 17:891, sections 6.1 and 6.2, and later tables: level, low, high
    (Pairs(0, 0, 1, 43), 0.90, -0.096, None),  # Miyanaga, soft contact lenses
    (Pairs(20, 9, 3, 0), 0.95, -0.027, 0.390),  # Karacan, sleeping difficulties
    (Pairs(1, 1, 7, 12), 0.95, -0.517, -0.026),  # Bentur et al., in Fagerland, Lydersen and Laake 2014
    (Pairs(7, 25, 2, 68), 0.95, 0.139, 0.321),  # Chang et al. 2024, table 3
    (Pairs(0, 3, 0, 0), 0.95, -0.1230, 1.0),  # R package contingencytables
]


@pytest.mark.parametrize(("both", "first", "second", "neither", "low", "high"), NEWCOMBE_1998)
def test_newcombes_intervals(both: int, first: int, second: int, neither: int, low: float, high: float) -> None:
    got = newcombe(Pairs(both, first, second, neither))
    assert (got.low, got.high) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("pairs", "level", "low", "high"), TANGO_1998)
def test_tangos_intervals(pairs: Pairs, level: float, low: float, high: float | None) -> None:
    got = tango(pairs, level)
    assert got.low == pytest.approx(low, abs=6e-4)
    assert high is None or got.high == pytest.approx(high, abs=6e-4)


PUBLISHED: list[tuple[str, Any, Any]] = [
    ("McNemar: Agresti 10.1, z² = 17.36", mcnemar(APPROVAL).chi2, 17.3559322),
    ("McNemar: statsmodels mcnemar(exact=True)", mcnemar(APPROVAL).p_value, 3.7159361e-05),
    ("McNemar: Fagerland et al. 2013, table 2, exact", mcnemar(Pairs(1, 1, 7, 12)).p_value, 0.0703125),
    ("McNemar: Fagerland et al. 2013, table 2, mid-p", mcnemar(Pairs(1, 1, 7, 12)).mid_p, 0.0390625),
    ("McNemar: nothing discordant", mcnemar(Pairs(40, 0, 0, 10)).p_value, 1.0),
    ("Odds ratio: R binom.test, 12 of 14", conditional_odds_ratio(Pairs(36, 12, 2, 0))[1], 1.33574372),
    ("Odds ratio: no second cell", conditional_odds_ratio(Pairs(30, 8, 0, 12))[2], math.inf),
    ("Cohen's g: effectsize 0.8.3", cohens_g(Pairs(36, 12, 2, 0)), 0.35714286),
    ("Sign flips: Fisher 1935, section 21, 1726 of 32768", sign_flips(differences(*DARWIN)).p_value, 1726 / 32768),
    ("Sign flips: full enumeration", sign_flips([3, -1, 4, 1, -2, 6, 2, 5]).p_value, 11 / 128),
    ("Sign flips: decimals whose sums tie", sign_flips([0.1, 0.2, 0.3, -0.3, 0.4]).p_value, 12 / 32),
    ("Sign flips: five items cannot reach .05", sign_flips([1, 2, 3, 4, 5]).p_value, 2 / 32),
    ("Paired t: Student 1908 in R's sleep", paired_t(*SLEEP).t, -4.06212768),
    ("Paired t: R t.test(paired = TRUE)", paired_t(*SLEEP).p_value, 0.00283289),
    ("Paired t: Fisher 1935, section 17, t = 2.148", paired_t(*DARWIN).t, 2.14798746),
    ("d_z: effectsize cohens_d(paired = TRUE)", paired_t(*SLEEP).cohens_dz, -1.28455756),
    ("g_z: effectsize hedges_g, exact correction", paired_t(*SLEEP).hedges_gz, -1.17392492),
    ("Signed ranks: R wilcox.test on Darwin's maize", signed_ranks(differences(*DARWIN)).p_value, 0.04125977),
    ("Signed ranks: W+ on Darwin's maize", signed_ranks(differences(*DARWIN)).w_plus, 96.0),
    ("Signed ranks: coin, zeros.method = Pratt", signed_ranks([2, 0, 2, -1, 0, 2, 2, 0, 3, -1, 3, 0]).p_value, 0.0625),
    ("Rank-biserial: (33 - 3) / 36", signed_ranks([2, 0, 2, -1, 0, 2, 2, 0, 3, -1, 3, 0]).rank_biserial, 0.83333333),
    ("Holm: R p.adjust", holm([0.04, 0.01, 0.03, 0.01, 0.2]), [0.09, 0.05, 0.09, 0.05, 0.2]),
    ("Holm: capped at 1", holm([0.6, 0.9, 0.5]), [1.0, 1.0, 1.0]),
    ("BH: R p.adjust", benjamini_hochberg([0.04, 0.01, 0.03, 0.01, 0.2]), [0.05, 0.025, 0.05, 0.025, 0.2]),
    (
        "Friedman: R friedman.test",
        friedman([[7, 9, 8], [6, 5, 7], [9, 7, 6], [8, 5, 6], [9, 8, 7], [7, 7, 9], [8, 6, 6], [6, 8, 5]])[1],
        0.53081945,
    ),
    ("Cochran's Q: equals McNemar's χ² for two", cochrans_q([[1, 0]] * 7 + [[0, 1]] + [[1, 1]] * 3)[0], 36 / 8),
    ("Connor 1987, page 209: 23 pairs", items_for_pairs(0.4, 0.5), 22.01132442),
    ("Connor's formula, .08 against .18, power .9", items_for_pairs(0.1, 0.26, power=0.9), 269.0142025),
    ("Paired t power: R pwr.t.test", items_for_t(0.5), 33.36713),
    ("Paired t power: R power.t.test, one-sided", items_for_t(0.3, power=0.9, two_sided=False), 96.52287),
    ("Paired t power: R power.t.test(strict = TRUE)", power_of_t(0.05, 20), 0.05519067),
    ("pass@k: Chen et al. 2021, exact", pass_at_k(200, 7, 100), 506067 / 509639),
    ("pass@k: never right", pass_at_k(200, 0, 10), 0.0),
    ("pass@k: fewer wrong than k", pass_at_k(5, 4, 2), 1.0),
    ("pass^k: Yao et al. 2024, C(3,2)/C(10,2)", pass_hat_k(10, 3, 2), 3 / 45),
    ("Bradley–Terry: log(30/20)", np.diff(bradley_terry([[0, 30], [20, 0]]).abilities)[0], math.log(20 / 30)),
    ("Bradley–Terry: √(1/30 + 1/20)", bradley_terry([[0, 30], [20, 0]]).stderr_of_difference(0, 1), 0.28867513),
    ("e-value: 2^8 8! 0! / 9!", np.exp(log_e_value(8, 0)), 256 / 9),
    ("e-value: equal wins speak for no difference", np.exp(log_e_value(10, 10)), 0.27026018),
    ("Wilson: R prop.test(correct = FALSE), 0 of 10", proportion_interval(0, 10).high, 0.27753280),
    ("Clopper–Pearson: R binom.test, 10 of 10", clopper_pearson(10, 10).low, 0.69150289),
]


@pytest.mark.parametrize(("got", "want"), [case[1:] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED])
def test_published_values(got: Any, want: Any) -> None:
    assert got == pytest.approx(want, rel=2e-7)


def test_stiglers_citations_among_statistics_journals() -> None:
    # Stigler 1994; Agresti, Categorical Data Analysis, section 10.6; BradleyTerry2's vignette
    wins = [[0, 730, 498, 221], [33, 0, 68, 17], [320, 813, 0, 142], [284, 276, 325, 0]]
    found = bradley_terry(wins)
    assert found.abilities - found.abilities[0] == pytest.approx([0, -2.94907, -0.47957, 0.26895], abs=1e-5)
    assert found.stderr_of_difference(0, 2) == pytest.approx(0.0605887, abs=1e-6)


def test_variance_components_of_six_items_with_four_samples() -> None:
    # R: anova(lm(y ~ item)), psych::ICC, lme4 REML agree
    split = variance_split([[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]])
    got = (split.between, split.within, split.icc1, split.icc_k, split.stderr)
    assert got == pytest.approx((0.10833333, 0.16666667, 0.39393939, 0.72222222, 0.15811388), abs=1e-7)
    assert split.stderr_with(6, 4) == pytest.approx(split.stderr)


def _of_tables(function: Callable[[Pairs], Any], given: dict[str, Any]) -> Any:
    return function(Pairs(*(given["table"][name] for name in ("both", "b_first_only", "c_second_only", "neither"))))


def _pairs_of(topic: str, given: dict[str, Any], want: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(ours, theirs) of one reference case; none where it concerns something that is tested elsewhere."""
    if topic == "mean, SE, t interval":
        mean = mean_interval(given["x"], given["level"])
        yield from zip(
            (mean.value, mean.stderr, mean.df, mean.low, mean.high),
            (want[name] for name in ("mean", "se", "df", "lo", "hi")),
            strict=True,
        )
    elif topic == "clustered SE of a mean":
        mean = clustered_mean_interval(given["x"], given["cluster"], given["level"])
        wanted = (want[name] for name in ("mean", "se_cr1", "lo", "hi"))
        yield from zip((mean.value, mean.stderr, mean.low, mean.high), wanted, strict=True)
    elif topic == "proportion interval":
        for (k, n), wilson, exact in zip(given["k_n"], want["wilson"], want["clopper_pearson"], strict=True):
            for interval, bounds in ((proportion_interval(k, n), wilson), (clopper_pearson(k, n), exact)):
                yield from zip((interval.low, interval.high), bounds, strict=True)
    elif topic == "McNemar":
        test = _of_tables(mcnemar, given)
        yield from ((test.p_value, want["p_exact"]), (test.mid_p, want["p_mid"]), (test.chi2, want["chi2"]))
        yield test.p_asymptotic, want["p_asymptotic"]
    elif topic == "paired difference CI, Newcombe method 10":
        tables = given.get("tables") or [list(given["table"].values())]
        lows, highs = np.atleast_1d(want["lo"]), np.atleast_1d(want["hi"])
        for table, low, high in zip(tables, lows, highs, strict=True):
            interval = newcombe(Pairs(*table))
            yield from ((interval.low, low), (interval.high, high))
    elif topic == "paired difference CI, Tango score":
        for level, suffix in ((0.95, ""), (0.9, "90")):
            interval = _of_tables(lambda pairs, level=level: tango(pairs, level), given)
            yield from ((interval.low, want[f"lo{suffix}"]), (interval.high, want[f"hi{suffix}"]))
    elif topic == "paired t":
        t = paired_t(given["x"], given["y"])
        yield from (
            (t.t, want["t"]),
            (t.p_value, want["p"]),
            (t.interval.low, want["lo"]),
            (t.interval.high, want["hi"]),
        )
        yield from ((t.cohens_dz, want["cohen_dz"]), (t.hedges_gz, want["hedges_gz"]))
    elif topic == "Wilcoxon signed rank / sign test":
        ranks = signed_ranks(differences(given["x"], given["y"]))
        yield from ((ranks.p_value, want["p_exact_pratt"]), (ranks.w_plus, want["W_plus_pratt"]))
        yield ranks.rank_biserial, want["rank_biserial"]
    elif topic == "exact sign-flip permutation":
        values = given.get("differences") or differences(given["x"], given["y"])
        yield sign_flips(values).p_value, want["p_two_sided"]
    elif topic == "Cochran's Q":
        yield from zip(cochrans_q(given["items_by_models"]), (want["Q"], want["p"]), strict=True)
    elif topic == "Friedman":
        yield from zip(friedman(given["items_by_models"]), (want["chi2"], want["p"]), strict=True)
    elif topic == "multiple comparisons":
        yield from ((holm(given["p"]), want["holm"]), (benjamini_hochberg(given["p"]), want["BH"]))
    elif topic == "effect sizes, binary pairs":
        odds = _of_tables(conditional_odds_ratio, given)
        yield from ((_of_tables(cohens_g, given), want["cohens_g_signed"]), (odds[0], float(want["or_conditional"])))
        yield from zip(odds[1:], map(float, want["or_conditional_exact"]), strict=True)
    elif topic == "power: paired t" and "n_exact" in want:
        for case, n in zip(given["cases"], want["n_exact"], strict=True):
            two_sided = case["alternative"] == "two-sided"
            yield items_for_t(case["d_z"], alpha=case["alpha"], power=case["power"], two_sided=two_sided), n
    elif topic == "power: paired t":
        for case, power in zip(given["cases"], want["power"], strict=True):
            yield power_of_t(case["d_z"], case["n"], alpha=given["alpha"]), power
    elif topic == "sample size: McNemar":
        n = items_for_pairs(
            given["p10"] - given["p01"], given["p10"] + given["p01"], alpha=given["alpha"], power=given["power"]
        )
        yield n, want.get("n_exact", want.get("n_connor"))
    elif topic == "pass@k unbiased" and "cases_n_c_k" in given:
        yield [pass_at_k(*case) for case in given["cases_n_c_k"]], want["pass_at_k"]
    elif topic in ("pass@k unbiased", "pass^k (all k succeed) unbiased"):
        of, name = (pass_at_k, "pass_at_k") if topic.startswith("pass@k") else (pass_hat_k, "pass_hat_k")
        yield [np.mean([of(n, c, k) for n, c in given["n_c_per_task"]]) for k in given["k"]], want[name]
    elif topic == "Bradley-Terry" and "ability" in want:
        ratings, reference = bradley_terry(given["wins_row_over_column"]), given["players"].index(given["reference"])
        yield ratings.abilities - ratings.abilities[reference], want["ability"]
        yield (
            [ratings.stderr_of_difference(i, reference) for i in range(len(given["players"]))],
            want["se_vs_reference"],
        )
    elif topic == "anytime-valid e-value" and "cases_b_c" in given:
        yield [float(np.exp(log_e_value(b, c))) for b, c in given["cases_b_c"]], want["e"]
    elif topic == "variance split, k samples per item" and "items_by_samples" in given:
        split = variance_split(given["items_by_samples"])
        yield from ((split.between, want["sigma2_between"]), (split.within, want["sigma2_within"]))
        yield from ((split.icc1, want["icc1"]), (split.icc_k, want["icc_k"]), (split.stderr, want["se_mean"]))


@pytest.mark.data
def test_the_reference_cases_hold() -> None:
    if not os.environ.get("EVALSERVICE_TEST_DATA"):
        pytest.skip("EVALSERVICE_TEST_DATA is not set")
    path = Path(os.environ["EVALSERVICE_TEST_DATA"], "statistics", "reference_cases.json")
    checked = 0
    for case in json.loads(path.read_text()):
        tolerance = {name: value for name, value in case["tolerance"].items() if value}
        for ours, theirs in _pairs_of(case["topic"], case["input"], case["expected"]):
            checked += 1
            assert (ours is None) == (theirs is None), case["id"]
            assert ours is None or ours == pytest.approx(theirs, **tolerance), case["id"]
    assert checked >= 200


def test_who_never_lost_has_no_finite_rating() -> None:
    with pytest.raises(NoRating, match="never lost"):
        bradley_terry([[0, 5, 5], [0, 0, 3], [0, 2, 0]])
