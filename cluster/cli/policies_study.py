"""`evalservice policies study`: whether a policy would pay on evidence in a file. Nothing is stored."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.common import Json
from cluster.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from evalservice.selection.curves import Curve
    from evalservice.selection.study import Examples, Study

app = typer.Typer(help="Would a policy pay, on evidence like this?", no_args_is_help=True)
SHOWN = 9
"""Rows of the table of costs."""


@app.callback()
def _study() -> None:
    """Would a policy pay, on evidence like this?"""


@app.command("nearest")
def nearest(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help='JSONL: {"prompt", "quality": {MODEL: score}, "cost_usd"?: {MODEL: …}}'),
    ],
    train: Annotated[
        Path | None, typer.Option("--train", metavar="FILE", help="Learn from this file instead of cross-validating.")
    ] = None,
    embedder: Annotated[
        str, typer.Option("--embedder", metavar="NAME", help="hashed, minilm (extra `embeddings`) or a plug-in's.")
    ] = "hashed",
    category_field: Annotated[
        str | None, typer.Option("--category-field", metavar="F", help="The field of each line with its category.")
    ] = None,
    folds: Annotated[int, typer.Option("--folds", metavar="N", min=2, max=100, help="Of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of folds and resamples.")] = 0,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="USD", help="Which `cost_weight` holds this mean cost of a request?"),
    ] = None,
    json: Json = False,
) -> None:
    """Would routing by the request's text pay?

    Each request is estimated from others like it, never from itself, and the choices at every price of quality are
    compared with what random mixing of the models gives at the same mean cost. Without costs the model of lowest mean
    quality costs 0 a call and that of the highest 1.
    """
    from evalservice.selection.curves import calibrate
    from evalservice.selection.embedders import embedder_class, fit_embedder
    from evalservice.selection.study import study, study_on
    from evalservice.selection.study_file import read_examples

    embedder_class(embedder)
    fit = partial(fit_embedder, embedder)
    tried = read_examples(file, category_field)
    if train is None:
        found = study(tried, fit, folds, seed)
    else:
        found = study_on(tried, read_examples(train, category_field), fit, seed)
    price = None if budget is None else calibrate(found.quality, found.cost, budget)
    if json:
        # without a budget exactly the document that is promised
        print_json(document(found) | ({} if price is None else {"cost_weight": price.high, "budget": budget}))
        return
    _show(found, tried)
    if price is not None:
        say(f"A cost_weight of {price.high:.6g} holds a mean cost of {budget:g} on requests like these.")


def document(found: Study) -> dict[str, Any]:
    """The answer as `--json` prints it."""
    return {
        "n": found.n,
        "models": list(found.models),
        "apgr": found.apgr,
        "apgr_ci_low": found.apgr_ci_low,
        "apgr_ci_high": found.apgr_ci_high,
        "cpt50": found.cpt50,
        "cpt80": found.cpt80,
        "curve": _points(found.curve),
        "mixing": _points(found.mixing),
        "use": found.use,
    }


def _points(curve: Curve) -> list[dict[str, float]]:
    pairs = zip(curve.cost.tolist(), curve.quality.tolist(), strict=True)
    return [{"mean_cost": cost, "mean_quality": quality} for cost, quality in pairs]


def _show(found: Study, examples: Examples) -> None:
    qualities = dict(zip(examples.models, examples.quality.mean(axis=0).tolist(), strict=True))
    costs: dict[str, float | None] = dict.fromkeys(examples.models)
    if examples.cost is not None:
        costs.update(zip(examples.models, examples.cost.mean(axis=0).tolist(), strict=True))
    print_table(
        ["MODEL", "MEAN QUALITY", "MEAN COST"],
        [[name, f"{qualities[name]:.4f}", _cost(costs[name], found)] for name in sorted(qualities, key=qualities.get)],  # type: ignore[arg-type]
        title=f"{found.n} requests",
    )
    say("")
    print_table(
        ["MEAN COST", "BY THE TEXT", "RANDOM MIXING", "DIFFERENCE"],
        [
            [_cost(cost, found), f"{routed:.4f}", f"{mixed:.4f}", f"{routed - mixed:+.4f}"]
            for cost, routed, mixed in _compared(found)
        ],
        title="mean quality at equal cost",
    )
    say("")
    if found.apgr is not None:
        calls = [f"{share:.0%}" if share is not None else "never" for share in (found.cpt50, found.cpt80)]
        say(
            f"Between {found.weak} and {found.strong}: APGR {found.apgr:.3f} "
            f"[{found.apgr_ci_low:.3f}, {found.apgr_ci_high:.3f}] (mixing of the two: 0.5); "
            f"50 % and 80 % of the gap with {calls[0]} and {calls[1]} of calls to {found.strong}."
        )
    say(_verdict(found))


def _compared(found: Study) -> list[tuple[float, float, float]]:
    """(cost, routed quality, mixed quality) where mixing gets as much further from one row to the next."""
    import numpy as np

    quality = np.linspace(found.mixing.quality[0], found.mixing.quality[-1], SHOWN)
    costs = np.unique(np.interp(quality, found.mixing.quality, found.mixing.cost))
    rows = zip(costs, found.curve.at(costs), found.mixing.at(costs), strict=True)
    return [(float(cost), float(routed), float(mixed)) for cost, routed, mixed in rows]


def _cost(cost: float | None, found: Study) -> str:
    if cost is None:
        return {found.weak: "0", found.strong: "1"}.get("", "")
    return f"{cost:.3g}" if cost >= 1e-6 or cost == 0 else f"{cost:.2g}"


def _verdict(found: Study) -> str:
    gain = f"{found.gain:+.4f} [{found.gain_ci_low:+.4f}, {found.gain_ci_high:+.4f}] in quality at equal cost"
    if found.use:
        return f"Routing by the text pays: {gain} against the best policy that does not look at it."
    return f"Routing by the text is not shown to pay and would stay off: {gain} against random mixing of the models."
