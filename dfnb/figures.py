"""Tables and figures from score files and records: one style, every caption with n, seeds, interval, data and rule.

A report is ``reports/<profile>/``: ``tables/`` (CSV, Markdown, LaTeX), ``figures/`` (PNG, PDF), the executed
``notebooks/``, the ``runs/`` with what is needed to look without training, and ``index.html``.
"""

import inspect
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython import get_ipython
from IPython.display import Code
from IPython.display import Image as DisplayImage
from jinja2 import Template
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from pandas.io.formats.style import Styler
from sklearn.metrics import roc_curve
from torch.utils.data import default_collate

from dfnb import core, metrics, papers, synth
from dfnb.core import DfnbError
from dfnb.data.frames import FrameDataset, Pixels, dataset_folder, load_frames
from dfnb.metrics import interval
from dfnb.train import Run, score

REFUSED = "refused"  # a cell whose scores are not to be used; the caption says why
WIDTH = 7.0  # inches: the text width of an A4 page, and of a JupyterLab column
PALETTE = sns.color_palette("colorblind")
JPEG = {"quality": 85}


def style() -> None:
    """One look for all figures: colour-blind palette, vector text, thin grid; and tables that a notebook does not cut."""
    pd.set_option("display.max_colwidth", 300, "display.max_columns", 40, "display.max_rows", 200)
    sns.set_theme(context="paper", style="whitegrid", palette=PALETTE)
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 120,
            "figure.constrained_layout.use": True,
            "pdf.fonttype": 42,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )
    if get_ipython():  # a panel of frames is a tenth of its PNG, and an executed notebook stays readable in a browser
        set_matplotlib_formats("jpeg", pil_kwargs=JPEG)


def label(run: Run) -> str:
    """A run's name in tables and legends: the paper and the backbone, which in the small profiles is not Xception."""
    return f"{papers.PAPERS[run.paper].title} ({run.record['parameters']['settings']['backbone']})"


def folder(profile: str) -> Path:
    """``reports/<profile>`` under the home."""
    return core.home() / "reports" / profile


def read(run: Run, test_set: str) -> pd.DataFrame:
    """The scores of a run on a test set, read and checked once; ``attrs`` is their record. Not to be changed.

    Of a run under ``runs/`` they are made now where they are missing or of another version of the dataset. Those in a
    report stand by themselves: :class:`DfnbError` where they are missing, altered, or of another version or number of
    frames than most. Those of another tool (:func:`other_tools`) are read like the first of ours that is sound.
    """
    if "like" in run.record:
        paths = [run.folder / f"{test_set}{kind}" for kind in (".parquet", ".csv")]
        path = paths[not paths[0].exists()]
        if not (ours := [table for own in run.record["like"] if (table := held(own, test_set)) is not None]):
            raise DfnbError(
                f"{path} cannot be checked: no score file of ours on {test_set} is sound; mend one of these"
            )
        return metrics.read_other(path, ours[0])
    kept = run.folder / "scores" / f"{test_set}.parquet"
    files = [kept, kept.with_suffix(".json"), dataset_folder(test_set) / "record.json"]
    return _read(run.folder, test_set, *(path.stat().st_mtime_ns if path.exists() else 0 for path in files))


def held(run: Run, test_set: str) -> pd.DataFrame | None:
    """:func:`read`, or None where they are refused."""
    return _try(read, run, test_set, hole=None)


def _try(make: Callable, *arguments: Any, hole: Any = REFUSED) -> Any:
    try:
        return make(*arguments)
    except DfnbError:
        return hole


@cache
def _read(folder: Path, test_set: str, *stamps: int) -> pd.DataFrame:
    path = folder / "scores" / f"{test_set}.parquet"
    if made_here := folder.parent == core.home() / "runs":
        score(Run.open(folder), test_set)
    if not (path.exists() and path.with_suffix(".json").exists()):
        raise DfnbError(f"{path} or its record is not there; train and score the run, then publish it again")
    facts, table = core.read_json(path.with_suffix(".json")), metrics.read_scores(path)
    if facts["sha256"] != core.sha256(path) or facts["n"] != len(table):
        raise DfnbError(f"{path} is not the file that its record describes; score the run again")
    others = map(core.read_json, folder.parent.glob(f"*/scores/{test_set}.json"))
    ours, most = (
        (facts["fingerprint"], facts["n"]),
        Counter(sorted((each["fingerprint"], each["n"]) for each in others)),
    )
    if not made_here and ours != (usual := most.most_common(1)[0][0]):
        what = (
            f"{ours[1]} frames of version {ours[0][:8]} of {test_set}, not {usual[1]} of {usual[0][:8]} as most others"
        )
        raise DfnbError(f"{path} has {what}; score the run again")
    table.attrs = {**facts, "file": str(path)}
    return table


def other_tools(profile: str, like: Sequence[Run]) -> dict[str, list[Run]]:
    """Lines for the scores of other tools: ``reports/<profile>/other/<tool>/<test set>.csv`` or ``.parquet``.

    ``like`` are runs of ours, whose scores say which videos each test set has.
    """
    lines = {}
    for path in sorted(path for path in (folder(profile) / "other").glob("[!.]*") if path.is_dir()):
        parameters = {"paper": path.name, "train_set": "not stated", "seed": None, "settings": {"backbone": path.name}}
        facts = {"rule": f"that of {path.name}", "weights_from": "elsewhere", "chosen": {"epoch": None}}
        lines[path.name] = [Run(path, {"parameters": parameters, "like": like, **facts})]
    return lines


def save_figure(figure: Figure, profile: str, name: str, caption: str) -> list[Path]:
    """Save a figure as PNG and PDF with its caption beside it; the same figure gives the same bytes."""
    stem = folder(profile) / "figures" / name
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf"), stem.with_suffix(".txt")]
    for path, metadata in zip(
        paths[:2], ({"Software": None}, {"CreationDate": None, "Producer": None, "Creator": None})
    ):
        with core.atomic(path) as temporary:
            figure.savefig(temporary, metadata=metadata)
    with core.atomic(paths[2]) as temporary:
        temporary.write_text(caption + "\n")
    return paths


def described(paths: Sequence[Path]) -> DisplayImage:
    """What :func:`save_figure` saved, as a notebook shows it: the picture, its caption the alternative text."""
    plt.close("all")
    _, content = cv2.imencode(".jpg", cv2.imread(str(paths[0])), [cv2.IMWRITE_JPEG_QUALITY, JPEG["quality"]])
    return DisplayImage(content.tobytes(), format="jpeg", alt=paths[2].read_text().strip())


def save_table(table: pd.DataFrame, profile: str, name: str, caption: str) -> list[Path]:
    """Save a table as CSV (plain), Markdown and LaTeX (booktabs; needs graphicx) with the caption, and the caption alone."""
    stem = folder(profile) / "tables" / name
    plain = table.reset_index() if any(table.index.names) else table.rename_axis("").reset_index()
    plain.columns = [", ".join(map(str, each)).strip(", ") if isinstance(each, tuple) else each for each in plain]
    latex = plain.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    text = [place for place, column in enumerate(plain) if set(plain[column].map(type)) == {str}]
    long = [plain[column].astype(str).str.len().max() > 40 for column in plain]
    texts = {
        ".csv": table.to_csv(),
        ".md": f"{plain.to_markdown(index=False, disable_numparse=text)}\n\n{caption}\n",
        ".tex": latex.to_latex(
            hrules=True,
            column_format="".join("p{4cm}" if wide else "l" for wide in long),
            caption=_latex(caption),
            label=f"tab:{name}",
            position_float="centering",
        ),
        ".txt": caption + "\n",
    }
    texts[".tex"] = texts[".tex"].replace(r"\begin{tabular}", r"\resizebox{\linewidth}{!}{\begin{tabular}")
    texts[".tex"] = texts[".tex"].replace(r"\end{tabular}", r"\end{tabular}}")
    for sign, command in LATEX.items():
        texts[".tex"] = texts[".tex"].replace(sign, command)
    for suffix, text in texts.items():
        with core.atomic(stem.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
    return [stem.with_suffix(suffix) for suffix in texts]


LATEX = {"Δ": r"$\Delta$", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "±": r"$\pm$", "→": r"$\to$"}


def _latex(text: str) -> str:
    for plain in "&%$#_":
        text = text.replace(plain, f"\\{plain}")
    return text


def results(runs: "Lines", test_sets: Sequence[str]) -> pd.DataFrame:
    """All metrics of all runs on all test sets, one row each, with what every number must carry.

    Columns of :func:`dfnb.metrics.metrics`, and line, paper, train_set, test_set, seed, backbone, weights_from, rule,
    compression and fingerprint of the test set. Refused scores have no rows.
    """
    rows = []
    for name, group in lines(runs).items():
        for run, test_set in product(group, test_sets):
            if (table := held(run, test_set)) is not None:
                rows.append(metrics.metrics(table).assign(line=name, **_facts(run, test_set)))
    return pd.concat(rows, ignore_index=True)


def _facts(run: Run, test_set: str) -> dict:
    parameters = run.record["parameters"]
    return {
        "paper": run.paper,
        "train_set": parameters["train_set"],
        "test_set": test_set,
        "seed": parameters["seed"],
        "run": run.folder.name,
        "backbone": parameters["settings"]["backbone"],
        "weights_from": run.record["weights_from"],
        "rule": run.record["rule"],
        "epoch": run.record["chosen"]["epoch"],
        "compression": _compression(test_set, core.home()),
        "fingerprint": read(run, test_set).attrs["fingerprint"],
    }


@cache
def _compression(test_set: str, home: Path) -> str:
    if record := core.read_record(dataset_folder(test_set)):
        return record.get("compression", "as delivered")
    known = test_set in core.described("synth")  # a report is read without its datasets, too
    return synth.preset(test_set).delivery.compression if known else "compression not recorded"


Lines = Iterable[Run] | dict[str, list[Run]]  # runs, or runs by the name of their line, as run.arms gives them


def lines(runs: Lines) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seed, by the name of their line in a table; papers in the registry's order."""
    if isinstance(runs, dict):
        return runs
    groups: dict[str, list[Run]] = {}
    order = list(papers.PAPERS)
    for run in sorted(runs, key=lambda run: (order.index(run.paper), run.record["parameters"]["seed"])):
        p = run.record["parameters"]  # a phase before, of which ``start`` tells, has the seed too
        rest = {name: value for name, value in p.items() if name not in ("seed", "start")}
        groups.setdefault(core.digest(rest, 6), []).append(run)
    labels = [label(group[0]) for group in groups.values()]
    named = {}
    for name, (setting, group) in zip(labels, groups.items()):
        trained_on = group[0].record["parameters"]["train_set"]
        named[name if labels.count(name) == 1 else f"{name}, {trained_on}, settings {setting}"] = group
    return named


def seeds(runs: Iterable[Run]) -> list[int]:
    """The seeds of runs, in order; none of other tools."""
    return sorted({run.record["parameters"]["seed"] for run in runs} - {None})


def tables(runs: Iterable[Run], test_set: str) -> list[pd.DataFrame]:
    """The scores of runs on a test set."""
    return [read(run, test_set) for run in runs]


def cross_dataset(runs: Lines, test_sets: Sequence[str], level: metrics.Level = "video") -> pd.DataFrame:
    """The matrix of lines × test sets: mean AUC over the seeds, its 95 % interval over clusters, and the sd over seeds.

    Then how many seeds, and how many of them left chance on the first test set.
    """
    rows = {}
    for name, group in lines(runs).items():
        cells = {test_set: _try(_cell, group, test_set, level) for test_set in test_sets}
        rows[name] = cells | {"seeds": len(group), "left chance": _try(_left_chance, group, test_sets[0])}
    return pd.DataFrame(rows).T.rename_axis(f"{level} AUC")


def _cell(group: Sequence[Run], test_set: str, level: metrics.Level) -> str:
    found = tables(group, test_set)
    row = metrics.auc(found, level)
    text = interval(row["value"], row["low"], row["high"])
    if len(found) == 1:
        return text
    return f"{text} sd {metrics.over_seeds([metrics.auc(table, level)['value'] for table in found])['sd']:.3f}"


def _left_chance(group: Sequence[Run], test_set: str) -> str:
    return f"{sum(not metrics.chance(table) for table in tables(group, test_set))} of {len(group)}"


def differences(
    runs: Lines, test_sets: Sequence[str], level: metrics.Level = "video", every: bool = False
) -> pd.DataFrame:
    """AUC of each line minus that of the first one on the same videos, with 95 % interval and p; ``every`` pair if asked.

    Both sides with the seeds they share. Holm's p is corrected for the number of rows. The column of the rule that the
    published codes use holds the difference when both sides choose their epoch on the test set; it is empty where the
    scores of those epochs were not kept.
    """
    groups = lines(runs)
    pairs = [(b, a) for a, b in combinations(groups, 2) if every or a == next(iter(groups))]
    rows = []
    for (name, other), test_set in product(pairs, test_sets):
        sides = shared_seeds(groups[name], groups[other])
        row = {"line": name} | ({"minus": other} if every else {}) | {"test set": test_set}
        rows.append(row | _try(_difference, *sides, test_set, level, hole={f"Δ {level} AUC": REFUSED}))
        rows[-1]["left chance"] = _try(_left_chance, sides[0], test_sets[0])
    for row, p in zip(rows, metrics.holm([row.get("p", np.nan) for row in rows])):
        row |= {"p": _p(row.get("p", np.nan)), "p, Holm": _p(p)}
    return _by_line(rows, ["line", *["minus"] * every, "test set"]).fillna("–")


def shared_seeds(*sides: Sequence[Run]) -> list[list[Run]]:
    """Each side with the seeds that both have; whole where they share none."""
    shared = set.intersection(*(set(seeds(side)) for side in sides))
    return [[run for run in side if not shared or run.record["parameters"]["seed"] in shared] for side in sides]


def _p(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _difference(a: Sequence[Run], b: Sequence[Run], test_set: str, level: metrics.Level) -> dict:
    d = metrics.paired_difference(tables(a, test_set), tables(b, test_set), level)
    best = [[chosen_on_test(run, test_set, level) for run in side] for side in (a, b)]
    known = all(found for side in best for found in side)
    on_test = metrics.paired_difference(*([found[1] for found in side] for side in best), level) if known else None
    return {
        f"Δ {level} AUC": f"{d['value']:+.3f}",
        "95 % interval": f"[{d['low']:+.3f}, {d['high']:+.3f}]",
        "p": d["p"],
        "p, Holm": "",
        "seeds": str(len(a)) + (" (exploratory)" if len(a) == 1 else ""),
        "left chance": "",
        "Δ, chosen on test": f"{on_test['value']:+.3f}" if on_test else "–",
        f"n {level}s": d["n"],
        "clusters": d["clusters"],
    }


def _by_line(rows: list[dict], index: Sequence[str] = ("line", "test set")) -> pd.DataFrame:
    index = list(index)
    none = pd.DataFrame(index=pd.MultiIndex.from_arrays([[]] * len(index), names=index))
    return pd.DataFrame(rows).set_index(index) if rows else none


def located(runs: Lines, test_sets: Sequence[str]) -> pd.DataFrame:
    """How well the lines that localise find the forged region: mean over fake frames and seeds, 95 % interval."""
    rows = {}
    for name, group in lines(runs).items():
        for test_set in test_sets:
            found = _try(lambda *where: metrics.located(tables(*where)), group, test_set, hole=[])
            cells = {row["metric"]: interval(row["value"], row["low"], row["high"]) for row in found}
            if cells:
                rows[name, len(seeds(group)), test_set] = cells
    index = pd.MultiIndex.from_tuples(rows, names=["line", "seeds", "test set"]) if rows else None
    return pd.DataFrame(list(rows.values()), index=index, columns=list(metrics.LOCALISATION.values()))


def chosen_on_test(run: Run, test_set: str, level: metrics.Level = "video") -> tuple[int, pd.DataFrame] | None:
    """The epoch with the best AUC on the test set itself and its scores; None where not every epoch's were kept."""
    paths = sorted((run.folder / "epochs").glob(f"*/{test_set}.parquet"))
    epochs = [metrics.read_scores(path) for path in paths]
    aucs = [metrics.auc(table, level)["value"] for table in epochs]
    best = max(range(len(aucs)), key=aucs.__getitem__, default=None)
    return None if best is None else (int(paths[best].parent.name), epochs[best])


def selection(runs: Lines, test_sets: Sequence[str], level: metrics.Level = "video") -> pd.DataFrame:
    """What choosing the checkpoint on the test set gains: AUC by both rules, for runs with the scores of every epoch.

    The second rule is that of some published codes; its figure is biased upwards. Means over the seeds; the gain with the
    interval of a paired difference, since both rules score the same videos.
    """
    rows = []
    for name, group in lines(runs).items():
        for test_set in test_sets:
            best = [chosen_on_test(run, test_set, level) for run in group]
            if not all(best) or any(held(run, test_set) is None for run in group):
                continue
            sides = [[found[1] for found in best], tables(group, test_set)]
            on_test, on_validation = (metrics.auc(side, level) for side in sides)
            gain = metrics.paired_difference(*sides, level)
            rows.append(
                {
                    "line": name,
                    "test set": test_set,
                    "source validation": interval(*(on_validation[key] for key in ("value", "low", "high"))),
                    "its epoch": ", ".join(str(run.record["chosen"]["epoch"]) for run in group),
                    "chosen on test": interval(*(on_test[key] for key in ("value", "low", "high"))),
                    "that epoch": ", ".join(str(found[0]) for found in best),
                    "gain": f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
                    "seeds": len(group),
                }
            )
    return _by_line(rows)


def conditions(runs: Lines, test_sets: Sequence[str], profile: str) -> str:
    """The sentence under every table: n, seeds, interval, data, compression, rule, weights and command."""
    groups = lines(runs)
    runs = [run for group in groups.values() for run in group]
    sizes, refused = [], []
    for test_set in test_sets:
        for group in groups.values():
            try:
                row = metrics.auc(tables(group, test_set))
            except DfnbError as error:
                refused.append(str(error).replace(f"{core.home()}/", ""))
                continue
            if not sizes or sizes[-1].split()[0] != test_set:
                facts = _facts(group[0], test_set)
                sizes.append(
                    f"{test_set} {row['n_real']} real + {row['n_fake']} fake videos in {row['clusters']} clusters "
                    f"({facts['compression']}, data {facts['fingerprint'][:8]})"
                )
    runs = [run for run in runs if any(held(run, test_set) is not None for test_set in test_sets)]
    sound = [table for run in runs if (table := held(run, test_sets[0])) is not None]
    lost = sum(map(metrics.chance, sound))
    warning = f" {lost} of {len(runs)} runs never left chance on {test_sets[0]}." if lost else ""
    warning += f" Refused: {'; '.join(refused)}." if refused else ""
    rules = sorted({run.record["rule"] for run in runs})
    given = [run.record["parameters"] for run in runs]
    weights = {f"{p['settings']['backbone']} from {run.record['weights_from']}" for p, run in zip(given, runs)}
    return (
        f"Trained on {', '.join(sorted({p['train_set'] for p in given}))}, "
        f"seeds: {', '.join(map(str, seeds(runs)))}. "
        f"Intervals: 95 %, over clusters of videos (dfnb.metrics). Test: {'; '.join(sizes)}. "
        f"Checkpoint: {'; '.join(rules)}. Backbone: {'; '.join(sorted(weights))}. Made by `dfnb run {profile}`.{warning}"
    )


def forest(runs: Lines, test_sets: Sequence[str], level: metrics.Level = "video") -> Figure:
    """AUC with interval, one dot a paper and test set."""
    groups = lines(runs)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6 + 0.5 * len(test_sets)))
    drawn: set[str] = set()
    for i, (name, group) in enumerate(groups.items()):
        shift = (i - (len(groups) - 1) / 2) * min(0.22, 0.8 / len(groups))
        for place, test_set in enumerate(test_sets):
            if any(held(run, test_set) is None for run in group):
                continue
            row = metrics.auc(tables(group, test_set), level)
            error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            axes.errorbar(
                row["value"],
                place + shift,
                xerr=error,
                fmt="osD^vP*Xph"[i % 10],
                color=PALETTE[i % len(PALETTE)],
                capsize=3,
                label=name if name not in drawn else None,
            )
            drawn.add(name)
    axes.axvline(0.5, color="0.4", linestyle=":", linewidth=1)
    axes.annotate(
        "chance", (0.5, -0.45), ha="left", va="top", fontsize=7, color="0.4", xytext=(2, 0), textcoords="offset points"
    )
    axes.set(yticks=range(len(test_sets)), yticklabels=test_sets, xlabel=f"{level} AUC, 95 % interval", xlim=(0.4, 1.0))
    axes.set_ylim(len(test_sets) - 0.5, -0.5)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2 if len(groups) < 5 else 3)
    return figure


def roc(runs: Lines, test_sets: Sequence[str]) -> Figure:
    """ROC over videos, one panel a test set; thin lines are seeds."""
    size = (WIDTH, WIDTH / len(test_sets) + 0.5)
    figure, panels = plt.subplots(1, len(test_sets), figsize=size, sharey=True, squeeze=False)
    for axes, test_set in zip(panels[0], test_sets):
        for i, (name, group) in enumerate(lines(runs).items()):
            for run in (run for run in group if held(run, test_set) is not None):
                videos = metrics.units(read(run, test_set), "video")
                fpr, tpr, _ = roc_curve(videos["label"], videos["score"])
                style_of = ["-", "--", "-.", ":"][i % 4]
                axes.plot(
                    fpr,
                    tpr,
                    style_of,
                    color=PALETTE[i % len(PALETTE)],
                    linewidth=1.2,
                    label=name if run is group[0] else None,
                )
        grid = np.geomspace(0.005, 1)
        axes.plot(grid, grid, ":", color="0.5", linewidth=0.8)
        axes.set(title=test_set, xlabel="FPR, log scale", xscale="log", xlim=(0.005, 1), ylim=(-0.01, 1.01))
    panels[0, 0].set_ylabel("TPR")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def training_curves(runs: Sequence[Run]) -> Figure:
    """Loss terms, and validation AUC with the chosen epoch, by epoch; a phase goes on where the one it started from ended."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8))
    looks = iter(zip(["-", "--", ":", "-."] * 2, "osD^vP*X"))
    terms: dict[str, tuple[str, str]] = {}
    for i, run in enumerate(runs):
        started = run.record["parameters"].get("start", {}).get("run")
        before = sum(len(each.log) for each in runs if each.folder.name == started)
        log, chosen = run.log, run.record["chosen"]
        epochs, own = log["epoch"] + before, [column for column in log if column.startswith("loss_")]
        for term in own[:1] if len(own) == 2 else own:  # one term and the total, which is the same
            if term not in terms:
                terms[term] = next(looks)
            line, marker = terms[term]
            left.plot(epochs, log[term], line, marker=marker, markersize=3, color=PALETTE[i])
        name = f"{label(run)}, seed {run.record['parameters']['seed']}{', second phase' if before else ''}"
        right.plot(epochs, log["validation_auc"], "o-", color=PALETTE[i], markersize=3, label=name)
        best = chosen["epoch"] + before
        right.plot(best, chosen["auc"], "*", color=PALETTE[i], markersize=13, markeredgecolor="white")
    for term, (line, marker) in terms.items():
        left.plot([], [], line, marker=marker, markersize=3, color="0.3", label=term.removeprefix("loss_"))
    left.set(title="training loss", xlabel="epoch", ylim=(0, None))
    right.set(title="validation frame AUC, chosen epoch starred", xlabel="epoch", ylim=(0.45, 1))
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=6.5)
    return figure


def outline(axes: plt.Axes, mask: np.ndarray) -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=["black"], linewidths=2.2)
        axes.contour(mask, levels=[0.5], colors=["white"], linewidths=1.0)


def sample_grid(name: str, split: str = "test", columns: int = 8) -> Figure:
    """Frames of a dataset, one row a method, the exact mask outlined; chosen evenly over the videos."""
    frames = load_frames(name)
    frames = frames[frames["split"] == split]
    methods = ["real", *sorted(set(frames["method"].astype(str)) - {"real"})]
    pixels = Pixels(frames.attrs["folder"])
    size = WIDTH / columns
    figure, axes = plt.subplots(len(methods), columns, figsize=(WIDTH, size * len(methods) + 0.2), squeeze=False)
    for line, method in zip(axes, methods):
        own = frames[frames["method"] == method].drop_duplicates("video")
        chosen = own.iloc[np.unique(np.linspace(0, len(own) - 1, columns).round().astype(int))]
        for cell in line[len(chosen) :]:
            cell.set_axis_off()
        for cell, (_, row) in zip(line, chosen.iterrows()):
            crop = pixels.crop(row["path"], row["row"])
            cell.imshow(crop)
            outline(cell, pixels.mask(row["mask"], row["row"], crop.shape[:2]))
            cell.set(xticks=[], yticks=[])
        line[0].set_ylabel(method)
    return figure


def source(code: type | Callable) -> Code:
    """The source of a class or function, as a notebook shows it: displayed, never retyped."""
    return Code(inspect.getsource(code), language="python")


def readable(table: pd.DataFrame, sentences: str) -> Styler:
    """A table as a notebook shows it where one of its columns holds sentences: that one wide, and aligned as text is."""
    return table.reset_index().style.hide().set_properties([sentences], **{"text-align": "left", "min-width": "18em"})


def overview(runs: Iterable[Run], home: str) -> pd.DataFrame:
    """One line a run: what was trained, from what, on how much, which epoch was chosen, and whether it left chance."""
    rows = {}
    for run in (run for run in runs if "training_s" in run.record):
        record = run.record
        rows[run.folder.name] = {
            "backbone": record["parameters"]["settings"]["backbone"],
            "from": record["weights_from"],
            "training frames": record["n"]["train"],
            "chosen epoch": f"{record['chosen']['epoch']} of {len(run.log)}",
            "validation AUC": f"{record['chosen']['auc']:.3f}",
            "left chance": _try(lambda *where: "no" if metrics.chance(read(*where)) else "yes", run, home),
            "images/s": round(record["images_per_s"]),
            "training s": round(record["training_s"]),
        }
    return pd.DataFrame(rows).T.rename_axis("run")


def by_method(run: Run, test_sets: Sequence[str], level: metrics.Level = "video") -> pd.DataFrame:
    """AUC of each manipulation method against the real videos of the same test set; empty where a set has it not."""
    rows: dict[str, dict[str, str]] = {}
    for test_set in test_sets:
        table = read(run, test_set)
        for method in sorted(set(table["method"].astype(str)) - {"real"}):
            row = metrics.auc(table[table["method"].isin(["real", method])], level)
            rows.setdefault(method, {})[test_set] = interval(row["value"], row["low"], row["high"])
    return pd.DataFrame(rows).T.reindex(columns=list(test_sets)).fillna("–").rename_axis(f"{level} AUC")


def as_batch(run: Run, frames: pd.DataFrame) -> tuple[dict[str, torch.Tensor], np.ndarray, np.ndarray]:
    """A batch as the run's network gets it, its images as uint8 pictures, and its masks."""
    settings = run.settings
    data = FrameDataset(frames, settings.image_size, settings.mean, settings.std)
    batch = default_collate([data[(0, i, i)] for i in range(len(data))])
    shown = batch["image"].numpy().transpose(0, 2, 3, 1) * settings.std + settings.mean
    return batch, (shown.clip(0, 1) * 255).astype(np.uint8), batch["mask"][:, 0].numpy()


Pictures = Sequence[tuple[str, np.ndarray, dict, bool]]
MAP = {"cmap": "cividis", "vmin": 0, "vmax": 1}


def panel(frames: pd.DataFrame, scores: np.ndarray, masks: np.ndarray, rows: Pictures, legend: str) -> Figure:
    """One column a frame, one row of pictures each; the frame's exact mask is outlined where a row asks for it.

    ``rows``: name, pictures (n, h, w) or (n, H, W, 3), keywords of ``imshow``, outlined. ``legend`` is of the last row.
    """
    size = WIDTH / (max(len(frames), 5) + 0.6)
    figure, axes = plt.subplots(len(rows), len(frames), figsize=(WIDTH, len(rows) * size + 0.35), squeeze=False)
    for line, (name, pictures, how, outlined) in zip(axes, rows):
        for axis, picture, mask in zip(line, pictures, masks):
            if picture.ndim == 2:
                picture = cv2.resize(picture, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            drawn = axis.imshow(picture, **how)
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            if outlined:
                outline(axis, mask)
        line[0].set_ylabel(name, fontsize=7)
    for axis, row, p in zip(axes[0], frames.itertuples(), scores):
        axis.set_title(f"{row.method}\nP(fake) {p:.2f}", fontsize=7, fontweight="normal")
    figure.colorbar(drawn, ax=axes[-1, :], shrink=0.9, aspect=12).set_label(legend.replace(" ", "\n", 1), fontsize=7)
    return figure


@torch.inference_mode()
def located_panel(run: Run, frames: pd.DataFrame) -> Figure:
    """Frames, what the second stream of Locate and Verify sees, with SSPSL the pseudo-labels, and the located patches.

    The pseudo-labels are those of the shown frames as one batch. The colour is P(forged) in [0, 1].
    """
    network = run.network()
    batch, shown, masks = as_batch(run, frames)
    outputs = network(batch["image"])
    residual = network.residual(batch["image"]).abs().mean(1).numpy()
    grey = {"cmap": "gray", "vmin": 0, "vmax": np.quantile(residual, 0.99)}
    rows = [("frame, true mask", shown, {}, True), ("SRM residual", residual, grey, False)]
    if run.settings.sspsl:
        pseudo = network.pseudo(outputs, batch).float()
        rows.append(("pseudo-labels", pseudo.where(pseudo != papers.IGNORED, torch.nan).numpy(), MAP, True))
    rows.append(("located", network.localise(outputs).numpy(), MAP, True))
    return panel(frames, network.score(outputs).numpy(), masks, rows, "P(forged)")


def mean_masks(name: str) -> Figure:
    """The mean mask of each method over the test split: how often each place is forged, in [0, 1]."""
    frames = load_frames(name)
    fakes = frames[(frames["split"] == "test") & (frames["label"] == 1) & (frames["mask"].astype(str) != "")]
    pixels, methods = Pixels(frames.attrs["folder"]), sorted(set(fakes["method"].astype(str)))
    figure, axes = plt.subplots(1, len(methods), figsize=(WIDTH, WIDTH / max(len(methods), 4)), squeeze=False)
    for axis, method in zip(axes[0], methods):
        own = fakes[fakes["method"] == method]
        shape = pixels.crop(own["path"].iloc[0], own["row"].iloc[0]).shape[:2]
        mean = np.mean([pixels.mask(path, row, shape) for path, row in zip(own["mask"], own["row"])], axis=0)
        drawn = axis.imshow(mean, cmap="cividis", vmin=0, vmax=1)
        axis.set(title=f"{method}\n{mean.mean():.0%} of pixels", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes[0], label="share of frames", shrink=0.7)
    return figure


def published() -> pd.DataFrame:
    """What ``published.csv`` has of the papers here, and of DeepfakeBench's Xception: value, source, how it was read.

    Values are fractions, also where the source prints per cent.
    """
    table = pd.read_csv(core.find("data_manifest") / "published.csv")
    table = table.rename(columns={"level(frame/video/image)": "level"})
    ours = tuple(entry.published for entry in papers.PAPERS.values())
    baseline = table["paper"].str.startswith(papers.PAPERS["xception"].published)
    found = table[table["paper"].str.startswith(ours) & (~baseline | (table["method"] == "Xception (Xception)"))].copy()
    percent = found["metric"].str.contains("%")
    found.loc[percent, "value"] /= 100
    found["metric"] = found["metric"].str.replace(" (%)", "")
    columns = ["paper", "method", "train_set", "test_set", "metric", "level", "value", "source", "confidence"]
    return found[columns].set_index("paper")


def deviations(run: Run) -> pd.DataFrame:
    """The settings of a run that differ from the published ones, which are the defaults of the paper's ``Settings``."""
    used, defaults = run.settings.model_dump(), papers.module(run.paper).Settings().model_dump()
    rows = {name: {"published": str(defaults[name]), "this run": str(value)} for name, value in used.items()}
    rows["initial weights"] = {"published": "ImageNet", "this run": run.record["weights_from"]}
    table = pd.DataFrame(rows).T
    return table[table["published"] != table["this run"]].rename_axis("setting")


def verdicts(paired: pd.DataFrame) -> str:
    """The table of :func:`differences` in one line of text each: where the interval is above, below and across zero."""
    lines = []
    for pair, table in paired.groupby(level=list(range(paired.index.nlevels - 1)), sort=False):
        sets: dict[str, list[str]] = {"above zero": [], "below zero": [], "undecided": []}
        for (*_, test_set), text in table[table["95 % interval"] != "–"]["95 % interval"].items():
            low, high = (float(bound) for bound in text.strip("[]").split(","))
            sets["above zero" if low > 0 else "below zero" if high < 0 else "undecided"].append(test_set)
        said = (f"{kind}: {', '.join(names) or 'none'}" for kind, names in sets.items())
        lines.append(f"{' − '.join(pair)}: " + "; ".join(said))
    return "\n".join(lines)


def panel_frames(name: str, methods: Sequence[str] | None = None, columns: int = 6) -> pd.DataFrame:
    """Test frames for a panel, the middle one of each method's first videos, real last, about ``columns`` in all."""
    frames = load_frames(name)
    test = frames[frames["split"] == "test"]
    if methods is None:
        methods = [*sorted(set(test["method"].astype(str)) - {"real"}), "real"]
    parts = []
    for method in methods:
        own = test[test["method"] == method]
        for video in own["video"].drop_duplicates().iloc[: max(1, columns // len(methods))]:
            of_video = own[own["video"] == video]
            parts.append(of_video.iloc[[len(of_video) // 2]])
    return pd.concat(parts)


def publish(runs: Iterable[Run], arms: Iterable[Run], profile: str) -> None:
    """Copy what a reader needs to look without training into the report: records, logs and scores of all runs.

    Of the scores of every epoch those of the best ones on each test set, which is all that :func:`chosen_on_test` needs.
    And the weights of the first seed of each line of ``runs``. The report's ``runs`` are replaced as a whole, so that
    none of an earlier execution stays among them.
    """
    whole = {group[0].folder: group[0] for group in lines(runs).values()}
    every = {run.folder: run for run in [*runs, *arms]}.values()
    started_from = {run.record["parameters"].get("start", {}).get("run") for run in every}
    with core.atomic_folder(folder(profile) / "runs") as target:
        for run in every:
            names = [path.relative_to(run.folder) for path in sorted((run.folder / "scores").glob("[!.]*"))]
            names = [] if run.folder.name in started_from else names  # a phase that no table is about
            kept = {path.stem for path in (run.folder / "epochs").glob("*/*.parquet")}
            best = {(chosen_on_test(run, of, level)[0], of) for of in kept for level in metrics.KEY}
            names += [f"epochs/{epoch:03d}/{of}.parquet" for epoch, of in sorted(best)]
            names += ["record.json", "config.yaml", "log.csv", *["best.safetensors"] * (run.folder in whole)]
            for name in names:
                (target / run.folder.name / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.folder / name, target / run.folder.name / name)


def main_table(profile: str) -> str:
    """The main table as Markdown, with its caption; raises :class:`DfnbError` when it was not made."""
    table = core.find(f"reports/{profile}") / "tables" / "cross_dataset.md"
    if not table.exists():
        raise DfnbError(f"{table} does not exist; run the profile first: dfnb run {profile}")
    return table.read_text()


def index(profile: str, title: str, about: str, order: Sequence[str], notebooks: Sequence[str]) -> Path:
    """Write ``index.html``: tables and figures named in ``order`` with their captions, links to the notebooks."""
    report, items = folder(profile), []
    for name in order:
        for kind, files in (("tables", ("csv", "md", "tex")), ("figures", ("png", "pdf"))):
            stem = report / kind / name
            if stem.with_suffix(f".{files[0]}").exists() and (kind == "figures" or len(pd.read_csv(f"{stem}.csv"))):
                item = {"name": name, "folder": kind, "files": files}
                item["caption"] = stem.with_suffix(".txt").read_text().strip()
                if kind == "tables":
                    cells = pd.read_csv(stem.with_suffix(".csv"), dtype=str, keep_default_na=False)
                    item["table"] = cells.to_html(index=False, border=0)
                items.append(item)
    template = Template((Path(__file__).parent / "report.html.jinja").read_text(), autoescape=True)
    with core.atomic(report / "index.html") as temporary:
        temporary.write_text(template.render(title=title, about=about, items=items, notebooks=notebooks))
    return report / "index.html"
