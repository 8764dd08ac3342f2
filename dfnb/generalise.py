"""From a seen manipulation to an unseen one: LAE's tables and curves, from score files.

A task is a seen method, of whose fakes a run saw the training split, and an unseen one. A line's numbers are means over
seeds, with the t interval over seeds; from one seed there is only the interval over clusters of frames.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from dfnb import metrics
from dfnb.attribution import attention
from dfnb.figures import MAP, PALETTE, WIDTH, as_batch, panel, read
from dfnb.metrics import interval
from dfnb.train import Run

Lines = dict[str, list[Run]]
MEASURES = ("accuracy", "AUC", "energy in mask", "IoU")
GAINS = ("accuracy seen", "accuracy unseen", "AUC unseen", "energy in mask seen", "energy in mask unseen")


def measures(runs: Lines, methods: Sequence[str], test_sets: Sequence[str]) -> pd.DataFrame:
    """One row a line and seed: ``accuracy seen``, ``accuracy unseen`` and so on, frame level, in [0, 1].

    ``methods`` and ``test_sets`` are the seen and the unseen one each; every method is scored against all real frames of its
    test set, so that accuracy is the balanced one. Then the bounds of each over clusters, ``low accuracy seen``, …
    """
    rows = []
    for line, group in runs.items():
        for run in group:
            row: dict[str, object] = {"line": line, "seed": run.record["parameters"]["seed"]}
            for kind, method, test_set in zip(("seen", "unseen"), methods, test_sets):
                scores = read(run, test_set)
                scores = scores[scores["method"].isin(["real", method])]
                found = [metrics.balanced_accuracy(scores), metrics.auc(scores, "frame"), *metrics.located(scores)]
                for each in (each for each in found if each["metric"] in MEASURES):
                    name = f"{each['metric']} {kind}"
                    row |= {name: each["value"], f"low {name}": each["low"], f"high {name}": each["high"]}
            rows.append(row)
    return pd.DataFrame(rows)


def test_sets(runs: Lines, sets: Sequence[str]) -> list[str]:
    """The datasets with the seen and the unseen methods for runs trained on the first of ``sets``, or on another home."""
    home = next(iter(runs.values()))[0].record["parameters"]["train_set"]
    return list(sets) if not sets or home == sets[0] else [home, f"{home}-unseen"]


def table(measured: pd.DataFrame) -> pd.DataFrame:
    """:func:`measures` by line, as the paper's table: seen beside unseen, mean over seeds with 95 % interval."""
    names = [f"{measure} {kind}" for measure in MEASURES for kind in ("seen", "unseen")]
    rows = {}
    for line, own in measured.groupby("line", sort=False):
        cells = {}
        for name in (name for name in names if name in own and own[name].notna().all()):
            over = metrics.over_seeds(own[name])
            bounds = (own[f"low {name}"].iloc[0], own[f"high {name}"].iloc[0])
            bounds = (max(over["low"], 0.0), min(over["high"], 1.0)) if len(own) > 1 else bounds
            cells[name] = interval(over["mean"], *bounds)
        rows[line] = cells | {"seeds": len(own)}
    return pd.DataFrame(rows).T.reindex(columns=[*names, "seeds"]).fillna("–").rename_axis("line")


def gains(measured: pd.DataFrame, reference: str, names: Sequence[str] = GAINS) -> pd.DataFrame:
    """Measures of each line minus those of the reference, paired by seed: mean and 95 % t interval over seeds."""
    rows = {}
    for line in (line for line in measured["line"].unique() if line != reference):
        sides = [measured[measured["line"] == each].set_index("seed") for each in (line, reference)]
        shared = sides[0].index.intersection(sides[1].index)
        rows[line] = {f"Δ {name}": _difference(*(side.loc[shared, name] for side in sides)) for name in names}
        rows[line]["seeds"] = str(len(shared)) + (" (exploratory)" if len(shared) < 5 else "")
    return pd.DataFrame(rows).T.rename_axis(f"minus {reference}")


def _difference(a: pd.Series, b: pd.Series) -> str:
    over = metrics.over_seeds(a - b)
    return f"{over['mean']:+.3f}" + (f" [{over['low']:+.3f}, {over['high']:+.3f}]" if len(a) > 1 else "")


def budget_curve(measured: pd.DataFrame, runs: Lines) -> Figure | None:
    """Accuracy, AUC and locality against the share of annotated frames, active and random; None below three budgets.

    Means over seeds, bars: 95 % t interval over seeds; lines of one seed have none.
    """
    shares = budgets(runs)
    places = sorted({share for share, _ in shares.values()})
    if len(places) < 3:
        return None
    names = ("accuracy unseen", "AUC unseen", "energy in mask seen", "energy in mask unseen")
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.4))
    for axis, name in zip(axes.flat, names):
        for i, selection in enumerate(dict.fromkeys(how for _, how in shares.values() if how != "both")):
            own = {share: line for line, (share, how) in shares.items() if how in (selection, "both")}
            over = {
                share: metrics.over_seeds(measured.loc[measured["line"] == own[share], name]) for share in sorted(own)
            }
            place = np.array([places.index(share) for share in over]) + 0.12 * (i - 0.5)
            middle = np.array([each["mean"] for each in over.values()])
            bounds = np.array([[each["low"], each["high"]] for each in over.values()]).T
            error = np.nan_to_num(np.abs(bounds - middle))
            axis.errorbar(place, middle, error, fmt="os"[i % 2] + "-", color=PALETTE[i], capsize=3, label=selection)
        axis.set(title=name, xlabel="annotated share of training frames")
        axis.set_xticks(range(len(places)), [f"{100 * share:g} %" for share in places], fontsize=7)
    axes.flat[0].legend(fontsize=7)
    return figure


def attention_panel(runs: dict[str, Run], frames: pd.DataFrame) -> Figure:
    """Frames with their true masks, and over each the attention of runs of LAE, one row a run; the last run's score.

    The colour is the attention above zero by its maximum: where a frame looks fake, not how fake it looks.
    """
    rows, scores = [], None
    for name, run in runs.items():
        batch, shown, masks = as_batch(run, frames)
        maps, scores = attention(run.network(), batch["image"])
        rows.append((name, maps, MAP, True))
    return panel(frames, scores, masks, [("frame, true mask", shown, {}, True), *rows], "share of maximum")


def budgets(runs: Lines) -> dict[str, tuple[float, str]]:
    """Lines of LAE: the share of training frames whose mask was read, and how they were chosen (``both`` at 0 and 1)."""
    found = {}
    for line, group in runs.items():
        settings = group[0].settings
        if group[0].paper == "lae":
            share = settings.annotated if settings.attention_weight else 0.0
            found[line] = (share, "both" if share in (0, 1) else settings.selection)
    return found


def selections(measured: pd.DataFrame, runs: Lines) -> pd.DataFrame:
    """Active minus random selection at each budget that has both: :func:`gains`, one row a budget."""
    by_budget = {budget: line for line, budget in budgets(runs).items()}
    rows = {}
    for share in sorted({share for share, how in by_budget if how == "random"}):
        if (share, "active") in by_budget:
            pair = [by_budget[share, how] for how in ("active", "random")]
            rows[f"{100 * share:g} %"] = gains(measured[measured["line"].isin(pair)], pair[1]).loc[pair[0]]
    return pd.DataFrame(rows).T.rename_axis("annotated")


@torch.inference_mode()
def identities(run: Run, frames: pd.DataFrame) -> pd.DataFrame:
    """The mean of each half's attention over positions, beside the activation less the biases' share: the same number.

    And the same with the units weighted by abs(z) instead of sign(z), which is another. One row a frame.
    """
    network = run.network()
    outputs = network(as_batch(run, frames)[0]["image"])
    latent, bias = (each.unflatten(-1, (2, -1)) for each in (outputs["latent"], network.to_latent.bias))
    share = (latent.sign() * bias).mean(2)
    magnitude = (latent.abs() * (latent - bias)).mean(2)
    columns = {
        "mean of the attention": outputs["attention"].mean((2, 3)),
        "activation less biases": outputs["activation"] - share,
        "mean of the attention by abs(z)": magnitude,
    }
    halves = {
        f"{half}: {name}": value[:, i].numpy()
        for i, half in enumerate(("real", "fake"))
        for name, value in columns.items()
    }
    return pd.DataFrame(halves, index=frames["method"].astype(str)).round(4)
